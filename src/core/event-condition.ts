// Conditions of triggers over an event, in CEL: `data.code == "timeout" && target.startsWith("ship")`.
import type { JsonObject } from "../kit/json.ts";
import { celEnvironment, celValue, compileExpression } from "./cel.ts";

const ENVIRONMENT = celEnvironment()
  .registerVariable("event", "string")
  .registerVariable("target", "string")
  .registerVariable("run_id", "string")
  .registerVariable("data", "map");

/** What a trigger is told of an event. */
export interface ToldEvent {
  readonly type: string;
  readonly target: string;
  readonly run_id: string;
  readonly data: JsonObject;
}

/** Compiles a condition; what it cannot be asked of (a field that is not there) does not fit it. Throws EXPRESSION_INVALID. */
export function eventCondition(expression: string): (event: ToldEvent) => boolean {
  const compiled = compileExpression(ENVIRONMENT, expression);
  return ({ type, target, run_id, data }) => {
    try {
      return compiled({ event: type, target, run_id, data: celValue(data) }) === true;
    } catch {
      return false;
    }
  };
}
