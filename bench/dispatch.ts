// DISPATCH: from the commit of an intent to the start of its execution in a worker of its own, at half of the load that the
// same set-up carries. The start is when the tool's server, a thread of its own, sees the call.
import { Worker } from "node:worker_threads";
import { concurrently, IN_FLIGHT, percentile, STEPS } from "./harness.ts";
import { openCluster } from "./w6.ts";

const WARM_RUNS = 200;
const FULL_RUNS = 400;
const HALF_SECONDS = 15;
type Row = Record<string, number | string>;

const now = (): number => performance.timeOrigin + performance.now();

/** A server that notes when which call came; it says so when it is asked. */
const SERVER = `
const { createServer } = require("node:http");
const { parentPort } = require("node:worker_threads");
const seen = [];
const server = createServer((req, res) => {
  const at = performance.timeOrigin + performance.now();
  let text = "";
  req.on("data", (chunk) => (text += chunk));
  req.on("end", () => {
    const { run, i } = JSON.parse(text);
    seen.push([run + "/" + i, at]);
    res.writeHead(200, { "content-type": "application/json" });
    res.end("{}");
  });
});
server.listen(0, "127.0.0.1", () => parentPort.postMessage({ port: server.address().port }));
parentPort.on("message", () => parentPort.postMessage({ seen: seen.splice(0) }));
`;

async function startTool(): Promise<{ url: string; seen(): Promise<[string, number][]>; stop(): Promise<number> }> {
  const worker = new Worker(SERVER, { eval: true });
  const next = <T>(): Promise<T> => new Promise((resolve) => worker.once("message", resolve));
  const { port } = await next<{ port: number }>();
  return {
    url: `http://127.0.0.1:${port}`,
    seen: async () => {
      const answer = next<{ seen: [string, number][] }>();
      worker.postMessage("seen", []);
      return (await answer).seen;
    },
    stop: () => worker.terminate(),
  };
}

const manifestsOf = (url: string): string => `
---
kind: Tool
metadata: { name: bench.called }
spec: { kind: http, method: POST, url: "${url}/", effect_class: read, idempotent: true, input_schema: { type: object } }
---
kind: Workflow
metadata: { name: called }
spec: { steps: [${Array.from({ length: STEPS }, (_, i) => `{ id: s${i}, tool: bench.called, args: { i: ${i}, run: "\${input}" } }`).join(", ")}] }
`;

export async function dispatchFigures(): Promise<Row[]> {
  const tool = await startTool();
  const sent = new Map<string, number>();
  const cluster = await openCluster({
    manifests: manifestsOf(tool.url),
    workflow: "called",
    origins: [tool.url],
    onCommit: ({ drafts }) => {
      for (const { type, data } of drafts) {
        if (type !== "tool.requested") continue;
        const { run, i } = data["args"] as { run: string; i: number };
        sent.set(`${run}/${i}`, now());
      }
    },
  });
  let n = 0;
  const one = () => cluster.run(`r${(n += 1)}`);
  await concurrently(WARM_RUNS, IN_FLIGHT, one);
  const begun = performance.now();
  await concurrently(FULL_RUNS, IN_FLIGHT, one);
  const full = (FULL_RUNS * STEPS * 1_000) / (performance.now() - begun);
  await tool.seen();
  sent.clear();
  // Half of it, evenly: runs begin by the clock, not when others end.
  const every_ms = (STEPS * 1_000) / (full / 2);
  const open: Promise<void>[] = [];
  const start = performance.now();
  for (let due = 0; due < HALF_SECONDS * 1_000; due += every_ms) {
    const wait = start + due - performance.now();
    if (wait > 1) await new Promise((resolve) => setTimeout(resolve, wait));
    open.push(one());
  }
  await Promise.all(open);
  const delays = (await tool.seen()).map(([key, at]) => at - (sent.get(key) ?? at));
  await cluster.close();
  await tool.stop();
  return [
    {
      what: "commit of the intent to start in a worker, half load",
      full_steps_per_s: Math.round(full),
      steps: delays.length,
      p50_ms: Number(percentile(delays, 0.5).toFixed(2)),
      p99_ms: Number(percentile(delays, 0.99).toFixed(2)),
    },
  ];
}
