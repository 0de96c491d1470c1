// What the proxy reads off recorded streams of providers must be what their own events say, counted here the plain way.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { anthropicMessages } from "../../src/contract/wire/anthropic-messages.ts";
import { openaiChat } from "../../src/contract/wire/openai-chat.ts";
import { openaiResponses } from "../../src/contract/wire/openai-responses.ts";
import { EventSplitter } from "../../src/contract/wire/wire.ts";
import type { WireApi } from "../../src/contract/wire/wire.ts";

const FOLDER = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs/stream-vercel-ai",
);
const present = existsSync(FOLDER);
const names = present ? readdirSync(FOLDER).filter((name) => name.endsWith(".chunks.jsonl")) : [];

type Chunk = Record<string, unknown> & { type?: string };
const chunksOf = (name: string): Chunk[] =>
  readFileSync(path.join(FOLDER, name), "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => JSON.parse(line) as Chunk)
    // Some files hold several answers, one after the other.
    .filter((_chunk, i, all) => all.slice(0, i + 1).filter((one) => one.type === "message_start").length <= 1);

/** Sends a recorded stream as it was on the wire, in pieces that split events anywhere. */
function assembled(api: WireApi, chunks: readonly Chunk[], piece: number) {
  const named = api !== openaiChat;
  const text = chunks
    .map((chunk) => `${named ? `event: ${chunk.type}\n` : ""}data: ${JSON.stringify(chunk)}\n\n`)
    .join("");
  const bytes = Buffer.from(api === openaiChat ? `${text}data: [DONE]\n\n` : text);
  const assembler = api.assembler({});
  const splitter = new EventSplitter();
  let seen = "";
  for (let at = 0; at < bytes.length; at += piece) {
    for (const event of splitter.push(bytes.subarray(at, at + piece))) {
      assembler.push(event);
      seen += event.text;
    }
  }
  expect(seen + splitter.rest()).toBe(bytes.toString("utf8"));
  return assembler.answer();
}

const kindOf = (chunks: readonly Chunk[]): WireApi | null => {
  if (chunks.some((chunk) => chunk.type === "message_start")) return anthropicMessages;
  if (chunks.some((chunk) => chunk.type === "response.created")) return openaiResponses;
  return chunks.some((chunk) => chunk["object"] === "chat.completion.chunk") ? openaiChat : null;
};

describe.skipIf(!present)("recorded streams", () => {
  const streams = names
    .map((name) => ({ name, chunks: chunksOf(name) }))
    .filter(({ chunks }) => kindOf(chunks) !== null);

  test("there are streams of each API", () => {
    for (const api of [openaiChat, openaiResponses, anthropicMessages])
      expect(streams.filter(({ chunks }) => kindOf(chunks) === api).length).toBeGreaterThanOrEqual(3);
  });

  test.each(streams.map(({ name, chunks }) => [name, chunks] as const))("%s", (_name, chunks) => {
    const api = kindOf(chunks) as WireApi;
    const answer = assembled(api, chunks, 37);
    expect(assembled(api, chunks, 100_000)).toEqual(answer);
    const deltas = chunks.map((chunk) => (chunk["delta"] ?? {}) as Record<string, unknown> | string);
    if (api === anthropicMessages) {
      const text = deltas.map((delta) => (typeof delta === "object" ? (delta["text"] ?? "") : "")).join("");
      expect(answer.content ?? "").toBe(text);
      const uses = chunks.filter((chunk) => (chunk["content_block"] as Chunk | undefined)?.type === "tool_use");
      expect(answer.tool_calls).toHaveLength(uses.length);
      for (const call of answer.tool_calls) expect(() => JSON.parse(call.arguments)).not.toThrow();
    } else if (api === openaiResponses) {
      const text = chunks.filter((chunk) => chunk.type === "response.output_text.delta").map((chunk) => chunk["delta"]);
      expect(answer.content ?? "").toBe(text.join(""));
    } else {
      const first = chunks.map((chunk) => ((chunk["choices"] as Chunk[] | undefined)?.[0]?.["delta"] ?? {}) as Chunk);
      expect(answer.content ?? "").toBe(first.map((delta) => delta["content"] ?? "").join(""));
      for (const call of answer.tool_calls) expect(() => JSON.parse(call.arguments)).not.toThrow();
    }
    const withUsage = chunks.some((chunk) => JSON.stringify(chunk).includes('"output_tokens":') || chunk["usage"]);
    if (withUsage) expect(answer.usage).not.toBeNull();
  });
});
