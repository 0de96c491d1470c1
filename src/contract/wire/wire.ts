// What the proxy needs to know of a provider's API: where the model and the limit stand in a request, what of a request decides
// its answer, and what an answer says. Bytes are passed on as they are; this only reads them.
import type { Json, JsonObject } from "../../kit/json.ts";
import type { ToolCall, Usage } from "../jobs.ts";

export const WIRE_APIS = [
  "openai.chat",
  "openai.responses",
  "openai.embeddings",
  "anthropic.messages",
  "anthropic.count_tokens",
] as const;
export type WireApiName = (typeof WIRE_APIS)[number];

export interface WireAnswer {
  content: string | null;
  tool_calls: ToolCall[];
  /** Null when the provider did not say. */
  usage: Usage | null;
  finish_reason: string;
  model: string;
}

/** One event of a stream: its name, where it has one, and its data as sent. */
export interface WireEvent {
  readonly name: string;
  readonly data: string;
}

/** Puts the answer of a stream together. */
export interface WireAssembler {
  push(event: WireEvent): void;
  /** True for the event that ends the stream: it is passed on when the outcome is committed. */
  isLast(event: WireEvent): boolean;
  /** True for an event that only we asked for. */
  isOurs(event: WireEvent): boolean;
  answer(): WireAnswer;
  /** Bytes of output so far. */
  readonly output_bytes: number;
}

export interface WireApi {
  readonly name: WireApiName;
  /** Path below the provider's base URL. */
  readonly path: string;
  readonly base_url: string;
  /** Headers of the provider's own credential. */
  credential(key: string): Record<string, string>;
  limitOf(body: JsonObject): number | null;
  /** The request as it is sent: the route's model, the limit, and usage asked for in streams. */
  outgoing(body: JsonObject, given: { model: string; max_output_tokens: number }): JsonObject;
  answer(body: JsonObject): WireAnswer;
  assembler(body: JsonObject): WireAssembler;
  /** A refusal in the provider's own form, so that an unmodified client understands it. */
  refusal(status: number, code: string, message: string): JsonObject;
}

/** Of an API that answers whole: what comes as a stream all the same is passed on and says nothing that is understood. */
export function nothingUnderstood(): WireAssembler {
  const answer = { content: null, tool_calls: [], usage: null, finish_reason: "", model: "" };
  return { push: () => undefined, isLast: () => false, isOurs: () => false, answer: () => answer, output_bytes: 0 };
}

/** Fields that do not decide the answer. */
const IGNORED = new Set([
  "metadata",
  "user",
  "stream",
  "stream_options",
  "store",
  "service_tier",
  "prompt_cache_key",
  "prompt_cache_retention",
  "safety_identifier",
  "cache_control",
]);

/** A request without what does not decide its answer; nested cache hints too. */
export function canonicalRequest(value: Json, depth = 0): Json {
  if (Array.isArray(value)) return value.map((item) => canonicalRequest(item, depth + 1));
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(([key]) => (depth === 0 ? !IGNORED.has(key) : key !== "cache_control"));
  return Object.fromEntries(kept.map(([key, item]) => [key, canonicalRequest(item, depth + 1)]));
}

/** Splits a stream into events as its bytes come (WHATWG HTML, server-sent events). Keeps each event's text as it was. */
export class EventSplitter {
  private buffer = "";
  private readonly decoder = new TextDecoder();

  *push(bytes: Uint8Array): Iterable<WireEvent & { readonly text: string }> {
    const whole = this.buffer + this.decoder.decode(bytes, { stream: true });
    const end = /\r?\n\r?\n/g;
    let at = 0;
    while (end.test(whole)) {
      const text = whole.slice(at, end.lastIndex);
      at = end.lastIndex;
      this.buffer = whole.slice(at);
      yield { text, ...eventOf(text) };
    }
    if (at === 0) this.buffer = whole;
  }

  /** What is left when the stream ends. */
  rest(): string {
    const left = this.buffer + this.decoder.decode();
    this.buffer = "";
    return left;
  }
}

function eventOf(text: string): WireEvent {
  let name = "";
  const data: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
  }
  return { name, data: data.join("\n") };
}
