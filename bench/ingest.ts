// INGEST: observed events over HTTP in batches of 100, and spans over OTLP; client, server and database on the same cores.
import { Agent, request } from "undici";
import { systemClock, systemRandom } from "../src/adapters/system/system.ts";
import { newId } from "../src/contract/ids.ts";
import { remove, startUp, tempFolder } from "../test/support/processes.ts";
import { concurrently, cpuOfTree, median, percentile } from "./harness.ts";

const BATCH = 100;
const BATCHES_PER_RUN = 20;
/** Of one pass. */
const RUNS = 30;
const SPANS_PER_BATCH = 500;
const SPAN_BATCHES = 60;
/** A server runs for days: its compiler has done its work. */
const WARM_PASSES = 2;
const CONNECTIONS = 4;
type Row = Record<string, number | string>;

const QUESTION = "What is the status of the order, and when will it be delivered? ".repeat(3);
const at = (no: number) => new Date(1_790_000_000_000 + no).toISOString();

/** One turn of an agent: a model call and a tool call. */
function turn(no: number): object[] {
  const [model, tool] = [`m${no}`, `t${no}`];
  const messages = [{ role: "user", content: QUESTION }];
  const usage = { input_tokens: 120, output_tokens: 40 };
  return [
    { type: "model.requested", step_id: model, data: { model: "m-1", api: "openai.chat", request: { messages } } },
    { type: "model.completed", step_id: model, data: { content: "I will look it up.", usage, duration_ms: 412 } },
    { type: "tool.requested", step_id: tool, data: { tool: "orders.get", args: { order_id: `W${no}` } } },
    {
      type: "tool.completed",
      step_id: tool,
      data: { result: { status: "delivered", items: [1, 2, 3] }, duration_ms: 31 },
    },
  ].map((event, i) => ({ ...event, sequence_no: no + i, occurred_at: at(no + i) }));
}

/** Bodies of one run's batches. */
function bodies(): string[] {
  const events: object[] = [{ sequence_no: 1, type: "run.started", data: { agent: "bench", input: QUESTION } }];
  const total = BATCH * BATCHES_PER_RUN;
  while (events.length < total) events.push(...turn(events.length + 1));
  events.length = total - 1;
  events.push({ sequence_no: total, type: "run.succeeded", data: { output: "done" } });
  return Array.from({ length: BATCHES_PER_RUN }, (_, i) =>
    JSON.stringify({ producer_id: "bench", events: events.slice(i * BATCH, (i + 1) * BATCH) }),
  );
}

const hex = (bytes: number): string => Buffer.from(systemRandom.bytes(bytes)).toString("hex");
const attribute = (key: string, value: string | number) => ({
  key,
  value: typeof value === "string" ? { stringValue: value } : { intValue: String(value) },
});

/** One export of a trace of 25 spans after the other: model and tool calls below a root. */
function exported(): string {
  const spans: object[] = [];
  while (spans.length < SPANS_PER_BATCH) {
    const traceId = hex(16);
    const root = hex(8);
    for (let i = 0; i < 25; i++) {
      const isModel = i % 2 === 1;
      const start = 1_790_000_000_000_000_000n + BigInt(i) * 1_000_000n;
      spans.push({
        traceId,
        spanId: i === 0 ? root : hex(8),
        ...(i === 0 ? {} : { parentSpanId: root }),
        name: i === 0 ? "invoke_agent bench" : isModel ? "chat m-1" : "execute_tool orders.get",
        kind: 3,
        startTimeUnixNano: String(start),
        endTimeUnixNano: String(start + 900_000n),
        attributes:
          i === 0
            ? [attribute("gen_ai.operation.name", "invoke_agent"), attribute("gen_ai.agent.name", "bench")]
            : isModel
              ? [
                  attribute("gen_ai.operation.name", "chat"),
                  attribute("gen_ai.provider.name", "openai"),
                  attribute("gen_ai.request.model", "m-1"),
                  attribute("gen_ai.usage.input_tokens", 120),
                  attribute("gen_ai.usage.output_tokens", 40),
                ]
              : [
                  attribute("gen_ai.operation.name", "execute_tool"),
                  attribute("gen_ai.tool.name", "orders.get"),
                  attribute("gen_ai.tool.call.arguments", '{"order_id":"W1"}'),
                  attribute("gen_ai.tool.call.result", '{"status":"delivered"}'),
                ],
        status: {},
      });
    }
  }
  const resource = { attributes: [attribute("service.name", "bench")] };
  return JSON.stringify({ resourceSpans: [{ resource, scopeSpans: [{ scope: { name: "bench" }, spans }] }] });
}

