// tau2-bench: simulations of a user and an agent, both with tools of their own. Usage, cost and times are kept.
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";
import type { RecordedRun } from "./import.ts";

const text = (value: Json | undefined): string => (typeof value === "string" ? value : "");

function callsOf(message: JsonObject): JsonObject[] {
  const calls = Array.isArray(message["tool_calls"]) ? (message["tool_calls"] as JsonObject[]) : [];
  return calls.map((call) => ({
    id: text(call["id"]),
    type: "function",
    function: { name: text(call["name"]), arguments: JSON.stringify(call["arguments"] ?? {}) },
  }));
}

function messageOf(message: JsonObject): JsonObject {
  const usage = isObject(message["usage"]) ? message["usage"] : null;
  const common: JsonObject = { role: text(message["role"]), content: message["content"] ?? null };
  if (usage) {
    common["usage"] = {
      input_tokens: Number(usage["prompt_tokens"] ?? 0),
      output_tokens: Number(usage["completion_tokens"] ?? 0),
    };
  }
  if (typeof message["cost"] === "number") common["cost_usd"] = message["cost"];
  if (typeof message["timestamp"] === "string") common["timestamp"] = message["timestamp"];
  if (message["role"] === "tool")
    return { ...common, tool_call_id: text(message["id"]), is_error: message["error"] === true };
  const calls = callsOf(message);
  return calls.length > 0 ? { ...common, tool_calls: calls } : common;
}

function runOf(simulation: JsonObject, model: string): RecordedRun {
  const reward = isObject(simulation["reward_info"]) ? simulation["reward_info"]["reward"] : undefined;
  const messages = (simulation["messages"] as JsonObject[]).map(messageOf);
  const said = messages.findLast(
    (message) => message["role"] === "assistant" && typeof message["content"] === "string",
  );
  return {
    key: text(simulation["run_key"]) || text(simulation["id"]),
    model: text(simulation["agent_llm"]) || model,
    source: "tau2",
    fidelity: "messages",
    messages,
    outcome: {
      state: "succeeded",
      output: said?.["content"] ?? null,
      ...(typeof reward === "number" ? { reward } : {}),
    },
  };
}

/** Simulations of a results file, or one simulation; null when the value is neither. */
export function tau2Runs(value: JsonObject): RecordedRun[] | null {
  const info = isObject(value["info"]) ? value["info"] : {};
  const agent = isObject(info["agent_info"]) ? info["agent_info"] : {};
  const list = Array.isArray(value["simulations"]) ? value["simulations"] : [value];
  const simulations = list.filter((one): one is JsonObject => isObject(one) && Array.isArray(one["messages"]));
  if (simulations.length === 0) return null;
  return simulations.map((one) => runOf(one, text(agent["llm"]) || "unknown"));
}
