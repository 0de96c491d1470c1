// Langfuse exports: a trace and its observations. Generations become model calls, tools become tool calls, in the order in
// which they began; what else a framework notes of itself is not an outcome and is left out.
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { saidIn, textIn } from "./import-text.ts";
import type { RecordedRun } from "./import.ts";

function parsed(value: Json | undefined): Json {
  if (typeof value !== "string" || !/^\s*[[{"]/.test(value)) return value ?? null;
  try {
    return JSON.parse(value) as Json;
  } catch {
    return value;
  }
}

/** Texts and calls of an answer, as the frameworks write it: one message, a list of them, choices, or output items. */
function answerOf(output: Json): { content: string | null; tool_calls: JsonObject[] } {
  const body = isObject(output) && Array.isArray(output["output"]) ? output["output"] : output;
  const choices = isObject(body) && Array.isArray(body["choices"]) ? body["choices"] : null;
  const list = choices ?? (Array.isArray(body) ? body : [body]);
  const texts: string[] = [];
  const calls: JsonObject[] = [];
  for (const item of list) {
    const message = isObject(item) && isObject(item["message"]) ? item["message"] : item;
    if (!isObject(message)) {
      if (typeof message === "string") texts.push(message);
      continue;
    }
    if (message["type"] === "function_call") calls.push(callOf(message, calls.length));
    const parts = message["parts"] ?? message["content"];
    for (const part of Array.isArray(parts) ? parts : [parts]) {
      if (typeof part === "string") texts.push(part);
      else if (isObject(part) && ["tool_call", "tool-call", "tool_use"].includes(textIn(part, "type")))
        calls.push(callOf(part, calls.length));
      else if (isObject(part)) texts.push(textIn(part, "text") || textIn(part, "content"));
    }
    for (const call of Array.isArray(message["tool_calls"]) ? message["tool_calls"] : [])
      if (isObject(call))
        calls.push(callOf(isObject(call["function"]) ? { ...call, ...call["function"] } : call, calls.length));
  }
  const content = texts.filter((text) => text !== "").join("\n");
  return { content: content === "" ? null : content, tool_calls: calls };
}

function callOf(call: JsonObject, index: number): JsonObject {
  const args = call["arguments"] ?? call["args"] ?? call["input"] ?? {};
  const id = textIn(call, "call_id") || textIn(call, "id") || textIn(call, "toolCallId") || `call_${index}`;
  const name = textIn(call, "name") || textIn(call, "toolName");
  return {
    id,
    type: "function",
    function: { name, arguments: typeof args === "string" ? args : JSON.stringify(args) },
  };
}

function generation(observation: JsonObject, timestamp: JsonObject): JsonObject {
  const usage: JsonObject = isObject(observation["usageDetails"]) ? observation["usageDetails"] : {};
  const cost = observation["totalCost"];
  const { content } = answerOf(parsed(observation["output"]));
  return {
    role: "assistant",
    content: content ?? saidIn(parsed(observation["output"])),
    model: textIn(observation, "model") || "unknown",
    usage: { input_tokens: Number(usage["input"] ?? 0), output_tokens: Number(usage["output"] ?? 0) },
    ...(typeof cost === "number" ? { cost_usd: cost } : {}),
    ...timestamp,
  };
}

/** One trace with its observations; null when the value is none. */
export function langfuseRun(value: JsonObject, key: string): RecordedRun | null {
  const observations = value["observations"];
  if (!Array.isArray(observations)) return null;
  const trace: JsonObject = isObject(value["trace"]) ? value["trace"] : value;
  const messages: JsonObject[] = [];
  const input = parsed(trace["input"]);
  if (input !== null) messages.push({ role: "user", content: input });
  const list = observations.filter((one): one is JsonObject => isObject(one));
  for (const observation of list.toSorted((a, b) => (textIn(a, "startTime") < textIn(b, "startTime") ? -1 : 1))) {
    const timestamp = observation["startTime"] === undefined ? {} : { timestamp: observation["startTime"] };
    if (observation["type"] === "GENERATION") messages.push(generation(observation, timestamp));
    if (observation["type"] === "TOOL" || observation["type"] === "RETRIEVER") {
      const args = parsed(observation["input"]);
      messages.push({
        role: "call",
        name: textIn(observation, "name"),
        args: isObject(args) ? args : { input: args },
        content: parsed(observation["output"]),
        is_error: observation["level"] === "ERROR",
        ...timestamp,
      });
    }
  }
  const failed = list.some((one) => one["level"] === "ERROR");
  return {
    key: textIn(trace, "id") || key,
    model: "unknown",
    source: "langfuse",
    fidelity: "span",
    messages,
    outcome: { state: failed ? "failed" : "succeeded", output: parsed(trace["output"]) },
  };
}
