// ATIF, the trajectory format that several harnesses read and write: steps of system, user and agent, with calls and what was
// observed. https://harborframework.com (trajectory format 1.x)
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { saidIn, textIn } from "./import-text.ts";
import type { RecordedRun } from "./import.ts";

const ROLES: Record<string, string> = { system: "system", user: "user", agent: "assistant" };

function stepMessages(step: JsonObject): JsonObject[] {
  const role = ROLES[textIn(step, "source")] ?? "user";
  const metrics: JsonObject = isObject(step["metrics"]) ? step["metrics"] : {};
  const at = step["timestamp"] === undefined ? {} : { timestamp: step["timestamp"] };
  if (role !== "assistant") return [{ role, content: saidIn(step["message"]), ...at }];
  const calls = Array.isArray(step["tool_calls"])
    ? step["tool_calls"].filter((one): one is JsonObject => isObject(one))
    : [];
  const tool_calls = calls.map((call) => ({
    id: textIn(call, "tool_call_id"),
    type: "function",
    function: { name: textIn(call, "function_name"), arguments: JSON.stringify(call["arguments"] ?? {}) },
  }));
  const usage = {
    input_tokens: Number(metrics["prompt_tokens"] ?? 0),
    output_tokens: Number(metrics["completion_tokens"] ?? 0),
  };
  const observation: JsonObject = isObject(step["observation"]) ? step["observation"] : {};
  const results = Array.isArray(observation["results"])
    ? observation["results"].filter((one): one is JsonObject => isObject(one))
    : [];
  return [
    {
      role,
      content: saidIn(step["message"]),
      ...(tool_calls.length > 0 ? { tool_calls } : {}),
      ...(isObject(step["metrics"]) ? { usage } : {}),
      ...(typeof metrics["cost_usd"] === "number" ? { cost_usd: metrics["cost_usd"] } : {}),
      ...at,
    },
    ...results.map((result) => ({
      role: "tool",
      ...(result["source_call_id"] === undefined ? {} : { tool_call_id: result["source_call_id"] }),
      content: saidIn(result["content"]),
    })),
  ];
}

/** One trajectory; null when the value is none. */
export function atifRun(value: JsonObject, key: string): RecordedRun | null {
  const { steps } = value;
  if (!Array.isArray(steps) || typeof value["schema_version"] !== "string") return null;
  const agent: JsonObject = isObject(value["agent"]) ? value["agent"] : {};
  const messages = steps.filter((one): one is JsonObject => isObject(one)).flatMap(stepMessages);
  const said = messages.findLast((one) => one["role"] === "assistant" && typeof one["content"] === "string");
  return {
    key: textIn(value, "trajectory_id") || textIn(value, "session_id") || key,
    model: textIn(agent, "model_name") || "unknown",
    source: "atif",
    fidelity: "messages",
    messages,
    outcome: { state: "succeeded", output: said?.["content"] ?? null },
  };
}
