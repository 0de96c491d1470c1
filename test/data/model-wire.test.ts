// The model port against providers' recorded streams (wire-exact), through the real egress client and SDKs.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EgressNet } from "../../src/adapters/net/net.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import type { JobOutcome, ModelJob, ModelRoute } from "../../src/contract/jobs.ts";
import { executeLiveModel } from "../../src/worker/model.ts";
import { JobContext } from "../../src/worker/pool.ts";
import { JobError } from "../../src/worker/pool.ts";
import { startModelServer } from "../support/model-server.ts";
import type { ModelServer, Recorded } from "../support/model-server.ts";

const FOLDER = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs/stream-vercel-ai",
);
const present = existsSync(FOLDER);
const chunks = (name: string) =>
  readFileSync(path.join(FOLDER, `${name}.chunks.jsonl`), "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "");

let server: ModelServer;
beforeAll(async () => void (server = await startModelServer()));
afterAll(() => server.close());

const route = (provider: ModelRoute["provider"]): ModelRoute => ({
  name: "m",
  version: 1,
  provider,
  model: "any-model",
  base_url: provider === "anthropic" ? `${server.url}/v1` : server.url,
  api_key: "env:QD_SECRET_TEST",
  recording: null,
  concurrency_max: 2,
  timeout_ms: 5_000,
  attempts_max: 1,
});
const job = (provider: ModelRoute["provider"], over: Partial<ModelJob> = {}): ModelJob => ({
  tenant_id: "t",
  run_id: "r",
  step: 1,
  attempt: 1,
  kind: "model",
  route: route(provider),
  max_output_tokens: 1_000,
  reserved_output_tokens: 1_000,
  params: {},
  output_schema: null,
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hello" },
  ],
  tools: [
    { name: "json", description: "", input_schema: { type: "object" } },
    { name: "weather", description: "", input_schema: { type: "object" } },
  ],
  ...over,
});
const run = (over: ModelJob, recorded: Recorded): Promise<JobOutcome> => {
  server.answer(recorded);
  const deps = {
    net: new EgressNet(),
    secrets: { resolve: async () => "key-from-reference" },
    clock: systemClock,
    private_origins: [server.url],
    blobs: null as never,
  };
  return executeLiveModel(over, deps, new JobContext());
};

describe.skipIf(!present)("recorded provider streams", () => {
  test("Anthropic: text and a tool call, with usage", async () => {
    const outcome = await run(job("anthropic"), {
      style: "anthropic",
      chunks: chunks("anthropic__anthropic-json-tool.2"),
    });
    expect(outcome).toMatchObject({
      ok: true,
      kind: "model",
      content: "I'll invoke the JSON response tool.",
      response_model: "claude-haiku-4-5-20251001",
      usage: { input_tokens: 849 },
    });
    if (!outcome.ok || outcome.kind !== "model") return;
    expect(outcome.tool_calls[0]).toMatchObject({ name: "json" });
    expect(JSON.parse(outcome.tool_calls[0]?.arguments ?? "")).toHaveProperty("elements");
    const sent = server.requests.at(-1);
    expect(sent?.headers["x-api-key"]).toBe("key-from-reference");
    expect(sent?.body).toMatchObject({ max_tokens: 1_000, stream: true });
  });

  test("OpenAI: a streamed text", async () => {
    const outcome = await run(job("openai"), { style: "openai", chunks: chunks("openai__chat__azure-model-router.1") });
    expect(outcome).toMatchObject({ ok: true, kind: "model", finish_reason: "stop" });
    if (outcome.ok && outcome.kind === "model") expect(outcome.content?.length).toBeGreaterThan(0);
    expect(server.requests.at(-1)?.headers["authorization"]).toBe("Bearer key-from-reference");
  });

  test.each([
    "openai-compatible__chat__xai-text",
    "deepseek__chat__deepseek-text",
    "groq__groq-tool-call",
    "mistral__mistral-incremental-tool-call",
    "alibaba__alibaba-tool-call",
  ])("OpenAI-compatible: %s", async (name) => {
    const outcome = await run(job("openai-compatible"), { style: "openai", chunks: chunks(name) });
    expect(outcome).toMatchObject({ ok: true, kind: "model" });
    if (!outcome.ok || outcome.kind !== "model") return;
    expect((outcome.content ?? "").length + outcome.tool_calls.length).toBeGreaterThan(0);
    for (const call of outcome.tool_calls) expect(() => JSON.parse(call.arguments)).not.toThrow();
  });

  test("a stream far above its reservation is cut off and charged at what was reserved", async () => {
    const long = chunks("openai-compatible__chat__xai-text").filter((line) => line.includes('"content"'));
    const flood = Array.from({ length: 800 }, () => long[0] ?? "");
    const outcome = await run(job("openai-compatible", { reserved_output_tokens: 10, max_output_tokens: 10 }), {
      style: "openai",
      chunks: flood,
    });
    expect(outcome).toMatchObject({ ok: true, kind: "model", cut_off: true, usage: { output_tokens: 10 } });
  });

  test.each<[number, Record<string, string>, string, object]>([
    [429, { "retry-after": "7" }, "rate_limited", { retry_after_ms: 7_000 }],
    [503, {}, "transient", {}],
    [500, {}, "transient", {}],
    [401, {}, "permanent", {}],
    [400, {}, "permanent", {}],
  ])("status %i with %j is %s", async (status, headers, cls, more) => {
    const error = await run(job("openai"), {
      style: "openai",
      status,
      headers,
      body: '{"error":{"message":"no","type":"x"}}',
    }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(JobError);
    expect((error as JobError).failure).toMatchObject({ class: cls, ...more });
  });

  test("the conversation goes out with its calls and results in the provider's form", async () => {
    const messages: ModelJob["messages"] = [
      { role: "user", content: "x" },
      { role: "assistant", content: null, tool_calls: [{ id: "c1", name: "weather", arguments: '{"city":"Rome"}' }] },
      { role: "tool", call_id: "c1", name: "weather", content: "sunny" },
    ];
    await run(job("openai", { messages }), { style: "openai", chunks: chunks("openai__chat__azure-model-router.1") });
    expect(server.requests.at(-1)?.body["messages"]).toMatchObject([
      { role: "user", content: "x" },
      { role: "assistant", tool_calls: [{ id: "c1", function: { name: "weather", arguments: '{"city":"Rome"}' } }] },
      { role: "tool", tool_call_id: "c1", content: "sunny" },
    ]);
  });
});
