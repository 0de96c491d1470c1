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

function argumentsOf(part: JsonObject): string {
  const fn: JsonObject = isObject(part["function"]) ? part["function"] : {};
  return String(fn["arguments"] ?? "");
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
    for (const choice of Array.isArray(chunk["choices"]) ? chunk["choices"] : [])
      if (isObject(choice)) this.choice(choice, isObject(choice["delta"]) ? choice["delta"] : {});
  }

  /** The first choice is the answer; what others say, and thoughts and refusals, counts as output. */
  private choice(choice: JsonObject, delta: JsonObject): void {
    const calls = Array.isArray(delta["tool_calls"]) ? delta["tool_calls"].filter((part) => isObject(part)) : [];
    for (const key of Object.keys(delta)) {
      const text = delta[key];
      if (key !== "role" && typeof text === "string") this.output_bytes += Buffer.byteLength(text);
    }
    for (const part of calls) this.output_bytes += Buffer.byteLength(argumentsOf(part));
    if (Number(choice["index"] ?? 0) !== 0) return;
    if (typeof choice["finish_reason"] === "string") this.finish = choice["finish_reason"];
    if (typeof delta["content"] === "string") this.content += delta["content"];
    for (const part of calls) this.call(part);
  }

  private call(part: JsonObject): void {
    const index = Number(part["index"] ?? 0);
    const fn: JsonObject = isObject(part["function"]) ? part["function"] : {};
    const known = this.calls.get(index) ?? { id: "", name: "", arguments: "" };
    this.calls.set(index, {
      id: known.id || String(part["id"] ?? ""),
      name: known.name || String(fn["name"] ?? ""),
      arguments: known.arguments + argumentsOf(part),
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
