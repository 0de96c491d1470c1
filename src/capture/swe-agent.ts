// SWE-agent trajectories: each step is what the model said, the command it wanted, and what the shell answered.
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { textIn } from "./import-text.ts";
import type { RecordedRun } from "./import.ts";

/** One trajectory; null when the value is none. */
export function sweAgentRun(value: JsonObject, key: string): RecordedRun | null {
  const { trajectory, history, info } = value;
  if (!Array.isArray(trajectory)) return null;
  const messages: JsonObject[] = [];
  const said = Array.isArray(history) ? history.filter((one): one is JsonObject => isObject(one)) : [];
  // What came before the first step: instructions and the task; demonstrations are no part of this run.
  for (const message of said) {
    if (message["role"] === "assistant" && message["is_demo"] !== true) break;
    if (message["is_demo"] === true) continue;
    messages.push({ role: textIn(message, "role"), content: message["content"] ?? null });
  }
  for (const [index, step] of trajectory.entries()) {
    if (!isObject(step)) continue;
    const action = textIn(step, "action");
    const id = `action_${index}`;
    const call = {
      id,
      type: "function",
      function: { name: "command", arguments: JSON.stringify({ command: action }) },
    };
    const content = textIn(step, "response") || textIn(step, "thought");
    messages.push({ role: "assistant", content, ...(action.trim() === "" ? {} : { tool_calls: [call] }) });
    if (action.trim() !== "") messages.push({ role: "tool", tool_call_id: id, content: step["observation"] ?? null });
  }
  const end = isObject(info) ? info : {};
  const submitted = end["exit_status"] === "submitted";
  return {
    key: textIn(value, "environment") === "" ? key : `${textIn(value, "environment")}/${key}`,
    model: "unknown",
    source: "swe-agent",
    fidelity: "messages",
    messages,
    outcome: { state: submitted ? "succeeded" : "failed", output: end["submission"] ?? null },
  };
}
