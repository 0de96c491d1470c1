// Predicates over a finished run, in CEL: `output.contains("paid") && cost < 0.5`.
import { Environment } from "@marcbachmann/cel-js";
import { AppError, messageOf } from "../contract/errors.ts";
import type { Json } from "../kit/json.ts";

const ENVIRONMENT = new Environment({ homogeneousAggregateLiterals: false, enableOptionalTypes: true })
  .registerVariable("output", "dyn")
  .registerVariable("state", "string")
  .registerVariable("cost", "double")
  .registerVariable("tokens", "int")
  .registerVariable("steps", "int")
  .registerVariable("tools", "list");

export interface FinishedRun {
  readonly output: Json;
  readonly state: string;
  /** USD. */
  readonly cost: number;
  readonly tokens: number;
  readonly steps: number;
  /** Names of the tools that were called, in order. */
  readonly tools: readonly string[];
}

/** Compiles a predicate. Throws EXPRESSION_INVALID. */
export function runPredicate(expression: string): (run: FinishedRun) => boolean {
  const fail = (message: string) =>
    new AppError("EXPRESSION_INVALID", `${JSON.stringify(expression)}: ${message}`, { details: { expression } });
  let compiled: (context: Record<string, unknown>) => unknown;
  try {
    const check = ENVIRONMENT.check(expression);
    if (!check.valid) throw fail(check.error?.message ?? "not valid");
    compiled = ENVIRONMENT.parse(expression);
  } catch (error) {
    throw error instanceof AppError ? error : fail(messageOf(error));
  }
  return (run) => {
    try {
      return compiled({ ...run, tokens: BigInt(run.tokens), steps: BigInt(run.steps) }) === true;
    } catch (error) {
      throw fail(messageOf(error));
    }
  };
}
