// Two control nodes over one Postgres: one owns the runs, the other passes requests on and takes over.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { startEmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import type { EmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import { JOURNAL_LEVEL } from "../../src/contract/journal.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import type { Run } from "../../src/contract/runs.ts";
import { cli, remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const LEDGER_MS = 1_500;
const TAKE_OVER_MS = LIMITS.node_lease_ms + 2_000;
let cluster: string;
let shared: string;
let postgres: EmbeddedPostgres;
let ledger: Ledger;
let owner: Running;
let standby: Running;
let worker: WorkerProcess | null = null;
let databases = 0;

beforeAll(async () => {
  cluster = tempFolder("qd-nodes");
  postgres = await startEmbeddedPostgres(cluster, systemClock);
  ledger = await startLedger(LEDGER_MS);
});
afterAll(async () => {
  ledger.stop();
  await postgres.stop();
  remove(cluster);
});

function node(): Promise<Running> {
  const socket = encodeURIComponent(postgres.socket_dir);
  const url = (user: string) => `postgresql://${user}@localhost/nodes${databases}?host=${socket}`;
  return startUp(tempFolder("qd-node"), {
    DATABASE_URL: url("serving"),
    DATABASE_ADMIN_URL: url("postgres"),
    QUARTERDECK_SHARED: shared,
    QUARTERDECK_PRIVATE_ORIGINS: ledger.url,
  });
}

const MANIFESTS = () => `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Tool
metadata: { name: nap }
spec: { kind: builtin, builtin: sleep }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object }, runs_on: [money] }
---
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: nap, args: { ms: 5 } }] }
---
kind: Workflow
metadata: { name: slow }
spec: { steps: [{ id: a, tool: nap, args: { ms: 3000 } }, { id: b, tool: noop }] }
---
kind: Workflow
metadata: { name: paying }
spec: { steps: [{ id: a, tool: pay }, { id: b, tool: noop }] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
`;

beforeEach(async () => {
  databases += 1;
  shared = tempFolder("qd-shared");
  await withClient({ socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" }, (tx) =>
    tx.query({ text: `create database nodes${databases}` }),
  );
  owner = await node();
  standby = await node();
  await standby.client.apply(MANIFESTS());
});
afterEach(async () => {
  await worker?.kill();
  worker = null;
  for (const running of [owner, standby]) {
    running.child.kill("SIGCONT");
    await running.kill();
  }
  remove(shared);
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
const verify = (at: Running) => at.client.json("/journal/verify", { method: "POST", body: {} });
const engine = async (at: Running) =>
  ((await (await fetch(`${at.url}/readyz`)).json()) as { checks: { engine: string } }).checks.engine;

test("every node answers for the one that owns the runs: start, read, follow, steer", async () => {
  expect(await engine(owner)).toMatch(/open runs$/);
  expect(await engine(standby)).toBe(`stands by for ${owner.url}`);
  const shards = await cli(["shards", "--url", standby.url, "--json"]);
  expect(JSON.parse(shards.out)).toMatchObject([{ group: 0, url: owner.url, shard_epoch: 1 }]);
  const run = await standby.client.startRun({ workflow: "quick" }, "one-key");
  expect((await owner.client.startRun({ workflow: "quick" }, "one-key")).run_id).toBe(run.run_id);
  const types: string[] = [];
  for await (const event of standby.client.watch(run.run_id)) types.push(event.type);
  expect(types.at(-1)).toBe("run.succeeded");
  const slow = await standby.client.startRun({ workflow: "slow" });
  expect((await standby.client.act(slow.run_id, "cancel")).state).toMatch(/running|cancelled/);
  const refused = await fetch(`${standby.url}/api/v1/runs/run_x`);
  expect([refused.status, refused.headers.get("content-type")]).toEqual([404, "application/problem+json"]);
  expect((await fetch(`${standby.url}/api/v1/runs`, { headers: { "quarterdeck-forwarded": "1" } })).status).toBe(503);
});

test("the owner is killed while a worker pays: the other goes on within the lease, and nothing is paid twice", async () => {
  const token = await mint(standby, "cashier", ["money"]);
  worker = await startWorker(tempFolder("qd-cashier"), {
    control: `${owner.url}/,${standby.url}`,
    token,
    args: ["--labels", "money"],
    env: { QUARTERDECK_PRIVATE_ORIGINS: ledger.url },
  });
  const run = await standby.client.startRun({ workflow: "paying" });
  await until("the payment has begun", async () => Object.keys((await ledger.counts()).once).length > 0);
  const begun = performance.now();
  await owner.kill();
  const next = await standby.client.startRun({ workflow: "quick" });
  expect(performance.now() - begun).toBeLessThan(TAKE_OVER_MS);
  await ended(standby, next);
  await ended(standby, run);
  expect(Object.values((await ledger.counts()).once)).toEqual([1]);
  expect(await verify(standby)).toMatchObject({ ok: true });
});

test("SIGTERM hands the runs over without failing a request", async () => {
  const failures: unknown[] = [];
  const runs: Run[] = [];
  let going = true;
  const clients = Array.from({ length: 4 }, async () => {
    while (going) {
      await standby.client.startRun({ workflow: "quick" }).then(
        (run) => runs.push(run),
        (error: unknown) => failures.push(error),
      );
    }
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  const before = runs.length;
  const begun = performance.now();
  await owner.stop();
  await until("runs are started again", async () => runs.length > before + 20);
  expect(performance.now() - begun).toBeLessThan(LIMITS.node_lease_ms);
  going = false;
  await Promise.all(clients);
  expect(failures.map((error) => String(error))).toEqual([]);
  for (const run of runs) await ended(standby, run);
  expect(await verify(standby)).toMatchObject({ ok: true });
});

test("an owner that was frozen past its lease writes nothing more, and passes requests on", async () => {
  const run = await owner.client.startRun({ workflow: "slow" });
  owner.child.kill("SIGSTOP");
  const next = await standby.client.startRun({ workflow: "quick" }, "asked-of-the-frozen-one");
  await ended(standby, next);
  owner.child.kill("SIGCONT");
  const third = await owner.client.startRun({ workflow: "quick" });
  await ended(standby, third);
  await ended(owner, run);
  await until("it stands by", async () => (await engine(owner)) === `stands by for ${standby.url}`);
  expect(await verify(owner)).toMatchObject({ ok: true });
});

test("the database restarts at once: one of them goes on, and no run is lost", async () => {
  const runs = await Promise.all(Array.from({ length: 10 }, () => standby.client.startRun({ workflow: "slow" })));
  await withClient({ socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" }, (tx) =>
    tx.query({ text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'serving'" }),
  );
  for (const run of runs) await ended(standby, run);
  expect(await verify(standby)).toMatchObject({ ok: true });
});

test("what a newer program has written is not taken over by this one, which says so and passes requests on", async () => {
  const admin = { socket_dir: postgres.socket_dir, user: "postgres", database: `nodes${databases}` };
  const level = (value: number) =>
    withClient(admin, (tx) => tx.query({ text: "update qd.groups set journal_level = $1", values: [value] }));
  const ready = async () => {
    const answer = await fetch(`${standby.url}/readyz`);
    return [answer.status, await answer.text()] as const;
  };
  await level(JOURNAL_LEVEL + 1);
  expect(await ready()).toEqual([200, expect.stringContaining(`stands by for ${owner.url}`)]);
  await owner.stop();
  await until("it says so", async () => (await ready())[0] === 503);
  expect((await ready())[1]).toContain(`level ${JOURNAL_LEVEL + 1}; this one understands ${JOURNAL_LEVEL}`);
  expect((await fetch(`${standby.url}/healthz`)).status).toBe(200);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  expect(standby.log().match(/lease.not_for_us/g)).toHaveLength(1);
  await level(JOURNAL_LEVEL);
  await until("it goes on", async () => (await ready())[0] === 200);
  await ended(standby, await standby.client.startRun({ workflow: "quick" }));
});
