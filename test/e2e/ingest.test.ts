// Events and spans of others over HTTP: the ingest API, and OTLP as the OpenTelemetry SDK's own exporters send it.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { context, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { SeverityNumber } from "@opentelemetry/api-logs";
import { OTLPLogExporter } from "@opentelemetry/exporter-logs-otlp-proto";
import { OTLPTraceExporter as JsonExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { OTLPTraceExporter as ProtoExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchLogRecordProcessor, LoggerProvider } from "@opentelemetry/sdk-logs";
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";
import type { SpanExporter } from "@opentelemetry/sdk-trace-base";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { IngestAnswer } from "../../src/contract/ingest.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import { sha256Hex } from "../../src/kit/hash.ts";
import type { Run } from "../../src/contract/runs.ts";
import { freshRun } from "../support/engine.ts";
import { cli, remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

let data: string;
let server: Running;
beforeAll(async () => {
  data = tempFolder("qd-ingest");
  server = await startUp(data);
});
afterAll(async () => {
  await server.stop();
  remove(data);
});

const post = (path: string, body: string | Buffer, headers: Record<string, string> = {}) =>
  fetch(server.url + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });
const events = async (run_id: string) => (await server.client.events(run_id)).items;
const types = async (run_id: string) => (await events(run_id)).map((event) => event.type);
const runOf = async (external_id: string): Promise<Run | undefined> => {
  const answer = await fetch(`${server.url}/api/v1/runs?kind=captured&limit=200`);
  return ((await answer.json()) as { items: Run[] }).items.find((run) => run.external_id === external_id);
};

describe("the ingest API", () => {
  const batch = (sent: object[], producer_id = "p") => JSON.stringify({ producer_id, events: sent });
  const send = async (run_id: string, sent: object[]): Promise<IngestAnswer> => {
    const answer = await post(`/api/v1/runs/${run_id}/events`, batch(sent));
    expect(answer.status).toBe(200);
    return (await answer.json()) as IngestAnswer;
  };
  const started = { sequence_no: 1, type: "run.started", data: { agent: "desk", input: "hi" } };
  const note = (sequence_no: number) => ({ sequence_no, type: "memory.read", data: { store: `s${sequence_no}` } });

  test("what was acknowledged outlives a kill, staged or recorded, and is answered again", async () => {
    const run_id = freshRun();
    await send(run_id, [started, note(2)]);
    const early = await send(run_id, [note(4), note(5)]);
    expect(early.items.map((item) => item.status)).toEqual(["staged", "staged"]);
    expect(early.missing).toEqual([{ producer_id: "p", producer_epoch: 1, ranges: [{ from: 3, to: 3 }] }]);
    await server.kill();
    server = await startUp(data);
    const answer = await send(run_id, [started, note(2), note(3)]);
    expect(answer.items.map((item) => item.status)).toEqual(["duplicate", "duplicate", "committed"]);
    expect(await types(run_id)).toEqual(["run.started", "memory.read", "memory.read", "memory.read", "memory.read"]);
    const [, second] = await events(run_id);
    expect(second?.origin).toEqual({ producer_id: "p", epoch: 1, sequence_no: 2 });
    const done = await post(`/api/v1/runs/${run_id}/finalize`, JSON.stringify({ output: "bye" }));
    expect(await done.json()).toMatchObject({ state: "succeeded", kind: "captured", target: "desk@1" });
    expect((await cli(["--data", data, "verify", run_id])).code).toBe(0);
  });

  test("a run that names an artifact nobody has uploaded is not exported as if it were whole", async () => {
    const text = `what was said at length, ${freshRun()}`;
    const digest = `sha256:${sha256Hex(text)}`;
    const run_id = freshRun();
    await send(run_id, [
      started,
      { sequence_no: 2, type: "model.requested", step_id: "m", data: { model: "x", note: { artifact: "report.pdf" } } },
      {
        sequence_no: 3,
        type: "model.completed",
        step_id: "m",
        data: { content: "what was said", content_ref: { digest, bytes: text.length } },
      },
      { sequence_no: 4, type: "run.succeeded", data: {} },
    ]);
    const file = path.join(data, "whole.jsonl");
    const refused = await cli(["--data", data, "export", run_id, "-o", file]);
    expect([refused.code, refused.err]).toEqual([
      1,
      expect.stringContaining(`ARTIFACT_MISSING: Run ${run_id} names 1`),
    ]);
    expect(refused.err).toContain(digest);
    expect((await cli(["--data", data, "export", run_id, "--profile", "minimal", "-o", file])).code).toBe(0);
    // In a backup of everything it is named, so that nobody takes it for whole.
    const all = path.join(data, "all.jsonl");
    expect((await cli(["--data", data, "export", "--all", "-o", all])).code).toBe(0);
    const seen = await cli(["verify", "--file", all]);
    expect([seen.code, seen.out]).toEqual([0, expect.stringContaining("1 artifacts were not there")]);
    await fetch(`${server.url}/api/v1/artifacts`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: text,
    });
    expect((await cli(["--data", data, "export", run_id, "-o", file])).code).toBe(0);
  });

  test("finalize names what is missing", async () => {
    const run_id = freshRun();
    await send(run_id, [started, note(3)]);
    const refused = await post(`/api/v1/runs/${run_id}/finalize`, "{}");
    expect(refused.status).toBe(409);
    expect(await refused.json()).toMatchObject({
      code: "EVENTS_MISSING",
      details: { missing: [{ producer_id: "p", ranges: [{ from: 2, to: 2 }] }] },
    });
    const forced = await post(
      `/api/v1/runs/${run_id}/finalize`,
      JSON.stringify({ force: true, state: "failed", code: "gone" }),
    );
    expect(await forced.json()).toMatchObject({ state: "failed", reason: "gone" });
  });

  test("what came late is read where it was committed, or where it belongs", async () => {
    const run_id = freshRun();
    await send(run_id, [started, { ...note(2), data: {} }, note(3)]);
    await send(run_id, [note(2)]);
    const read = async (...args: string[]) => {
      const { out } = await cli(["--data", data, "runs", "events", run_id, ...args]);
      return out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Event)
        .flatMap(({ origin }) => origin?.sequence_no ?? []);
    };
    expect(await read()).toEqual([1, 3, 2]);
    expect(await read("--order", "logical")).toEqual([1, 2, 3]);
    const wrong = await fetch(`${server.url}/api/v1/runs/${run_id}/events?order=alphabetical`);
    expect([wrong.status, await wrong.json()]).toMatchObject([400, { code: "VALIDATION_ERROR" }]);
  });

  test("what was spent elsewhere is priced, counts in shared budgets, and warns", async () => {
    await server.client.apply(`
kind: Model
metadata: { name: priced }
spec: { provider: openai, model: priced-1, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Budget
metadata: { name: month }
spec: { scope: project, period: month, limit_usd: "0.001", thresholds: [50] }
`);
    const run_id = freshRun();
    const usage = { input_tokens: 400, output_tokens: 100 };
    const { items } = await send(run_id, [
      started,
      { sequence_no: 2, type: "model.requested", step_id: "m", data: { model: "priced-1" } },
      { sequence_no: 3, type: "model.completed", step_id: "m", data: { content: "x", usage } },
      { sequence_no: 4, type: "run.succeeded", data: {} },
    ]);
    expect(items.map((item) => item.status)).toEqual(items.map(() => "committed"));
    expect(await server.client.getRun(run_id)).toMatchObject({ cost_micro_usd: 600, tokens: 500 });
    expect(await types(run_id)).toContain("budget.warned");
    const { budgets } = await server.client.json<{ budgets: { budget: string; spent_micro_usd: number }[] }>("/status");
    expect(budgets.find((use) => use.budget.includes("month"))?.spent_micro_usd).toBe(600);
    // The same batch again costs nothing more.
    await send(run_id, [{ sequence_no: 3, type: "model.completed", step_id: "m", data: { content: "x", usage } }]);
    expect(await server.client.getRun(run_id)).toMatchObject({ cost_micro_usd: 600 });
  });

  test("bad input is named", async () => {
    const run_id = freshRun();
    const unstarted = await post(`/api/v1/runs/${run_id}/events`, batch([note(1)]));
    expect([unstarted.status, ((await unstarted.json()) as { code: string }).code]).toEqual([409, "RUN_NOT_STARTED"]);
    const version = await post(`/api/v1/runs/${run_id}/events`, batch([{ ...started, v: "7.0" }]));
    expect([version.status, ((await version.json()) as { code: string }).code]).toEqual([400, "VERSION_UNSUPPORTED"]);
    const many = Array.from({ length: LIMITS.ingest_events_max + 1 }, (_, i) => note(i + 1));
    const large = await post(`/api/v1/runs/${run_id}/events`, batch(many));
    expect([large.status, JSON.stringify(await large.json())]).toEqual([400, expect.stringContaining("/events")]);
    const { items } = await send(run_id, [
      started,
      { sequence_no: 2, type: "tool.requested", step_id: "t", data: { tool: "x" } },
    ]);
    expect(items[1]?.error).toMatchObject({
      code: "VALIDATION_ERROR",
      status: 400,
      message: expect.stringContaining("args"),
    });
  });

  test("a run of ours takes no events of others", async () => {
    const manifest = `
kind: Workflow
metadata: { name: w }
spec: { steps: [{ id: nap, wait_ms: 60000 }] }
`;
    await server.client.apply(manifest);
    const run = await server.client.startRun({ workflow: "w" });
    const answer = await post(`/api/v1/runs/${run.run_id}/events`, batch([note(1)]));
    expect(answer.status).toBe(409);
  });
});

