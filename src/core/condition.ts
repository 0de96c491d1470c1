// Conditions of policy rules: compiled once against a typed environment, evaluated in microseconds.
import { celEnvironment, compileExpression } from "./cel.ts";

const ENVIRONMENT = celEnvironment()
  .registerVariable("kind", "string")
  .registerVariable({ name: "agent", schema: { name: "string" } })
  .registerVariable({ name: "tool", schema: { name: "string", effect_class: "string", idempotent: "bool" } })
  .registerVariable({ name: "model", schema: { name: "string" } })
  .registerVariable("args", "map")
  .registerVariable("labels", "map")
  .registerVariable("env", "string")
  .registerVariable("project", "string")
  .registerVariable("requester", "string")
  .registerVariable("now", "google.protobuf.Timestamp")
  .registerVariable("cost", "double")
  .registerVariable("call_cost", "double")
  .registerVariable({
    name: "run",
    schema: { steps: "int", tool_calls: "int", model_calls: "int", tokens: "int", cost_micro_usd: "int" },
  });

/** Compiles a condition. Throws EXPRESSION_INVALID with what is wrong. */
export function compileCondition(expression: string): (context: Record<string, unknown>) => unknown {
  return compileExpression(ENVIRONMENT, expression);
}
