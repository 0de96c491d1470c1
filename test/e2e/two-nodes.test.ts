// Two control nodes over one Postgres: each owns the runs of half of the groups, passes requests on, and takes over.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { JOURNAL_LEVEL } from "../../src/contract/journal.ts";
import { groupOf, SIGNER_GROUP } from "../../src/contract/placement.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import type { Run } from "../../src/contract/runs.ts";
import type { Fire } from "../../src/contract/triggers.ts";
import { ALLOW_ALL, basicTools } from "../support/manifests.ts";
import { Pair } from "../support/pair.ts";
import { startLedger, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const LEDGER_MS = 1_500;
const TAKE_OVER_MS = LIMITS.node_lease_ms + 2_000;
let ledger: Ledger;
let pair: Pair;
let worker: WorkerProcess | null = null;

beforeAll(async () => {
  ledger = await startLedger(LEDGER_MS);
  pair = await Pair.open({ QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
});
afterAll(async () => {
  ledger.stop();
  await pair.close();
});

const MANIFESTS = () => `${basicTools(ledger.url)}
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: nap, args: { ms: 5 } }] }
---
kind: Workflow
metadata: { name: slow }
spec: { steps: [{ id: a, tool: nap, args: { ms: 3000 } }, { id: b, tool: noop }] }
---
kind: Workflow
metadata: { name: failing }
spec: { steps: [{ id: a, tool: missing }] }
---
kind: Workflow
metadata: { name: paying }
spec: { steps: [{ id: a, tool: pay }, { id: b, tool: noop }] }
---${ALLOW_ALL}`;

beforeEach(async () => {
  await pair.start();
  await pair.second.client.apply(MANIFESTS());
});
afterEach(async () => {
  await worker?.kill();
  worker = null;
  await pair.end();
});

const ended = (at: Running, run: Run, limit_ms?: number) =>
  until(
    `run ${run.run_id} has succeeded`,
    async () => {
      const now = await at.client.getRun(run.run_id).catch(() => null);
      return now?.state === "succeeded" ? now : null;
    },
    limit_ms,
  );
const PAID = `
kind: Tool
metadata: { name: dear }
spec: { kind: builtin, builtin: noop, cost_usd: "0.04" }
---
kind: Workflow
metadata: { name: paid }
spec: { steps: [{ id: a, tool: dear }] }
---
kind: Budget
metadata: { name: all }
spec: { scope: project, period: total, limit_usd: "1", action: stop }
`;
const verify = (at: Running) => at.client.json("/journal/verify", { method: "POST", body: {} });
const engine = async (at: Running) =>
  ((await (await fetch(`${at.url}/readyz`)).json()) as { checks: { engine: string } }).checks.engine;

test("two nodes share the runs, and each answers for all of them: start, read, follow, steer", async () => {
  await pair.evenly();
  for (const node of [pair.first, pair.second]) expect(await engine(node)).toMatch(/open runs$/);
  const run = await pair.second.client.startRun({ workflow: "quick" }, "one-key");
  expect((await pair.first.client.startRun({ workflow: "quick" }, "one-key")).run_id).toBe(run.run_id);
  const runs = await Promise.all(
    Array.from({ length: 20 }, (_, i) => (i % 2 ? pair.first : pair.second).client.startRun({ workflow: "quick" })),
  );
  const shards = await pair.shards(pair.first);
  // Each began at the node that was asked, and the other one knows it.
  for (const [i, { run_id }] of runs.entries()) {
    expect(shards[groupOf(run_id, shards.length)]?.url).toBe((i % 2 ? pair.first : pair.second).url);
    const types: string[] = [];
    for await (const event of (i % 2 ? pair.second : pair.first).client.watch(run_id)) types.push(event.type);
    expect(types.at(-1)).toBe("run.succeeded");
  }
  for (const [one, other] of [
    [pair.first, pair.second],
    [pair.second, pair.first],
  ] as const) {
    const slow = await one.client.startRun({ workflow: "slow" });
    expect((await other.client.act(slow.run_id, "cancel")).state).toMatch(/running|cancelled/);
  }
  const refused = await fetch(`${pair.second.url}/api/v1/runs/run_x`);
  expect([refused.status, refused.headers.get("content-type")]).toEqual([404, "application/problem+json"]);
  const elsewhere = shards.find((shard) => shard.url === pair.first.url)?.group ?? 0;
  const foreign = runs.find(({ run_id }) => groupOf(run_id, shards.length) === elsewhere)?.run_id ?? runs[1]?.run_id;
  const passedOn = await fetch(`${pair.second.url}/api/v1/runs/${foreign}`, {
    headers: { "quarterdeck-forwarded": "1" },
  });
  expect(passedOn.status).toBe(503);
  for (const node of [pair.first, pair.second]) expect(await verify(node)).toMatchObject({ ok: true });
});

test("a schedule fires once each second over both nodes, also when the one that looks after it dies", async () => {
  await pair.evenly();
  const trigger = `kind: Trigger
metadata: { name: tick }
spec: { workflow: quick, schedule: { cron: "* * * * * *" } }
---
kind: Trigger
metadata: { name: then }
spec: { workflow: quick, event: { types: [run.failed] } }
`;
  await pair.second.client.apply(trigger);
  const fires = async (at: Running, name = "tick") =>
    (await at.client.json<{ items: Fire[] }>(`/triggers/${name}/fires?limit=200`)).items;
  await until("it fires", async () => (await fires(pair.first)).length >= 3);
  const shards = await pair.shards(pair.second);
  const [looks, other] =
    shards[SIGNER_GROUP]?.url === pair.first.url ? [pair.first, pair.second] : [pair.second, pair.first];
  await looks.kill();
  const killed = Date.now();
  await until("the other one goes on", async () =>
    (await fires(other)).some(({ due_at, state }) => state === "started" && Date.parse(due_at) > killed + 8_000),
  );
  await other.client.json("/triggers/tick/pause", { method: "POST", body: {} });
  const all = await until("all have begun", async () => {
    const found = await fires(other);
    return found.every(({ state }) => state === "started") ? found : null;
  });
  const due = all.map(({ due_at }) => Date.parse(due_at) / 1000).sort((a, b) => a - b);
  expect(due).toEqual(due.map((_time, i) => (due[0] ?? 0) + i));
  const { items } = await other.client.json<{ items: Run[] }>("/runs?target=quick&limit=200");
  const ours = items.filter(({ requester }) => requester === "trigger:tick").map(({ run_id }) => run_id);
  expect(ours.sort()).toEqual(all.map(({ run_id }) => run_id).sort());
  // What happens in a group leads on at whoever owns it.
  const bad = await other.client.startRun({ workflow: "failing" });
  await until("it led on", async () => (await fires(other, "then")).some(({ key }) => key.startsWith(bad.run_id)));
  expect(await verify(other)).toMatchObject({ ok: true });
});

test("an MCP client that reads at one node is told of the runs of the other one, and of all of them", async () => {
  await pair.evenly();
  const runs = await Promise.all([pair.first, pair.second].map((node) => node.client.startRun({ workflow: "quick" })));
  for (const [i, node] of [pair.second, pair.first].entries()) {
    const client = new Client({ name: "test", version: "1" });
    await client.connect(new StreamableHTTPClientTransport(new URL(`${node.url}/mcp/observe`)));
    const told = async (name: string, args: Record<string, unknown>) => {
      const { content, isError } = await client.callTool({ name, arguments: args });
      const [block] = content as { text: string }[];
      expect([isError ?? false, block?.text]).toEqual([false, expect.any(String)]);
      return JSON.parse(block?.text ?? "") as { items: { run_id: string; seq: number }[]; ok: boolean };
    };
    const run_id = runs[i]?.run_id ?? "";
    await ended(node, runs[i] as Run);
    expect(await told("get_run", { id: run_id })).toMatchObject({ run_id, state: "succeeded" });
    expect((await told("list_events", { id: run_id })).items[0]).toMatchObject({ seq: 1, type: "run.started" });
    expect((await told("list_runs", {})).items).toHaveLength(2);
    expect(await told("verify_journal", {})).toMatchObject({ ok: true });
    await client.close();
  }
});

test("a budget that all share holds to the last micro-dollar, wherever its runs are", async () => {
  await pair.evenly();
  await pair.first.client.apply(PAID);
  const ends = await Promise.all(
    Array.from({ length: 40 }, async (_, i) => {
      const node = i % 2 ? pair.first : pair.second;
      const run = await node.client.startRun({ workflow: "paid" });
      return until("it has ended", async () => {
        const now = await node.client.getRun(run.run_id);
        return ["running", "waiting"].includes(now.state) ? null : now.state;
      });
    }),
  );
  // 25 calls of 0.04 USD are 1 USD.
  expect(ends.filter((state) => state === "succeeded")).toHaveLength(25);
  expect(ends.filter((state) => state === "budget_exceeded")).toHaveLength(15);
  const status = (await pair.second.client.json("/status")) as { budgets: { spent_micro_usd: number }[] };
  expect(status.budgets).toMatchObject([{ spent_micro_usd: 1_000_000, reserved_micro_usd: 0 }]);
});

test("what is applied at one node holds at the other when it is acknowledged", async () => {
  await pair.evenly();
  for (let n = 1; n <= 5; n++) {
    const name = `made-${n}`;
    await pair.first.client.apply(
      `kind: Workflow\nmetadata: { name: ${name} }\nspec: { steps: [{ id: a, tool: noop }] }\n`,
    );
    await pair.second.client.startRun({ workflow: name });
    await pair.second.client.apply(
      `kind: Policy\nmetadata: { name: p }\nspec: { rules: [{ id: a${n}, effect: ${n % 2 ? "deny" : "allow"} }] }\n`,
    );
    const run = await pair.first.client.startRun({ workflow: name });
    const end = await until("it has ended", async () => {
      const now = await pair.first.client.getRun(run.run_id);
      return now.state === "running" ? null : now.state;
    });
    expect(end).toBe(n % 2 ? "failed" : "succeeded");
  }
});

test("a node that joins has its share within two seconds, and runs go on", async () => {
  await pair.evenly();
  const going = await Promise.all(Array.from({ length: 16 }, () => pair.second.client.startRun({ workflow: "slow" })));
  await pair.second.stop();
  await until("the first has all", async () => (await pair.owned(pair.first)) === "8,0", 5_000);
  pair.second = await pair.node();
  const begun = performance.now();
  await until("the groups are shared", async () => (await pair.owned(pair.first)) === "4,4", 5_000);
  expect(performance.now() - begun).toBeLessThan(2_000);
  for (const run of going) await ended(pair.second, run);
  expect(await verify(pair.second)).toMatchObject({ ok: true });
});

test("the owner is killed while a worker pays: the other goes on within the lease, and nothing is paid twice", async () => {
  const token = await mint(pair.second, "cashier", ["money"]);
  worker = await startWorker(tempFolder("qd-cashier"), {
    control: `${pair.first.url}/,${pair.second.url}`,
    token,
    args: ["--labels", "money"],
    env: { QUARTERDECK_PRIVATE_ORIGINS: ledger.url },
  });
  const run = await pair.second.client.startRun({ workflow: "paying" });
  await until("the payment has begun", async () => Object.keys((await ledger.counts()).once).length > 0);
  const begun = performance.now();
  await pair.first.kill();
  const next = await pair.second.client.startRun({ workflow: "quick" });
  expect(performance.now() - begun).toBeLessThan(TAKE_OVER_MS);
  await ended(pair.second, next);
  await ended(pair.second, run);
  expect(Object.values((await ledger.counts()).once)).toEqual([1]);
  expect(await verify(pair.second)).toMatchObject({ ok: true });
});

test("SIGTERM hands the runs over without failing a request", async () => {
  const failures: unknown[] = [];
  const runs: Run[] = [];
  let going = true;
  const clients = Array.from({ length: 4 }, async () => {
    while (going) {
      await pair.second.client.startRun({ workflow: "quick" }).then(
        (run) => runs.push(run),
        (error: unknown) => failures.push(error),
      );
    }
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  const before = runs.length;
  const begun = performance.now();
  await pair.first.stop();
  await until("runs are started again", async () => runs.length > before + 20);
  expect(performance.now() - begun).toBeLessThan(LIMITS.node_lease_ms);
  going = false;
  await Promise.all(clients);
  expect(failures.map((error) => String(error))).toEqual([]);
  for (const run of runs) await ended(pair.second, run);
  expect(await verify(pair.second)).toMatchObject({ ok: true });
});

test("a node that was frozen past its leases writes nothing more, passes requests on, and gets its share again", async () => {
  await pair.evenly();
  const run = await pair.first.client.startRun({ workflow: "slow" });
  pair.first.child.kill("SIGSTOP");
  // What is put together of what each node knows does not wait for one that says nothing.
  const asked = performance.now();
  for (const path of ["/runs", "/workers", "/queues"]) await pair.second.client.json(path);
  expect(performance.now() - asked).toBeLessThan(3 * (LIMITS.gather_wait_ms + 1_500));
  const next = await pair.second.client.startRun({ workflow: "quick" }, "asked-of-the-frozen-one");
  await ended(pair.second, next);
  await until("the second has all", async () => (await pair.owned(pair.second)) === "0,8");
  pair.first.child.kill("SIGCONT");
  const third = await pair.first.client.startRun({ workflow: "quick" });
  await ended(pair.second, third);
  await ended(pair.first, run);
  await pair.evenly();
  expect(await verify(pair.first)).toMatchObject({ ok: true });
});

test("the database restarts at once: one of them goes on, and no run is lost", async () => {
  const runs = await Promise.all(Array.from({ length: 10 }, () => pair.second.client.startRun({ workflow: "slow" })));
  await withClient({ ...pair.admin, database: "postgres" }, (tx) =>
    tx.query({ text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'serving'" }),
  );
  for (const run of runs) await ended(pair.second, run);
  expect(await verify(pair.second)).toMatchObject({ ok: true });
});

test("what a newer program has written is not taken over by this one, which says so and passes requests on", async () => {
  await pair.end();
  await pair.start({ QUARTERDECK_GROUPS: "1" });
  await pair.second.client.apply(MANIFESTS());
  expect(await engine(pair.second)).toBe(`stands by for ${pair.first.url}`);
  const level = (value: number) =>
    withClient(pair.admin, (tx) => tx.query({ text: "update qd.groups set journal_level = $1", values: [value] }));
  const ready = async () => {
    const answer = await fetch(`${pair.second.url}/readyz`);
    return [answer.status, await answer.text()] as const;
  };
  await level(JOURNAL_LEVEL + 1);
  await pair.first.stop();
  await until("it says so", async () => (await ready())[0] === 503);
  expect((await ready())[1]).toContain(`level ${JOURNAL_LEVEL + 1}; this one understands ${JOURNAL_LEVEL}`);
  expect((await fetch(`${pair.second.url}/healthz`)).status).toBe(200);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  expect(pair.second.log().match(/lease.not_for_us/g)).toHaveLength(1);
  await level(JOURNAL_LEVEL);
  await until("it goes on", async () => (await ready())[0] === 200);
  await ended(pair.second, await pair.second.client.startRun({ workflow: "quick" }));
});
