// Anthropic Messages. https://docs.anthropic.com/en/api/messages
import { isObject, parseJson } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { ToolCall, Usage } from "../jobs.ts";
import type { WireAnswer, WireApi, WireAssembler, WireEvent } from "./wire.ts";

/** Input tokens are told apart from those read from and written to the cache; ours are all of them. */
function usageOf(value: Json | undefined, before: Usage | null): Usage | null {
  if (!isObject(value)) return before;
  const read = Number(value["cache_read_input_tokens"] ?? 0);
  const written = Number(value["cache_creation_input_tokens"] ?? 0);
  const told = typeof value["input_tokens"] === "number" ? value["input_tokens"] + read + written : null;
  const cached = read > 0 ? read : (before?.cached_input_tokens ?? 0);
  return {
    input_tokens: told ?? before?.input_tokens ?? 0,
    output_tokens: Number(value["output_tokens"] ?? before?.output_tokens ?? 0),
    ...(cached > 0 ? { cached_input_tokens: cached } : {}),
  };
}

interface Block {
  type: string;
  text: string;
  id: string;
  name: string;
}

class Assembler implements WireAssembler {
  output_bytes = 0;
  private readonly blocks = new Map<number, Block>();
  private usage: Usage | null = null;
  private finish = "";
  private model = "";

  isLast(event: WireEvent): boolean {
    return event.name === "message_stop" || event.name === "error";
  }

  isOurs(): boolean {
    return false;
  }

  push(event: WireEvent): void {
    if (event.data === "") return;
    const value = parseJson(event.data);
    if (!isObject(value)) return;
    const index = Number(value["index"] ?? 0);
    const message = isObject(value["message"]) ? value["message"] : {};
    const delta = isObject(value["delta"]) ? value["delta"] : {};
    switch (value["type"]) {
      case "message_start":
        this.model = String(message["model"] ?? "");
        this.usage = usageOf(message["usage"], null);
        return;
      case "content_block_start": {
        const block = isObject(value["content_block"]) ? value["content_block"] : {};
        const type = String(block["type"] ?? "");
        this.blocks.set(index, {
          type,
          text: String(block["text"] ?? ""),
          id: String(block["id"] ?? ""),
          name: String(block["name"] ?? ""),
        });
        return;
      }
      case "content_block_delta": {
        const text = String(delta["text"] ?? delta["partial_json"] ?? delta["thinking"] ?? "");
        this.output_bytes += Buffer.byteLength(text);
        const block = this.blocks.get(index);
        if (block && delta["type"] !== "thinking_delta") block.text += text;
        return;
      }
      case "message_delta":
        if (typeof delta["stop_reason"] === "string") this.finish = delta["stop_reason"];
        this.usage = usageOf(value["usage"], this.usage);
        return;
      default:
        return;
    }
  }

  answer(): WireAnswer {
    const blocks = [...this.blocks].sort(([a], [b]) => a - b).map(([, block]) => block);
    const text = blocks.filter((block) => block.type === "text").map((block) => block.text);
    const tool_calls = blocks
      .filter((block) => block.type === "tool_use")
      .map((block): ToolCall => ({ id: block.id, name: block.name, arguments: block.text === "" ? "{}" : block.text }));
    return {
      content: text.length > 0 ? text.join("") : null,
      tool_calls,
      usage: this.usage,
      finish_reason: this.finish,
      model: this.model,
    };
  }
}

export const anthropicMessages: WireApi = {
  name: "anthropic.messages",
  path: "/messages",
  base_url: "https://api.anthropic.com/v1",
  credential: (key) => ({ "x-api-key": key }),
  limitOf: (body) => (typeof body["max_tokens"] === "number" ? body["max_tokens"] : null),
  outgoing: (body, { model, max_output_tokens }) => ({ ...body, max_tokens: max_output_tokens, model }),
  answer: (body) => {
    const blocks = Array.isArray(body["content"])
      ? body["content"].filter((one): one is JsonObject => isObject(one))
      : [];
    const texts = blocks.filter((block) => block["type"] === "text").map((block) => String(block["text"] ?? ""));
    return {
      content: texts.length > 0 ? texts.join("") : null,
      tool_calls: blocks
        .filter((block) => block["type"] === "tool_use")
        .map((block) => ({
          id: String(block["id"] ?? ""),
          name: String(block["name"] ?? ""),
          arguments: JSON.stringify(block["input"] ?? {}),
        })),
      usage: usageOf(body["usage"], null),
      finish_reason: String(body["stop_reason"] ?? ""),
      model: String(body["model"] ?? ""),
    };
  },
  assembler: () => new Assembler(),
  refusal: (status, code, message) => ({
    type: "error",
    error: {
      type: status === 429 ? "rate_limit_error" : status === 403 ? "permission_error" : "api_error",
      message: `${code}: ${message}`,
    },
  }),
};
