// What comes in at one of two nodes, wherever it belongs: traces, sessions, backups, approvals, workers; and what is under way
// when a group of runs moves.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { groupOf } from "../../src/contract/placement.ts";
import type { Approval, Run } from "../../src/contract/runs.ts";
import type { QueueView, WorkerView } from "../../src/contract/workers.ts";
import { Pair } from "../support/pair.ts";
import { remove, startLedger, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const LEDGER_MS = 2_000;
const TRACES = 24;
const SINGLE_MS = 300;
let ledger: Ledger;
let model: ScriptedModel;
let pair: Pair;
let worker: WorkerProcess | null = null;
const folder = tempFolder("qd-shards");

const MANIFESTS = () => `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object } }
---
kind: Tool
metadata: { name: far }
spec: { kind: builtin, builtin: noop, runs_on: [far] }
---
kind: Model
metadata: { name: large }
spec: { provider: openai-compatible, model: large-1, base_url: "${model.url}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Tool
metadata: { name: single }
spec: { kind: builtin, builtin: sleep, concurrency_max: 1 }
---
kind: Workflow
metadata: { name: one-by-one }
spec: { steps: [{ id: a, tool: single, args: { ms: ${SINGLE_MS} } }] }
---
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }] }
---
kind: Workflow
metadata: { name: paying }
spec: { steps: [{ id: a, tool: pay }] }
---
kind: Workflow
metadata: { name: away }
spec: { steps: [{ id: a, tool: far }] }
---
kind: Workflow
metadata: { name: asking }
spec: { steps: [{ id: a, tool: pay }, { id: b, tool: noop }] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: ask, effect: require_approval, match: { tools: [pay], agents: [asking] } }, { id: a, effect: allow }] }
`;

beforeAll(async () => {
  ledger = await startLedger(LEDGER_MS);
  let n = 0;
  model = await startScriptedModel(() => ({ content: `Answer ${(n += 1)}.` }));
  pair = await Pair.open({ QUARTERDECK_PRIVATE_ORIGINS: `${ledger.url},${model.url}` });
});
afterAll(async () => {
  ledger.stop();
  await model.close();
  await pair.close();
  remove(folder);
});
beforeEach(async () => {
  await pair.start();
  await pair.second.client.apply(MANIFESTS());
  await pair.evenly();
});
afterEach(async () => {
  await worker?.kill();
  worker = null;
  await pair.end();
});

const nodes = () => [pair.first, pair.second];
const verify = (at: Running) => at.client.json("/journal/verify", { method: "POST", body: {} });
const listed = async (at: Running) => (await at.client.json<{ items: Run[] }>("/runs?limit=200")).items;
const ended = (at: Running, run_id: string) =>
  until(`run ${run_id} has ended`, async () => {
    const now = await at.client.getRun(run_id).catch(() => null);
    return now && !["queued", "running", "waiting"].includes(now.state) ? now : null;
  });
/** Which of the two has how many of these runs. */
const spread = async (run_ids: readonly string[]) => {
  const shards = await pair.shards(pair.first);
  return nodes().map(
    ({ url }) => run_ids.filter((run_id) => shards[groupOf(run_id, shards.length)]?.url === url).length,
  );
};

test("an export of many traces is taken in parts; sent again anywhere it changes nothing", async () => {
  const hex = (n: number, length: number) => n.toString(16).padStart(length, "0");
  const spans = Array.from({ length: TRACES }, (_, n) => ({
    traceId: hex(n + 1, 32),
    spanId: hex(n + 1, 16),
    name: `job ${n}`,
    startTimeUnixNano: "1700000000000000000",
    endTimeUnixNano: "1700000001000000000",
  }));
  const body = JSON.stringify({ resourceSpans: [{ scopeSpans: [{ spans: [...spans, { traceId: "zz" }] }] }] });
  for (const at of [pair.second, pair.first, pair.second]) {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`${at.url}/v1/traces`, { method: "POST", headers, body });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({ partialSuccess: { rejectedSpans: "1" } });
  }
  const runs = (await listed(pair.first)).map((run) => run.run_id);
  expect(runs).toHaveLength(TRACES);
  const [here, there] = await spread(runs);
  expect(Math.min(here ?? 0, there ?? 0)).toBeGreaterThan(0);
  for (const run_id of runs) expect((await pair.second.client.events(run_id)).items.length).toBeGreaterThan(1);
  expect(await verify(pair.second)).toMatchObject({ ok: true });
});

