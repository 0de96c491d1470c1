// Recorded exchanges of providers' own clients, sent through the proxy: the bytes arrive as they were, what is recorded is what
// the bytes say, and the same client is answered again from the recording with no call leaving.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { Captures } from "../../src/capture/captures.ts";
import { Proxy } from "../../src/capture/proxy.ts";
import type { ProxyAnswer } from "../../src/capture/proxy-answer.ts";
import { Quarantine } from "../../src/capture/quarantine.ts";
import { Redactor } from "../../src/capture/redact.ts";
import { anthropicMessages } from "../../src/contract/wire/anthropic-messages.ts";
import { openaiChat } from "../../src/contract/wire/openai-chat.ts";
import { openaiResponses } from "../../src/contract/wire/openai-responses.ts";
import type { WireApi } from "../../src/contract/wire/wire.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { verifyRun } from "../../src/journal/verify.ts";
import { readWholeRun } from "../../src/journal/audit.ts";
import { seams, silent } from "../support/engine.ts";
import { ReplayWorld } from "../support/replay-world.ts";

const RUNS = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs",
);
const present = existsSync(RUNS);
if (!present) console.warn(`SKIPPED: the recorded runs are not there (${RUNS}); set QUARTERDECK_SHARED_DATA`);

const APIS: Record<string, WireApi> = {
  "https://api.openai.com/v1/chat/completions": openaiChat,
  "https://api.openai.com/v1/responses": openaiResponses,
  "https://api.anthropic.com/v1/messages": anthropicMessages,
};