interface Measured {
  readonly times: number[];
  readonly seconds: number;
  readonly cpu: number;
}

async function measured(count: number, work: (i: number, times: number[]) => Promise<void>): Promise<Measured> {
  const times: number[] = [];
  const cpu = cpuOfTree(process.pid);
  const begun = performance.now();
  await concurrently(count, CONNECTIONS, (i) => work(i, times));
  return { times, seconds: (performance.now() - begun) / 1000, cpu: cpuOfTree(process.pid) - cpu };
}

/** The median of the passes; times of all calls. */
function rowOf(what: string, passes: readonly Measured[], count: number): Row {
  const times = passes.flatMap((one) => one.times);
  return {
    what,
    per_s: Math.round(median(passes.map(({ seconds }) => count / seconds))),
    p50_ms: Number(percentile(times, 0.5).toFixed(1)),
    p99_ms: Number(percentile(times, 0.99).toFixed(1)),
    // All processes: client, server, database.
    cpu_s_per_1000: Number(median(passes.map(({ cpu }) => (cpu * 1000) / count)).toFixed(4)),
  };
}

/** Events and spans pass by pass in turns, because the machine changes its speed for minutes. */
export async function ingestFigures(count: number): Promise<Row[]> {
  const data = tempFolder("qd-bench-ingest");
  // A process of its own, as it runs elsewhere; the client is this one.
  const server = await startUp(data);
  const agent = new Agent({ connections: CONNECTIONS });
  const post = async (path: string, body: string | Buffer, type: string, times: number[]): Promise<void> => {
    const begun = performance.now();
    const headers = { "content-type": type, authorization: "Bearer x" };
    const answer = await request(server.url + path, { method: "POST", headers, body, dispatcher: agent });
    const said = await answer.body.text();
    times.push(performance.now() - begun);
    if (answer.statusCode !== 200 || said.includes("rejected"))
      throw new Error(`${answer.statusCode}: ${said.slice(0, 500)}`);
  };
  const batches = bodies();
  const runEvents = async (_i: number, times: number[]): Promise<void> => {
    const run_id = newId("run", { clock: systemClock, random: systemRandom });
    for (const body of batches) await post(`/api/v1/runs/${run_id}/events`, body, "application/json", times);
  };
  const passes = { events: [] as Measured[], spans: [] as Measured[] };
  for (let n = 0; n < count + WARM_PASSES; n++) {
    const exports = Array.from({ length: SPAN_BATCHES }, exported);
    const events = await measured(RUNS, runEvents);
    const spans = await measured(SPAN_BATCHES, (i, times) =>
      post("/v1/traces", exports[i] ?? "", "application/json", times),
    );
    if (n < WARM_PASSES) continue;
    passes.events.push(events);
    passes.spans.push(spans);
  }
  const rows = [
    rowOf(`events, batches of ${BATCH}`, passes.events, RUNS * BATCHES_PER_RUN * BATCH),
    rowOf(`spans as JSON, batches of ${SPANS_PER_BATCH}`, passes.spans, SPAN_BATCHES * SPANS_PER_BATCH),
  ];
  await agent.close();
  await server.stop();
  remove(data);
  return rows;
}
