// Conditions written as JSON, as other policy tools have them, become CEL: one language decides, is shown and is recorded.
//   {"tool_name": {"in": ["a", "b"]}, "cost": {"gt": 100}}     all fields have to hold
//   {"any": [C, C]}, {"all": [C, C]}, {"not": C}               and may be nested
// Invariant: a field or an operator that is not known is an error, never true and never false.
import { AppError } from "../contract/errors.ts";
import type { Json } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";

/** Names that other tools use for what a rule may look at. */
const ALIASES = new Map([
  ["tool_name", "tool.name"],
  ["model_name", "model.name"],
  ["agent_name", "agent.name"],
  ["effect_class", "tool.effect_class"],
  ["environment", "env"],
]);
const FIELDS = new Set([
  "kind",
  "agent.name",
  "tool.name",
  "tool.effect_class",
  "tool.idempotent",
  "model.name",
  "env",
  "project",
  "requester",
  "cost",
  "call_cost",
  "run.steps",
  "run.tool_calls",
  "run.model_calls",
  "run.tokens",
  "run.cost_micro_usd",
]);
/** Maps, in which each path is a field. */
const MAPS = ["args", "labels"];
const DEPTH_MAX = 32;
const PLAIN_KEY = /^[A-Za-z_][A-Za-z0-9_]*$/;

const COMPARED = new Map([
  ["eq", "=="],
  ["ne", "!="],
  ["gt", ">"],
  ["gte", ">="],
  ["lt", "<"],
  ["lte", "<="],
  ...["==", "!=", ">", ">=", "<", "<="].map((sign): [string, string] => [sign, sign]),
]);
const METHODS = new Map([
  ["contains", "contains"],
  ["starts_with", "startsWith"],
  ["ends_with", "endsWith"],
  ["matches", "matches"],
]);
const OPERATORS = [...COMPARED.keys(), "in", "not_in", ...METHODS.keys(), "exists"];

/** Where a fault is, as a path of keys below the condition. */
type At = readonly (string | number)[];

function fail(at: At, message: string): AppError {
  const pointer = at.map((key) => `/${String(key).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
  return new AppError("EXPRESSION_INVALID", `${pointer === "" ? "the condition" : pointer}: ${message}`);
}

/** The CEL text of a condition. Throws EXPRESSION_INVALID, which says where and what may stand there. */
export function conditionText(condition: Json, at: At = []): string {
  if (at.length > DEPTH_MAX) throw fail(at.slice(0, 3), "nests too deeply");
  if (!isObject(condition)) throw fail(at, `has to be an object, not ${JSON.stringify(condition)}`);
  const parts = Object.entries(condition).map(([key, value]) => partText(key, value, [...at, key]));
  if (parts.length === 0) throw fail(at, "is empty; name a field, or all, any or not");
  return parts.length === 1 ? (parts[0] as string) : parts.map((part) => `(${part})`).join(" && ");
}

function partText(key: string, value: Json, at: At): string {
  if (key === "all" || key === "any") {
    if (!Array.isArray(value) || value.length === 0) throw fail(at, "has to be a list of conditions, one at least");
    return value.map((one, i) => `(${conditionText(one, [...at, i])})`).join(key === "all" ? " && " : " || ");
  }
  if (key === "not") return `!(${conditionText(value, at)})`;
  const field = fieldText(key, at);
  if (!isObject(value)) return `${field} == ${literal(value, at)}`;
  const tests = Object.entries(value).map(([operator, operand]) =>
    testText(field, operator, operand, [...at, operator]),
  );
  if (tests.length === 0) throw fail(at, `needs an operator: ${OPERATORS.join(", ")}`);
  return tests.length === 1 ? (tests[0] as string) : tests.map((one) => `(${one})`).join(" && ");
}

function fieldText(name: string, at: At): string {
  const field = ALIASES.get(name) ?? name;
  if (FIELDS.has(field)) return field;
  const [map = "", ...path] = field.split(".");
  if (!MAPS.includes(map) || path.length === 0 || path.includes(""))
    throw fail(at, `there is no such field; there are ${[...FIELDS].join(", ")}, args.NAME and labels.NAME`);
  return path.reduce((text, key) => (PLAIN_KEY.test(key) ? `${text}.${key}` : `${text}[${JSON.stringify(key)}]`), map);
}

function testText(field: string, operator: string, operand: Json, at: At): string {
  const compared = COMPARED.get(operator);
  if (compared !== undefined) return `${field} ${compared} ${literal(operand, at)}`;
  const method = METHODS.get(operator);
  if (method !== undefined) {
    if (typeof operand !== "string") throw fail(at, `has to be a text, not ${JSON.stringify(operand)}`);
    return `${field}.${method}(${literal(operand, at)})`;
  }
  if (operator === "in" || operator === "not_in") {
    if (!Array.isArray(operand)) throw fail(at, `has to be a list, not ${JSON.stringify(operand)}`);
    const text = `${field} in ${literal(operand, at)}`;
    return operator === "in" ? text : `!(${text})`;
  }
  if (operator !== "exists") throw fail(at, `there is no such operator; there are ${OPERATORS.join(", ")}`);
  if (typeof operand !== "boolean") throw fail(at, `has to be true or false, not ${JSON.stringify(operand)}`);
  if (FIELDS.has(field)) return String(operand);
  const text = existence(field);
  return operand ? text : `!(${text})`;
}

/** Every step of a path has to be there. */
function existence(field: string): string {
  const steps = [...field.matchAll(/\.([A-Za-z_][A-Za-z0-9_]*)|\[("(?:[^"\\]|\\.)*")\]/g)];
  return steps
    .map(({ index, 1: plain, 2: quoted }) => `${quoted ?? JSON.stringify(plain)} in ${field.slice(0, index)}`)
    .join(" && ");
}

function literal(value: Json, at: At): string {
  if (Array.isArray(value)) return `[${value.map((item) => literal(item, at)).join(", ")}]`;
  if (isObject(value)) throw fail(at, "cannot be compared with an object");
  // CEL writes numbers, texts and null as JSON does.
  return JSON.stringify(value);
}
