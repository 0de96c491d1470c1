// OpenAI Chat Completions. https://platform.openai.com/docs/api-reference/chat
import { isObject, parseJson } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { ToolCall, Usage } from "../jobs.ts";
import type { WireAnswer, WireApi, WireAssembler, WireEvent } from "./wire.ts";

function usageOf(value: Json | undefined): Usage | null {
  if (!isObject(value)) return null;
  const details = isObject(value["prompt_tokens_details"]) ? value["prompt_tokens_details"] : {};
  const cached = Number(details["cached_tokens"] ?? 0);
  return {
    input_tokens: Number(value["prompt_tokens"] ?? 0),
    output_tokens: Number(value["completion_tokens"] ?? 0),
    ...(cached > 0 ? { cached_input_tokens: cached } : {}),
  };
}

function callsOf(value: Json | undefined): ToolCall[] {
  if (!Array.isArray(value)) return [];
  return value
    .filter((one): one is JsonObject => isObject(one))
    .map((call) => {
      const fn: JsonObject = isObject(call["function"]) ? call["function"] : {};
      return { id: String(call["id"] ?? ""), name: String(fn["name"] ?? ""), arguments: String(fn["arguments"] ?? "") };
    });
}

class Assembler implements WireAssembler {
  output_bytes = 0;
  private content = "";
  private readonly calls = new Map<number, ToolCall>();
  private usage: Usage | null = null;
  private finish = "";
  private model = "";
  private readonly usageAsked: boolean;

  constructor(body: JsonObject) {
    const options = isObject(body["stream_options"]) ? body["stream_options"] : {};
    this.usageAsked = options["include_usage"] === true;
  }

  isLast(event: WireEvent): boolean {
    return event.data === "[DONE]";
  }

  isOurs(event: WireEvent): boolean {
    return !this.usageAsked && /"choices":\s*\[\]/.test(event.data) && event.data.includes('"usage"');
  }

  push(event: WireEvent): void {
    if (event.data === "[DONE]" || event.data === "") return;
    const chunk = parseJson(event.data);
    if (!isObject(chunk)) return;
    if (typeof chunk["model"] === "string") this.model = chunk["model"];
    this.usage = usageOf(chunk["usage"]) ?? this.usage;
    const [choice] = Array.isArray(chunk["choices"]) ? chunk["choices"] : [];
    if (!isObject(choice)) return;
    if (typeof choice["finish_reason"] === "string") this.finish = choice["finish_reason"];
    const delta = isObject(choice["delta"]) ? choice["delta"] : {};
    if (typeof delta["content"] === "string") this.add(delta["content"]);
    for (const part of Array.isArray(delta["tool_calls"]) ? delta["tool_calls"] : [])
      if (isObject(part)) this.call(part);
  }

  private add(text: string): void {
    this.content += text;
    this.output_bytes += Buffer.byteLength(text);
  }

  private call(part: JsonObject): void {
    const index = Number(part["index"] ?? 0);
    const fn: JsonObject = isObject(part["function"]) ? part["function"] : {};
    const known = this.calls.get(index) ?? { id: "", name: "", arguments: "" };
    const text = String(fn["arguments"] ?? "");
    this.output_bytes += Buffer.byteLength(text);
    this.calls.set(index, {
      id: known.id || String(part["id"] ?? ""),
      name: known.name || String(fn["name"] ?? ""),
      arguments: known.arguments + text,
    });
  }

  answer(): WireAnswer {
    const tool_calls = [...this.calls].sort(([a], [b]) => a - b).map(([, call]) => call);
    const content = this.content === "" && tool_calls.length > 0 ? null : this.content;
    return { content, tool_calls, usage: this.usage, finish_reason: this.finish, model: this.model };
  }
}

export const openaiChat: WireApi = {
  name: "openai.chat",
  path: "/chat/completions",
  base_url: "https://api.openai.com/v1",
  credential: (key) => ({ authorization: `Bearer ${key}` }),
  limitOf: (body) => {
    const limit = body["max_completion_tokens"] ?? body["max_tokens"];
    return typeof limit === "number" ? limit * Math.max(1, Number(body["n"] ?? 1)) : null;
  },
  outgoing: (body, { model, max_output_tokens }) => {
    const given = body["max_completion_tokens"] ?? body["max_tokens"];
    const limit = typeof given === "number" ? {} : { max_completion_tokens: max_output_tokens };
    if (body["stream"] !== true) return { ...body, ...limit, model };
    const options = isObject(body["stream_options"]) ? body["stream_options"] : {};
    return { ...body, ...limit, model, stream_options: { ...options, include_usage: true } };
  },
  answer: (body) => {
    const [choice] = Array.isArray(body["choices"])
      ? body["choices"].filter((one): one is JsonObject => isObject(one))
      : [];
    const message: JsonObject = isObject(choice?.["message"]) ? choice["message"] : {};
    return {
      content: typeof message["content"] === "string" ? message["content"] : null,
      tool_calls: callsOf(message["tool_calls"]),
      usage: usageOf(body["usage"]),
      finish_reason: String(choice?.["finish_reason"] ?? ""),
      model: String(body["model"] ?? ""),
    };
  },
  assembler: (body) => new Assembler(body),
  refusal: (_status, code, message) => ({ error: { code, message, param: null, type: "quarterdeck" } }),
};
