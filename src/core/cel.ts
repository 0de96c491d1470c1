// CEL as rules and predicates use it. Invariant: `matches` is RE2 as the language's definition says, so its time is linear in
// the text. The library's own is JavaScript's engine, which an argument of an agent could hold up for hours; so each call of
// it is led to ours. Source: https://github.com/google/cel-spec, "Regular expressions".
import { Environment } from "@marcbachmann/cel-js";
import { RE2JS } from "re2js";
import { AppError, messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { isObject } from "../kit/json.ts";
import type { Json } from "../kit/json.ts";

const LINEAR = "re2_matches";
const PATTERNS_KEPT = 1_000;
const patterns = new Map<string, RE2JS>();

/** Throws for what RE2 does not know, such as lookahead and back references. */
function compiled(pattern: string): RE2JS {
  let known = patterns.get(pattern);
  if (!known) {
    known = RE2JS.compile(pattern);
    // A pattern may be made of arguments: what is kept has an end.
    if (patterns.size >= PATTERNS_KEPT) patterns.clear();
    patterns.set(pattern, known);
  }
  return known;
}

/** A call of a method: its name, its receiver, its arguments. */
interface MethodCall {
  args: [name: string, receiver: unknown, args: { op: string; args: unknown }[]];
}

function isMatches(node: object): node is MethodCall {
  if (!("op" in node) || node.op !== "rcall" || !("args" in node) || !Array.isArray(node.args)) return false;
  const [name, , args] = node.args as unknown[];
  return name === "matches" && Array.isArray(args) && args.length === 1;
}

/** Leads every `matches` of an expression to the linear engine; a pattern that is written out is compiled at once. */
function useLinear(ast: unknown, fail: (message: string) => AppError): void {
  const seen = new Set<object>();
  const walk = (node: unknown): void => {
    if (typeof node !== "object" || node === null || seen.has(node)) return;
    seen.add(node);
    if (isMatches(node)) {
      node.args[0] = LINEAR;
      const [pattern] = node.args[2];
      if (pattern?.op === "value" && typeof pattern.args === "string") {
        try {
          compiled(pattern.args);
        } catch (error) {
          throw fail(`matches(${JSON.stringify(pattern.args)}): ${messageOf(error)} (RE2 syntax)`);
        }
      }
    }
    for (const value of Object.values(node)) walk(value);
  };
  walk(ast);
}

/** An environment in which expressions are compiled by `compileExpression`. */
export function celEnvironment(): Environment {
  return new Environment({
    homogeneousAggregateLiterals: false,
    enableOptionalTypes: true,
    limits: { maxAstNodes: 2_000, maxDepth: 64, maxListElements: 1_000, maxMapEntries: 200, maxCallArguments: 32 },
  }).registerFunction(`string.${LINEAR}(string): bool`, (text: string, pattern: string) =>
    compiled(pattern).matcher(text).find(),
  );
}

/** Compiles an expression that gives true or false. Throws EXPRESSION_INVALID with what is wrong. */
export function compileExpression(
  environment: Environment,
  expression: string,
): (context: Record<string, unknown>) => unknown {
  const fail = (message: string) =>
    new AppError("EXPRESSION_INVALID", `${JSON.stringify(expression)}: ${message}`, { details: { expression } });
  if (expression.length > LIMITS.expression_chars_max)
    throw fail(`longer than ${LIMITS.expression_chars_max} characters`);
  try {
    const check = environment.check(expression);
    if (!check.valid) throw fail(check.error?.message ?? "not valid");
    if (check.type !== "bool" && check.type !== "dyn") throw fail(`gives ${check.type}; a condition gives bool`);
    const condition = environment.parse(expression);
    useLinear(condition.ast, fail);
    return condition;
  } catch (error) {
    throw error instanceof AppError ? error : fail(messageOf(error));
  }
}

/** JSON numbers as CEL sees them: whole numbers are int, so `args.count + 1` works; others are double. */
export function celValue(value: Json): unknown {
  if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(celValue);
  if (!isObject(value)) return value;
  return new Map(Object.entries(value).map(([key, item]) => [key, celValue(item)]));
}
