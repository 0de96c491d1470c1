// Transcripts of Anthropic's Messages: a system text, and messages whose contents are texts or blocks.
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { saidIn, textIn } from "./import-text.ts";
import type { RecordedRun } from "./import.ts";

function blocksOf(message: JsonObject): JsonObject[] {
  const { content } = message;
  if (typeof content === "string") return [{ type: "text", text: content }];
  return Array.isArray(content) ? content.filter((one): one is JsonObject => isObject(one)) : [];
}

function messagesOf(message: JsonObject): JsonObject[] {
  const blocks = blocksOf(message);
  const text = blocks.filter((block) => block["type"] === "text").map((block) => textIn(block, "text"));
  const content = text.length > 0 ? text.join("") : null;
  if (message["role"] === "assistant") {
    const tool_calls = blocks
      .filter((block) => block["type"] === "tool_use")
      .map((block) => ({
        id: textIn(block, "id"),
        type: "function",
        function: { name: textIn(block, "name"), arguments: JSON.stringify(block["input"] ?? {}) },
      }));
    return [{ role: "assistant", content, ...(tool_calls.length > 0 ? { tool_calls } : {}) }];
  }
  const results = blocks
    .filter((block) => block["type"] === "tool_result")
    .map((block) => ({
      role: "tool",
      tool_call_id: textIn(block, "tool_use_id"),
      content: saidIn(block["content"]),
      is_error: block["is_error"] === true,
    }));
  return content === null ? results : [...results, { role: "user", content }];
}

/** One transcript; null when the value is none. */
export function anthropicRun(value: JsonObject, key: string): RecordedRun | null {
  const list = value["messages"];
  if (!Array.isArray(list) || !list.every((one) => isObject(one) && typeof one["role"] === "string")) return null;
  const system = saidIn(value["system"]);
  const messages = [
    ...(system === null ? [] : [{ role: "system", content: system }]),
    ...(list as JsonObject[]).flatMap(messagesOf),
  ] as JsonObject[];
  const said = messages.findLast((one) => one["role"] === "assistant" && typeof one["content"] === "string");
  return {
    key: textIn(value, "id") || key,
    model: textIn(value, "model") || "unknown",
    source: "anthropic-messages",
    fidelity: "messages",
    messages,
    outcome: { state: "succeeded", output: said?.["content"] ?? null },
  };
}