describe("OTLP", () => {
  const provider = (exporter: SpanExporter) =>
    new BasicTracerProvider({
      resource: resourceFromAttributes({ "service.name": "shop", "deployment.environment.name": "prod" }),
      spanProcessors: [new BatchSpanProcessor(exporter)],
    });

  /** One turn of an agent, as an instrumentation writes it. */
  async function traced(exporter: SpanExporter): Promise<string> {
    const tracer = provider(exporter);
    const spans = tracer.getTracer("agent");
    const root = spans.startSpan("invoke_agent helper", {
      attributes: { "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper" },
    });
    const within = trace.setSpan(context.active(), root);
    const model = spans.startSpan(
      "chat m-1",
      {
        kind: SpanKind.CLIENT,
        attributes: {
          "gen_ai.operation.name": "chat",
          "gen_ai.provider.name": "openai",
          "gen_ai.request.model": "m-1",
          "gen_ai.request.temperature": 0.5,
          "gen_ai.usage.input_tokens": 12,
          "gen_ai.usage.output_tokens": 4,
          "gen_ai.response.finish_reasons": ["stop"],
          "gen_ai.input.messages": JSON.stringify([{ role: "user", parts: [{ type: "text", content: "grüezi 🎉" }] }]),
        },
      },
      within,
    );
    model.end();
    const tool = spans.startSpan(
      "execute_tool find",
      { attributes: { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find" } },
      within,
    );
    tool.recordException(new TypeError("no shelf"));
    tool.setStatus({ code: SpanStatusCode.ERROR, message: "no shelf" });
    tool.end();
    root.end();
    await tracer.forceFlush();
    await tracer.shutdown();
    return root.spanContext().traceId;
  }

  test.each([
    ["protobuf", () => new ProtoExporter({ url: `${server.url}/v1/traces` })],
    ["JSON", () => new JsonExporter({ url: `${server.url}/v1/traces` })],
    ["protobuf, gzip", () => new ProtoExporter({ url: `${server.url}/v1/traces`, compression: "gzip" as never })],
    ["JSON, gzip", () => new JsonExporter({ url: `${server.url}/v1/traces`, compression: "gzip" as never })],
  ])("the SDK's exporter: %s", async (_name, exporter) => {
    const run = await runOf(`otel:${await traced(exporter())}`);
    expect(run).toMatchObject({ target: "helper@1", env: "prod", tokens: 16, steps: 3, state: "running" });
    const list = await events(run?.run_id ?? "");
    const find = (type: string) => list.find((event) => event.type === type);
    expect(find("model.requested")?.data).toMatchObject({
      model: "m-1",
      provider: "openai",
      request: { messages: [{ content: "grüezi 🎉", role: "user" }], temperature: 0.5 },
    });
    expect(find("tool.failed")?.data).toMatchObject({ message: "no shelf" });
    expect(find("model.requested")?.parent_step_id).toBe(find("agent.started")?.step_id);
    expect(find("agent.ended")?.data).toMatchObject({ root: true });
  });

  test("log records stand with the span they belong to", async () => {
    const exporter = new OTLPLogExporter({ url: `${server.url}/v1/logs` });
    const logs = new LoggerProvider({ processors: [new BatchLogRecordProcessor({ exporter })] });
    const spanContext = { traceId: "ab".repeat(16), spanId: "cd".repeat(8), traceFlags: 1 };
    logs.getLogger("agent").emit({
      eventName: "gen_ai.client.inference.operation.details",
      severityNumber: SeverityNumber.INFO,
      body: { "gen_ai.input.messages": [{ role: "user" }] },
      context: trace.setSpanContext(context.active(), spanContext),
    });
    await logs.forceFlush();
    await logs.shutdown();
    const run = await runOf(`otel:${spanContext.traceId}`);
    const [, record] = await events(run?.run_id ?? "");
    expect(record).toMatchObject({ type: "wire.message", data: { name: "gen_ai.client.inference.operation.details" } });
    const loose = await post(
      "/v1/logs",
      JSON.stringify({ resourceLogs: [{ scopeLogs: [{ logRecords: [{ body: { stringValue: "hi" } }] }] }] }),
    );
    expect(await loose.json()).toMatchObject({ partialSuccess: { rejectedLogRecords: "1" } });
  });

  test("refusals are said as the protocol says them", async () => {
    const partial = await post(
      "/v1/traces",
      JSON.stringify({ resourceSpans: [{ scopeSpans: [{ spans: [{ name: "x" }] }] }] }),
    );
    expect(partial.status).toBe(200);
    expect(await partial.json()).toEqual({
      partialSuccess: { rejectedSpans: "1", errorMessage: expect.stringContaining("traceId") },
    });
    const broken = await post("/v1/traces", "{");
    expect([broken.status, await broken.json()]).toEqual([400, { code: 3, message: "The body is no JSON" }]);
    const noise = await post("/v1/traces", Buffer.from([0x0a, 0xff, 0xff]), {
      "content-type": "application/x-protobuf",
    });
    expect([noise.status, noise.headers.get("content-type")]).toEqual([400, "application/x-protobuf"]);
    expect(Buffer.from(await noise.arrayBuffer()).toString()).toContain("protobuf");
    const bomb = await post("/v1/traces", gzipSync(Buffer.alloc(LIMITS.otlp_bytes_max + 1)), {
      "content-encoding": "gzip",
    });
    expect(bomb.status).toBe(413);
    const type = await post("/v1/traces", "x", { "content-type": "application/octet-stream" });
    expect(type.status).toBe(415);
    const site = await post("/v1/traces", "{}", { origin: "https://evil.example" });
    expect(site.status).toBe(403);
    expect(await (await post("/v1/traces", "{}")).json()).toEqual({});
  });
});

test("who may write events may do that, and nothing else; who may not is refused at every door", async () => {
  const folder = tempFolder("qd-writers");
  const config = path.join(folder, "config.yaml");
  const credential = (principal: string, permission: string) =>
    `  - { principal: ${principal}, token_sha256: ${sha256Hex(principal)}, permissions: ["${permission}"] }\n`;
  writeFileSync(config, `credentials:\n${credential("writer", "events:write")}${credential("reader", "runs:read")}`);
  const own = await startUp(folder, {}, ["--config", config]);
  const run_id = freshRun();
  const call = (token: string | null, route: string, body?: string) =>
    fetch(own.url + route, {
      method: body === undefined ? "GET" : "POST",
      headers: { "content-type": "application/json", ...(token === null ? {} : { authorization: `Bearer ${token}` }) },
      ...(body === undefined ? {} : { body }),
    });
  const started = { sequence_no: 1, type: "run.started", data: { agent: "a" } };
  const events = JSON.stringify({ producer_id: "p", events: [started] });
  const doors: [string, string][] = [
    [`/api/v1/runs/${run_id}/events`, events],
    ["/v1/traces", "{}"],
    ["/v1/logs", "{}"],
    [`/api/v1/runs/${run_id}/finalize`, "{}"],
  ];
  for (const [route, body] of doors) {
    const statuses = [];
    for (const token of [null, "unknown", "reader", "writer"]) statuses.push((await call(token, route, body)).status);
    expect([route, ...statuses]).toEqual([route, 401, 401, 403, 200]);
  }
  expect(await (await call("reader", "/v1/traces", "{}")).json()).toMatchObject({ code: 7 });
  expect((await call("writer", `/api/v1/runs/${run_id}/events`)).status).toBe(403);
  expect((await call("writer", "/api/v1/captures", "{}")).status).toBe(403);
  expect(await (await call("reader", `/api/v1/runs/${run_id}`)).json()).toMatchObject({ requester: "writer" });
  await own.stop();
  remove(folder);
});