type Json = Record<string, unknown>;
interface Exchange {
  readonly name: string;
  readonly api: WireApi;
  readonly sent: string;
  readonly request: Json;
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

interface Interaction {
  request: { uri: string; method: string; body: string | null };
  response: { status: { code: number }; headers: Record<string, string[] | string>; body: { string?: unknown } };
}

function exchangesOf(folder: string): Exchange[] {
  const lines = readFileSync(path.join(RUNS, folder, "index.jsonl"), "utf8")
    .trim()
    .split("\n");
  return lines.flatMap((line) => {
    const { file } = JSON.parse(line) as { file: string };
    const { interactions } = JSON.parse(readFileSync(path.join(RUNS, folder, file), "utf8")) as {
      interactions: Interaction[];
    };
    return interactions.flatMap(({ request, response }, i) => {
      const api = APIS[request.uri.split("?")[0] ?? ""];
      const body = response.body.string;
      if (!api || typeof request.body !== "string" || typeof body !== "string") return [];
      const type = Object.entries(response.headers).find(([name]) => name.toLowerCase() === "content-type")?.[1];
      return [
        {
          name: `${file.replace(/.*cassettes\//, "")} ${i}`,
          api,
          sent: request.body,
          request: JSON.parse(request.body) as Json,
          status: response.status.code,
          type: String(Array.isArray(type) ? type[0] : type),
          body,
        },
      ];
    });
  });
}

const exchanges = present ? ["http-openllmetry", "http-otel-contrib-genai"].flatMap(exchangesOf) : [];
const PRICES = 'prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }]';
const models = [...new Map(exchanges.map(({ request, api }) => [String(request["model"]), api])).entries()];
const MANIFESTS = [
  ...models.map(
    ([model, api], i) =>
      `kind: Model\nmetadata: { name: m${i} }\nspec: { provider: ${api === anthropicMessages ? "anthropic" : "openai"}, model: "${model}", ${PRICES} }`,
  ),
  "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: all, effect: allow }] }",
].join("\n---\n");

const whole = async ({ body }: ProxyAnswer): Promise<string> => {
  if (typeof body === "string") return body;
  let text = "";
  for await (const piece of body) text += piece;
  return text;
};

/** Data of a stream's events, read the plain way. */
const eventsIn = (body: string): Json[] =>
  body
    .split("\n")
    .filter((line) => line.startsWith("data: ") && line !== "data: [DONE]")
    .map((line) => JSON.parse(line.slice("data: ".length)) as Json);

/** Text of an answer as its bytes have it; counted here without the code under test. */
function textOf({ api, body, type }: Exchange): string {
  const list = (value: unknown) => (Array.isArray(value) ? value : []) as Json[];
  if (type.includes("event-stream")) {
    const events = eventsIn(body);
    if (api === openaiChat)
      return events
        .flatMap((event) => list(event["choices"]))
        .filter((choice) => choice["index"] === 0)
        .map((choice) => String((choice["delta"] as Json | undefined)?.["content"] ?? ""))
        .join("");
    if (api === openaiResponses)
      return events
        .map((event) => (event["type"] === "response.output_text.delta" ? String(event["delta"]) : ""))
        .join("");
    return events.map((event) => String((event["delta"] as Json | undefined)?.["text"] ?? "")).join("");
  }
  const answer = JSON.parse(body) as Json;
  if (api === openaiChat)
    return String((list(answer["choices"])[0]?.["message"] as Json | undefined)?.["content"] ?? "");
  if (api === anthropicMessages)
    return list(answer["content"])
      .map((block) => String(block["text"] ?? ""))
      .join("");
  return list(answer["output"])
    .flatMap((item) => list(item["content"]))
    .map((part) => String(part["text"] ?? ""))
    .join("");
}

/** Names of the tools that an answer calls, and the tokens that it says were used; null where it does not. */
function saidOf({ api, body, type }: Exchange): { tools: string[]; tokens: [number, number] | null } {
  const list = (value: unknown) => (Array.isArray(value) ? value : []) as Json[];
  const nameIn = (value: unknown) => String((value as Json | undefined)?.["name"] ?? "");
  const streamed = type.includes("event-stream");
  const parts = streamed ? eventsIn(body) : [JSON.parse(body) as Json];
  const tools = parts.flatMap((part) => {
    if (api === openaiChat) {
      const choice = list(part["choices"]).find(({ index }) => (index ?? 0) === 0);
      return list(((choice?.["delta"] ?? choice?.["message"]) as Json | undefined)?.["tool_calls"])
        .filter((call) => nameIn(call["function"]) !== "")
        .map((call) => nameIn(call["function"]));
    }
    if (api === anthropicMessages) {
      const blocks = streamed ? [(part["content_block"] ?? {}) as Json] : list(part["content"]);
      return blocks.filter((block) => block["type"] === "tool_use").map(nameIn);
    }
    const items = streamed
      ? part["type"] === "response.output_item.done"
        ? [part["item"] as Json]
        : []
      : list(part["output"]);
    return items.filter((item) => item["type"] === "function_call").map(nameIn);
  });
  const usage = (streamed ? null : parts[0]?.["usage"]) as Record<string, number> | null | undefined;
  const sum = (...names: string[]) => names.reduce((total, name) => total + (usage?.[name] ?? 0), 0);
  // What was read from a cache, or written to one, went in too; OpenAI counts it in, Anthropic beside.
  const input = sum("prompt_tokens", "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens");
  const tokens: [number, number] | null = usage ? [input, sum("completion_tokens", "output_tokens")] : null;
  return { tools, tokens };
}

describe.skipIf(!present)("recorded exchanges through the proxy", () => {
  const world = new ReplayWorld(MANIFESTS, () => ({ ok: true, kind: "tool", result: null }));
  const artifacts = new Map<string, Buffer>();
  const blobs = {
    put: async (_tenant: string, bytes: Uint8Array) => {
      const digest = `d${artifacts.size}`;
      artifacts.set(digest, Buffer.from(bytes));
      return digest;
    },
    get: async (_tenant: string, digest: string) => artifacts.get(digest) ?? Buffer.alloc(0),
  };
  const quarantine = new Quarantine({ blobs, tenantKey: () => new Uint8Array(32), ...seams });
  const captures = new Captures({
    quarantine,
    redactor: new Redactor("secrets"),
    owner: () => world.engine,
    store: world.store,
    tenantKey: () => new Uint8Array(32),
    blobs,
    external: async (_caller, ids) =>
      [...world.store.runs.values()].filter((run) => run.external_id !== null && ids.includes(run.external_id)),
    find: async (_caller, run_id) => world.engine.peek(run_id) ?? world.store.runs.get(run_id) ?? null,
    ...seams,
  });
  let now: Exchange | null = null;
  let left = 0;
  const proxy = new Proxy({
    captures,
    redactor: new Redactor("off"),
    quarantine,
    owner: () => world.engine,
    governance: world.shelf,
    net: {
      request: async () => {
        left += 1;
        if (!now) throw new Error("a call left that must not");
        const { body, status, type } = now;
        const bytes = Buffer.from(body);
        async function* parts() {
          yield bytes;
        }
        return { status, headers: { "content-type": type }, body: parts(), text: async () => bytes.toString("utf8") };
      },
    },
    secrets: { resolve: async () => "" },
    blobs,
    subscribe: () => () => undefined,
    log: silent,
    private_origins: [],
    ...seams,
  });
  const send = ({ api, sent }: Exchange, run_id: string) =>
    proxy.handle({
      caller: world.caller,
      api,
      body: Buffer.from(sent),
      headers: {},
      run_id,
      gone: new AbortController().signal,
    });
  beforeAll(() => world.engine.open());

  test("there are many, of each API, streamed and not", () => {
    for (const api of Object.values(APIS)) {
      const of = exchanges.filter((exchange) => exchange.api === api);
      expect(of.length).toBeGreaterThan(10);
      expect(new Set(of.map(({ type }) => type.includes("event-stream")))).toEqual(new Set([true, false]));
    }
  });

  test.each(exchanges.map((exchange) => [exchange.name, exchange] as const))("%s", async (_name, exchange) => {
    const { run_id } = await captures.start(world.caller, {});
    now = exchange;
    const answer = await send(exchange, run_id);
    expect([answer.status, await whole(answer)]).toEqual([exchange.status, exchange.body]);
    now = null;
    const rows = await readWholeRun(world.store, world.caller.tenant_id, run_id);
    const outcome = rows.flatMap((row) => decodeBody(row.body)).at(-1);
    if (exchange.status >= 400)
      return expect(outcome).toMatchObject({ type: "step.ended", data: { code: `provider_${exchange.status}` } });
    expect(outcome?.type).toBe("model.completed");
    const ref = outcome?.data["content_ref"] as { digest: string } | undefined;
    const content = ref ? artifacts.get(ref.digest)?.toString("utf8") : (outcome?.data["content"] ?? "");
    expect(content).toBe(textOf(exchange));
    const { tools, tokens } = saidOf(exchange);
    expect(outcome?.data["tool_calls"]).toMatchObject(tools.map((name) => ({ name })));
    expect(outcome?.data["tool_calls"]).toHaveLength(tools.length);
    if (tokens) expect(outcome?.data["usage"]).toMatchObject({ input_tokens: tokens[0], output_tokens: tokens[1] });
    await captures.end(world.caller, run_id, 0);
    verifyRun(rows);
    // The same client again.
    const before = left;
    const replay = await captures.start(world.caller, { replay_of: run_id });
    const again = await send(exchange, replay.run_id);
    expect([again.status, await whole(again), left]).toEqual([exchange.status, exchange.body, before]);
    expect(await captures.end(world.caller, replay.run_id, 0)).toMatchObject({ state: "succeeded", cost_micro_usd: 0 });
  });
});
