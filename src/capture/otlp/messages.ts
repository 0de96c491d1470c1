// Messages of model calls as the dialects of OpenTelemetry write them, in one form: role, content, tool calls. Sources: OTel
// GenAI (parts, indexed attributes, span events), OpenInference (flattened lists), Traceloop, Vercel AI SDK.
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { SpanEvent } from "../../contract/otlp.ts";
import { NAMES } from "./names.ts";
import { numbered, parsed } from "./reader.ts";
import type { AttributeReader } from "./reader.ts";

const text = (value: unknown): string =>
  typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value);

function call(id: Json | undefined, name: Json | undefined, args: Json | undefined): JsonObject {
  return { arguments: text(args), id: text(id), name: text(name) };
}

/** OTel GenAI from 1.37: a message is a role and parts. */
function ofParts(message: JsonObject): JsonObject {
  const parts = numbered(message["parts"]);
  const texts: string[] = [];
  const calls: JsonObject[] = [];
  const others: Json[] = [];
  for (const part of parts) {
    if (part["type"] === "text") texts.push(text(part["content"]));
    else if (part["type"] === "tool_call") calls.push(call(part["id"], part["name"], part["arguments"]));
    else if (part["type"] === "tool_call_response") texts.push(text(part["response"] ?? part["result"]));
    else others.push(part);
  }
  return {
    content: texts.length > 0 ? texts.join("\n") : null,
    role: text(message["role"]) || "user",
    ...(calls.length > 0 ? { tool_calls: calls } : {}),
    ...(others.length > 0 ? { parts: others } : {}),
  };
}

/** OpenInference: `message.role`, `message.content`, `message.contents.N`, `message.tool_calls.N.tool_call...`. */
function ofOpenInference(item: JsonObject): JsonObject {
  const message: JsonObject = isObject(item["message"]) ? item["message"] : item;
  const pieces = numbered(message["contents"]).map((piece) => {
    const content: JsonObject = isObject(piece["message_content"]) ? piece["message_content"] : piece;
    return text(content["text"] ?? content["image"]);
  });
  const calls = numbered(message["tool_calls"]).map((piece) => {
    const given: JsonObject = isObject(piece["tool_call"]) ? piece["tool_call"] : piece;
    const fn: JsonObject = isObject(given["function"]) ? given["function"] : given;
    return call(given["id"], fn["name"], fn["arguments"]);
  });
  const content = message["content"] ?? (pieces.length > 0 ? pieces.join("\n") : null);
  return { content, role: text(message["role"]) || "user", ...(calls.length > 0 ? { tool_calls: calls } : {}) };
}

/** What any of them wrote as a list of messages, or as a text. */
export function messagesOf(value: Json | undefined): JsonObject[] {
  const given = parsed(value);
  if (given === undefined || given === null) return [];
  if (isObject(given) && Array.isArray(given["messages"])) return messagesOf(given["messages"]);
  if (!Array.isArray(given)) return [{ content: isObject(given) ? given : text(given), role: "user" }];
  return given.map((item): JsonObject => {
    if (!isObject(item)) return { content: text(item), role: "user" };
    const message: JsonObject = item;
    if (Array.isArray(message["parts"])) return ofParts(message);
    return isObject(message["message"]) ? ofOpenInference(message) : message;
  });
}

/** Events of a span, or log records, that carry messages (OTel GenAI up to 1.36). */
function ofEvents(events: readonly SpanEvent[]): { input: JsonObject[]; output: JsonObject[]; finish: string[] } {
  const found = { input: [] as JsonObject[], output: [] as JsonObject[], finish: [] as string[] };
  for (const { name, attributes } of events) {
    const role = /^gen_ai\.(system|user|assistant|tool)\.message$/.exec(name)?.[1];
    if (role !== undefined) {
      const calls = parsed(attributes["tool_calls"]);
      const content = attributes["content"] ?? attributes["gen_ai.event.content"] ?? null;
      found.input.push({ content, role, ...(Array.isArray(calls) ? { tool_calls: calls } : {}) });
    } else if (name === "gen_ai.choice") {
      const message = parsed(attributes["message"] ?? attributes["gen_ai.event.content"]);
      found.output.push(isObject(message) ? message : { content: text(message), role: "assistant" });
      if (typeof attributes["finish_reason"] === "string") found.finish.push(attributes["finish_reason"]);
    } else if (name === "gen_ai.content.prompt") found.input.push(...messagesOf(attributes["gen_ai.prompt"]));
    else if (name === "gen_ai.content.completion") found.output.push(...messagesOf(attributes["gen_ai.completion"]));
    else if (name === "gen_ai.client.inference.operation.details") {
      found.input.push(...messagesOf(attributes["gen_ai.input.messages"]));
      found.output.push(...messagesOf(attributes["gen_ai.output.messages"]));
    }
  }
  return found;
}

/** What a model was asked: system instructions first, where they stand apart. */
export function inputOf(reader: AttributeReader, events: readonly SpanEvent[]): JsonObject[] {
  const system = reader.json("gen_ai.system_instructions");
  const apart: JsonObject[] =
    system === undefined
      ? []
      : [{ content: ofParts({ parts: system, role: "system" })["content"] ?? system, role: "system" }];
  const direct = messagesOf(reader.any(NAMES.input_messages));
  if (direct.length > 0) return [...apart, ...direct];
  const flat = [
    ...reader.list("llm.input_messages").map(ofOpenInference),
    ...reader.list("gen_ai.prompt").map(ofOpenInference),
  ];
  if (flat.length > 0) return [...apart, ...flat];
  const told = ofEvents(events).input;
  if (told.length > 0) return [...apart, ...told];
  return [...apart, ...messagesOf(reader.any(NAMES.input_text))];
}

export interface Answer {
  readonly content: Json;
  readonly tool_calls: JsonObject[];
  readonly finish_reasons: string[];
}

/** What a model said. */
export function outputOf(reader: AttributeReader, events: readonly SpanEvent[]): Answer {
  const told = ofEvents(events);
  const said = reader.any("ai.response.text");
  const calls = reader.json("ai.response.toolCalls");
  const vercel =
    said !== undefined || calls !== undefined ? [{ content: said ?? null, tool_calls: callsOf(calls) }] : [];
  const direct = messagesOf(reader.any(NAMES.output_messages));
  const flat = [...reader.list("llm.output_messages"), ...reader.list("gen_ai.completion")];
  const messages: JsonObject[] =
    [vercel, direct, flat.map(ofOpenInference), told.output].find((one) => one.length > 0) ??
    messagesOf(reader.any(NAMES.output_text));
  const last = messages.at(-1);
  const reasons = reader.json(NAMES.finish_reasons);
  const flatReasons = flat.map((item) => text(item["finish_reason"])).filter((reason) => reason !== "");
  const given = Array.isArray(reasons) ? reasons.map(text) : reasons === undefined ? flatReasons : [text(reasons)];
  return {
    content: last?.["content"] ?? null,
    tool_calls: callsOf(last?.["tool_calls"]),
    finish_reasons: given.length > 0 ? given : told.finish,
  };
}

function callsOf(value: Json | undefined): JsonObject[] {
  const list = Array.isArray(value) ? value : numbered(value);
  return list.filter(isObject).map((item) => {
    const given = item as JsonObject;
    const fn: JsonObject = isObject(given["function"]) ? given["function"] : given;
    const id = given["id"] ?? given["toolCallId"];
    return call(id, fn["name"] ?? given["toolName"], fn["arguments"] ?? given["args"] ?? given["input"]);
  });
}
