// tau-bench's few-shot transcripts: one text with lines "role: content". Contents may span lines; an assistant line of
// "None" stands for a tool call whose name and arguments the display does not show.
import type { JsonObject } from "../kit/json.ts";

const LINE = /^(user|assistant|tool): ?/;

export function displayMessages(text: string): JsonObject[] {
  const messages: JsonObject[] = [];
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    const last = messages.at(-1);
    if (match) messages.push({ role: match[1] ?? "", content: line.slice(match[0].length) });
    else if (last) last["content"] = `${String(last["content"])}\n${line}`;
  }
  return messages.map((message, index) => {
    if (message["role"] !== "assistant" || message["content"] !== "None") return message;
    const id = `display_${index}`;
    return {
      role: "assistant",
      content: null,
      tool_calls: [{ id, type: "function", function: { name: "not_shown", arguments: "" } }],
    };
  });
}
