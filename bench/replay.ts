// REPLAY: how fast recorded runs are decided again, and how fast two runs are compared, both read from Postgres.
import { systemClock } from "../src/adapters/system/system.ts";
import { loadConfig } from "../src/server/config.ts";
import { createLog } from "../src/server/log.ts";
import { startServer } from "../src/server/start.ts";
import type { Server } from "../src/server/start.ts";
import { remove, tempFolder } from "../test/support/processes.ts";
import { median } from "./harness.ts";

const STEPS = 1_000;
const MANIFESTS = `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop, cost_usd: "0.0001" }
---
kind: Workflow
metadata: { name: long }
spec: { steps: [${Array.from({ length: STEPS }, (_, i) => `{ id: s${i}, tool: noop, args: { i: ${i} } }`).join(", ")}], budget: { cost_usd: "10" } }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: allow, effect: allow, when: "run.steps < 5000 && cost < 1000000.0" }] }
`;

type Row = Record<string, number | string>;

async function timed(passes: number, work: () => Promise<unknown>): Promise<number> {
  const times: number[] = [];
  for (let pass = 0; pass <= passes; pass++) {
    const begun = performance.now();
    await work();
    if (pass > 0) times.push(performance.now() - begun);
  }
  return median(times);
}

/** The longest that anything else in this process waits for its turn while something is done, in whole ms. */
async function longestWait(work: () => Promise<unknown>): Promise<number> {
  let last = performance.now();
  let longest = 0;
  let going = true;
  const look = () => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
    if (going) setImmediate(look);
  };
  setImmediate(look);
  await work();
  await new Promise((resolve) => setImmediate(resolve));
  going = false;
  return Math.round(longest);
}

/** A conversation of so many steps: half are the model's, half its tool's. `changed` tells which tool results are others. */
function transcript(steps: number, changed: (i: number) => boolean): string {
  const messages: object[] = [{ role: "user", content: "go" }];
  for (let i = 0; i < steps / 2; i++) {
    const call = { id: `c${i}`, type: "function", function: { name: `tool_${i % 7}`, arguments: `{"i":${i}}` } };
    messages.push({ role: "assistant", content: null, tool_calls: [call] });
    messages.push({ role: "tool", tool_call_id: `c${i}`, content: changed(i) ? `other ${i}` : `result ${i}` });
  }
  return JSON.stringify({ messages });
}

async function imported(server: Server, steps: number, changed: (i: number) => boolean): Promise<string> {
  const { services } = server;
  const caller = { tenant_id: services.tenant_id, project: services.project, principal: "bench" };
  const [run] = await services.journal.importRuns(caller, "openai-chat", transcript(steps, changed));
  return run?.run_id ?? "";
}

export async function replayFigures(passes: number): Promise<Row[]> {
  const data = tempFolder("qd-bench-replay");
  const log = createLog(systemClock, (line) => process.stderr.write(`${line}\n`));
  const server = await startServer({ config: loadConfig({ data, port: 0 }, {}), log });
  const { services } = server;
  const caller = { tenant_id: services.tenant_id, project: services.project, principal: "bench" };
  await services.registry.apply({ ...caller, text: MANIFESTS });
  const rows: Row[] = [];
  const { run_id } = await services.runs.start(caller, { workflow: "long" });
  while ((await services.runs.get(caller, run_id)).state === "running") await systemClock.sleep(50);
  const replay = async (mode: "exact" | "cached") => {
    const { replay_id } = await services.replays.start(caller, { run_id, mode });
    while ((await services.runs.get(caller, replay_id)).state === "running") await systemClock.sleep(1);
    return services.replays.get(caller, replay_id);
  };
  for (const mode of ["exact", "cached"] as const) {
    const { state, events } = await replay(mode);
    if (state !== `completed_${mode}`) throw new Error(`${mode}: ${state}`);
    const ms = await timed(passes, () => replay(mode));
    rows.push({
      what: `${mode} replay, ${STEPS} steps decided`,
      events,
      ms: Math.round(ms),
      per_s: Math.round((events * 1000) / ms),
    });
  }
  for (const steps of [10_000, 100_000]) {
    const a = await imported(server, steps, () => false);
    const b = await imported(server, steps, (i) => i % 500 === 499);
    const diff = await services.diffs.compare(caller, a, b);
    if (diff.changed < steps / 1000 || diff.inserted > 0) throw new Error(`diff of ${steps}: ${diff.changed} changed`);
    const before = process.memoryUsage().rss;
    const ms = await timed(Math.min(passes, 3), () => services.diffs.compare(caller, a, b));
    const rss = Math.round((process.memoryUsage().rss - before) / 1e6);
    const wait_ms = await longestWait(() => services.diffs.compare(caller, a, b));
    const items = diff.a.items;
    rows.push({ what: `diff of two runs of ${steps} steps`, items, ms: Math.round(ms), wait_ms, rss_mb: rss });
    const others: [what: string, work: () => Promise<unknown>][] = [
      ["exact replay", () => services.replays.start(caller, { run_id: a, mode: "exact" })],
      ["verification", () => services.journal.verify(caller, a)],
      ["import", () => imported(server, steps, () => false)],
    ];
    for (const [what, work] of others) {
      const ms = Math.round(await timed(1, work));
      rows.push({ what: `${what}, ${steps} steps`, events: steps * 2, ms, wait_ms: await longestWait(work) });
    }
  }
  await server.close();
  remove(data);
  return rows;
}
