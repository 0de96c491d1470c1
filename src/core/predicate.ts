// Predicates over a finished run, in CEL: `output.contains("paid") && cost < 0.5`.
import { AppError, messageOf } from "../contract/errors.ts";
import type { Json } from "../kit/json.ts";
import { celEnvironment, compileExpression } from "./cel.ts";

const ENVIRONMENT = celEnvironment()
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
  const compiled = compileExpression(ENVIRONMENT, expression);
  return (run) => {
    try {
      return compiled({ ...run, tokens: BigInt(run.tokens), steps: BigInt(run.steps) }) === true;
    } catch (error) {
      const message = `${JSON.stringify(expression)}: ${messageOf(error)}`;
      throw new AppError("EXPRESSION_INVALID", message, { details: { expression } });
    }
  };
}