test("calls of one session belong to one run, whichever node is asked", async () => {
  const chat = (at: Running, session: string) =>
    fetch(`${at.url}/proxy/openai/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "quarterdeck-session": session },
      body: JSON.stringify({ model: "large-1", messages: [{ role: "user", content: session }] }),
    });
  const sessions = Array.from({ length: 8 }, (_, n) => `session-${n}`);
  await Promise.all(
    sessions.flatMap((session) =>
      [...nodes(), ...nodes()].map(async (at) => expect((await chat(at, session)).status).toBe(200)),
    ),
  );
  const runs = await listed(pair.second);
  expect(runs).toHaveLength(sessions.length);
  for (const { run_id } of runs) {
    const { items } = await pair.first.client.events(run_id);
    expect(items.filter((event) => event.type === "model.completed")).toHaveLength(4);
  }
});

test("a replayed call that had no answer has none, whichever node is asked", async () => {
  const request = { model: "large-1", messages: [{ role: "user", content: "anybody?" }] };
  const { run_id } = await pair.first.client.json<Run>("/captures", { method: "POST", body: { agent: "lost" } });
  const asked = { type: "model.requested", step_id: "m", data: { api: "openai.chat", model: "large-1", request } };
  const failed = { type: "model.failed", step_id: "m", data: { code: "TypeError", message: "fetch failed" } };
  const events = [asked, failed].map((event, i) => ({ ...event, sequence_no: i + 1 }));
  const body = { producer_id: "sdk", events };
  await pair.first.client.json(`/runs/${run_id}/events`, { method: "POST", body });
  await pair.first.client.json(`/captures/${run_id}/end`, { method: "POST", body: { exit_code: 0 } });
  for (const at of nodes()) {
    const replay = await pair.first.client.json<Run>("/captures", { method: "POST", body: { replay_of: run_id } });
    const url = `${at.url}/proxy/runs/${replay.run_id}/openai/v1/chat/completions`;
    const headers = { "content-type": "application/json" };
    await expect(fetch(url, { method: "POST", headers, body: JSON.stringify(request) })).rejects.toThrow(
      "fetch failed",
    );
    await pair.first.client.json(`/captures/${replay.run_id}/end`, { method: "POST", body: { exit_code: 0 } });
    expect(await pair.first.client.getRun(replay.run_id)).toMatchObject({ state: "succeeded", steps: 1 });
  }
});

test("an approval is given at the other node, and what waits is seen at both", async () => {
  const runs = await Promise.all(
    Array.from({ length: 6 }, (_, n) => (n % 2 ? pair.first : pair.second).client.startRun({ workflow: "asking" })),
  );
  const pending = await until("all wait", async () => {
    const { items } = await pair.first.client.json<{ items: Approval[] }>("/approvals?state=pending");
    return items.length === runs.length ? items : null;
  });
  const shards = await pair.shards(pair.first);
  for (const { approval_id, run_id } of pending) {
    const isFirst = shards[groupOf(run_id, shards.length)]?.url === pair.first.url;
    const other = isFirst ? pair.second : pair.first;
    await fetch(`${other.url}/api/v1/approvals/${approval_id}/approve`, {
      method: "POST",
      headers: { "content-type": "application/json", "quarterdeck-principal": "grace" },
      body: "{}",
    });
  }
  for (const { run_id } of runs) expect((await ended(pair.second, run_id)).state).toBe("succeeded");
});

test("a worker has jobs from both nodes, and each shows all of it", async () => {
  const token = await mint(pair.first, "far", ["far"]);
  const runs = await Promise.all(
    Array.from({ length: 20 }, (_, n) => (n % 2 ? pair.first : pair.second).client.startRun({ workflow: "away" })),
  );
  for (const at of nodes()) {
    const queues = await at.client.json<QueueView>("/queues");
    expect([queues.waiting, queues.lanes.map((lane) => lane.waiting)]).toEqual([20, [20]]);
  }
  // One job at a time: it has to ask one node after the other.
  worker = await startWorker(tempFolder("qd-far"), {
    control: pair.second.url,
    token,
    args: ["--labels", "far", "--concurrency", "1"],
  });
  for (const { run_id } of runs) expect((await ended(pair.first, run_id)).state).toBe("succeeded");
  for (const at of nodes()) {
    const { items } = await at.client.json<{ items: WorkerView[] }>("/workers");
    expect(items).toMatchObject([{ name: "far", instances: [{ state: "ready", completed: 20, running: 0 }] }]);
  }
});

test("a tool that one call at a time may use is used by one, whichever node has the run", async () => {
  const runs = await Promise.all(
    Array.from({ length: 12 }, (_, n) =>
      (n % 2 ? pair.first : pair.second).client.startRun({ workflow: "one-by-one" }),
    ),
  );
  const calls: { begun: number; ended: number }[] = [];
  for (const { run_id } of runs) {
    expect((await ended(pair.first, run_id)).state).toBe("succeeded");
    const { items } = await pair.first.client.events(run_id);
    const done = items.find((event) => event.type === "tool.completed");
    const at = Date.parse(String(done?.recorded_at));
    calls.push({ begun: at - Number(done?.data["duration_ms"]), ended: at });
  }
  calls.sort((a, b) => a.ended - b.ended);
  for (const [n, call] of calls.entries()) {
    const before = calls[n - 1];
    // An outcome is recorded a moment after the call has ended.
    if (before) expect(call.begun, `call ${n}`).toBeGreaterThan(before.ended - SINGLE_MS / 2);
  }
});

test("a backup goes into two nodes, each takes its runs, and the open ones go on", async () => {
  const closed = await Promise.all(Array.from({ length: 12 }, () => pair.first.client.startRun({ workflow: "quick" })));
  const open = await Promise.all(
    Array.from({ length: 6 }, (_, n) => nodes()[n % 2]?.client.startRun({ workflow: "asking" }) as Promise<Run>),
  );
  for (const { run_id } of closed) await ended(pair.second, run_id);
  await until("all wait", async () => (await listed(pair.first)).filter((run) => run.state === "waiting").length === 6);
  const backup = await (await fetch(`${pair.second.url}/api/v1/journal/export`)).text();
  await pair.end();
  await pair.start({}, true);
  await pair.evenly();
  const restore = async (at: Running) => {
    const headers = { "content-type": "application/x-ndjson" };
    return (await fetch(`${at.url}/api/v1/journal/import`, { method: "POST", headers, body: backup })).json();
  };
  expect(await restore(pair.second)).toMatchObject({ runs: 18, skipped: 0, elsewhere: [] });
  expect(await restore(pair.first)).toMatchObject({ runs: 0, skipped: 18, elsewhere: [] });
  const run_ids = [...closed, ...open].map((run) => run.run_id);
  expect((await listed(pair.first)).map((run) => run.run_id).sort()).toEqual(run_ids.sort());
  for (const { run_id } of open) {
    await pair.second.client.act(run_id, "cancel");
    expect((await ended(pair.first, run_id)).state).toBe("cancelled");
  }
  for (const at of nodes()) expect(await verify(at)).toMatchObject({ ok: true, runs: 18 });
});

test("a call that is being made when its run moves is not in doubt: its outcome follows", async () => {
  await pair.second.stop();
  await until("the first has all", async () => (await pair.owned(pair.first)) === "8,0");
  const runs = await Promise.all(Array.from({ length: 16 }, () => pair.first.client.startRun({ workflow: "paying" })));
  await until("they pay", async () => Object.keys((await ledger.counts()).once).length >= 16);
  pair.second = await pair.node();
  await pair.evenly();
  for (const { run_id } of runs) expect((await ended(pair.second, run_id)).state).toBe("succeeded");
  const counts = Object.values((await ledger.counts()).once);
  expect(counts.filter((count) => count !== 1)).toEqual([]);
  expect(pair.first.log()).toContain("result.handed_over");
  expect(await verify(pair.second)).toMatchObject({ ok: true });
});
