// OpenAI Responses. https://platform.openai.com/docs/api-reference/responses
import { isObject, parseJson } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { Usage } from "../jobs.ts";
import type { WireAnswer, WireApi, WireAssembler, WireEvent } from "./wire.ts";

function usageOf(value: Json | undefined): Usage | null {
  if (!isObject(value)) return null;
  const details = isObject(value["input_tokens_details"]) ? value["input_tokens_details"] : {};
  const cached = Number(details["cached_tokens"] ?? 0);
  return {
    input_tokens: Number(value["input_tokens"] ?? 0),
    output_tokens: Number(value["output_tokens"] ?? 0),
    ...(cached > 0 ? { cached_input_tokens: cached } : {}),
  };
}

/** A response object: items of messages and calls. */
function answerOf(body: JsonObject): WireAnswer {
  const items = Array.isArray(body["output"]) ? body["output"].filter((one): one is JsonObject => isObject(one)) : [];
  const texts: string[] = [];
  for (const item of items) {
    if (item["type"] !== "message" || !Array.isArray(item["content"])) continue;
    for (const part of item["content"])
      if (isObject(part) && part["type"] === "output_text") texts.push(String(part["text"] ?? ""));
  }
  const calls = items.filter((item) => item["type"] === "function_call" || item["type"] === "custom_tool_call");
  return {
    content: texts.length > 0 ? texts.join("") : null,
    tool_calls: calls.map((item) => ({
      id: String(item["call_id"] ?? item["id"] ?? ""),
      name: String(item["name"] ?? ""),
      arguments: String(item["arguments"] ?? item["input"] ?? ""),
    })),
    usage: usageOf(body["usage"]),
    finish_reason: String(body["status"] ?? ""),
    model: String(body["model"] ?? ""),
  };
}

const ENDS = new Set(["response.completed", "response.failed", "response.incomplete"]);

class Assembler implements WireAssembler {
  output_bytes = 0;
  private final: JsonObject | null = null;
  private text = "";

  isLast(event: WireEvent): boolean {
    return ENDS.has(event.name) || event.name === "error";
  }

  isOurs(): boolean {
    return false;
  }

  push(event: WireEvent): void {
    if (event.data === "") return;
    const value = parseJson(event.data);
    if (!isObject(value)) return;
    const { delta, response } = value;
    if (typeof delta === "string") {
      this.output_bytes += Buffer.byteLength(delta);
      if (event.name === "response.output_text.delta") this.text += delta;
    }
    if (isObject(response)) this.final = response;
  }

  answer(): WireAnswer {
    const answer = answerOf(this.final ?? {});
    // A stream that was cut has no final object; what was said so far is in its deltas.
    return answer.content === null && answer.tool_calls.length === 0 && this.text !== ""
      ? { ...answer, content: this.text }
      : answer;
  }
}

export const openaiResponses: WireApi = {
  name: "openai.responses",
  path: "/responses",
  base_url: "https://api.openai.com/v1",
  credential: (key) => ({ authorization: `Bearer ${key}` }),
  limitOf: (body) => (typeof body["max_output_tokens"] === "number" ? body["max_output_tokens"] : null),
  outgoing: (body, { model, max_output_tokens }) => ({ ...body, max_output_tokens, model }),
  answer: answerOf,
  assembler: () => new Assembler(),
  refusal: (_status, code, message) => ({ error: { code, message, param: null, type: "quarterdeck" } }),
};
