// Two control nodes, four workers, Postgres and Redis as real processes, with networks between them that fail, under random
// faults of several kinds at a time; an outside ledger counts effects. The seed is printed; the history of a round that fails
// is kept in a file that names what was done when.
import { spawnSync } from "node:child_process";
import { rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Redis } from "ioredis";
import { freePort, startRedis } from "../../scripts/services.mjs";
import type { StartedRedis } from "../../scripts/services.mjs";
import { startEmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import type { EmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import type { Run } from "../../src/contract/runs.ts";
import { Client } from "../../src/sdk/client.ts";
import { FaultProxy } from "../support/fault-proxy.ts";
import { HangingStart, remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const FAULTS = Number(process.env["QD_CLUSTER_FAULTS"] ?? 60);
const SEED = Number(process.env["QD_CLUSTER_SEED"] ?? Date.now() % 1_000_000);
const NODES = 2;
const WORKERS = 4;
const CLIENTS = 4;
/** A frozen process wakes after its leases have run out. */
const FREEZE_MS = 6_500;
/** What Postgres has; its log alone grows to a gigabyte before it is used again. */
const DISK = "3g";
const COST_MICRO_USD = 1_000;
/** A start needs its database for a second or two without a fault, and those come one after the other. */
const FAULT_MS_MAX = 240_000;
const START_MS_MAX = 180_000;

/** Mulberry32: small, seeded, good enough to choose faults. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

let postgres: EmbeddedPostgres;
let ledger: Ledger;
let redis: Extract<StartedRedis, { url: string }>;
let ports: number[];
let token: string;
const cluster = tempFolder("qd-chaos-pg");
const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${DISK},mode=0755`, "tmpfs", cluster], {
  encoding: "utf8",
});
const shared = tempFolder("qd-chaos-shared");
const folders = Array.from({ length: NODES }, () => tempFolder("qd-chaos-node"));
/** Between the control nodes and Postgres, and between the workers and each control node. */
let database: FaultProxy;
let database_port: number;
const roads: FaultProxy[] = [];
const road_ports: number[] = [];
const nodes: (Running | null)[] = [];
const workers: (WorkerProcess | null)[] = [];
const history: string[] = [];
const begun = performance.now();
const note = (text: string) => void history.push(`${Math.round(performance.now() - begun)} ms ${text}`);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const MANIFESTS = () => `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop, cost_usd: "0.001" }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object } }
---
kind: Tool
metadata: { name: put }
spec: { kind: http, method: POST, url: "${ledger.url}/idem", effect_class: write, idempotent: true, attempts_max: 10, input_schema: { type: object } }
---
kind: Workflow
metadata: { name: order }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: pay }, { id: c, tool: put }, { id: d, tool: noop }] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
---
kind: Budget
metadata: { name: day }
spec: { scope: project, period: month, limit_usd: "1000" }
`;

/** Whoever looks after a node starts it again until it is up: its database may be away just now. */
function startNode(i: number): Promise<Running> {
  return until(`node ${i} is up`, () => tryNode(i).catch(hangs), START_MS_MAX);
}

/** A start may fail under faults; it may not hang. */
function hangs(error: unknown): null {
  if (error instanceof HangingStart) throw error;
  return null;
}

function tryNode(i: number): Promise<Running> {
  const url = (user: string) => `postgresql://${user}@127.0.0.1:${database_port}/chaos`;
  const env = {
    QUARTERDECK_ROLE: "control",
    DATABASE_URL: url("serving"),
    DATABASE_ADMIN_URL: url("postgres"),
    REDIS_URL: redis.url,
    QUARTERDECK_SHARED: shared,
    QUARTERDECK_PRIVATE_ORIGINS: ledger.url,
    // The other node and the workers come by the road that has faults.
    QUARTERDECK_ADVERTISE_URL: `http://127.0.0.1:${road_ports[i]}`,
  };
  return startUp(folders[i] ?? "", env, ["--port", String(ports[i])]);
}

function startWorkerOf(i: number): Promise<WorkerProcess> {
  return until(`worker ${i} is up`, () => tryWorker(i).catch(hangs), START_MS_MAX);
}

function tryWorker(i: number): Promise<WorkerProcess> {
  return startWorker(tempFolder("qd-chaos-worker"), {
    control: `http://127.0.0.1:${road_ports[i % NODES]}`,
    token,
    args: ["--concurrency", "8"],
    env: { QUARTERDECK_PRIVATE_ORIGINS: ledger.url },
  });
}

/** The services' script says why when there is none. */
const hasRedis = inject("redis_url") !== null;

beforeAll(async () => {
  if (!hasRedis) return;
  if (mounted.status !== 0)
    console.warn(
      `\nSKIPPED: the fault of a full disk; a tmpfs cannot be mounted: ${mounted.stderr ?? mounted.error}\n`,
    );
  postgres = await startEmbeddedPostgres(cluster, systemClock);
  ledger = await startLedger(20);
  const started = await startRedis();
  if (started.url === undefined) throw new Error(started.missing);
  redis = started;
  await withClient({ socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" }, (tx) =>
    tx.query({ text: "create database chaos" }),
  );
  ports = [await freePort(), await freePort()];
  database = new FaultProxy({ path: path.join(postgres.socket_dir, ".s.PGSQL.5432") });
  database_port = await database.listen();
  for (const port of ports) {
    const road = new FaultProxy({ port, host: "127.0.0.1" });
    roads.push(road);
    road_ports.push(await road.listen());
  }
  for (let i = 0; i < NODES; i++) nodes.push(await startNode(i));
  const [first] = nodes;
  if (!first) throw new Error("no node");
  await first.client.apply(MANIFESTS());
  token = await mint(first, "hand");
  for (let i = 0; i < WORKERS; i++) workers.push(await startWorkerOf(i));
});
afterAll(async () => {
  for (const process of [...nodes, ...workers]) {
    process?.child.kill("SIGCONT");
    await process?.kill();
  }
  for (const proxy of [...roads, database]) proxy?.close();
  await redis?.stop();
  ledger?.stop();
  await postgres?.stop();
  if (mounted.status === 0) spawnSync("umount", ["-l", cluster]);
  for (const folder of [cluster, shared, ...folders]) remove(folder);
});

async function freeze(child: { kill(signal: NodeJS.Signals): boolean }): Promise<void> {
  child.kill("SIGSTOP");
  await pause(FREEZE_MS);
  child.kill("SIGCONT");
}

type Faults = Record<string, (random: () => number) => Promise<void>>;

const NODE_FAULTS: Faults = {
  "a control node is killed": async (random) => {
    const i = Math.floor(random() * NODES);
    await nodes[i]?.kill();
    nodes[i] = null;
    await pause(random() * 2_000);
    nodes[i] = await startNode(i);
  },
  "a control node is told to stop": async (random) => {
    const i = Math.floor(random() * NODES);
    await nodes[i]?.stop();
    nodes[i] = await startNode(i);
  },
  "a control node is frozen": async (random) => {
    const running = nodes[Math.floor(random() * NODES)];
    if (running) await freeze(running.child);
  },
  "Postgres is stopped at once and started again": async (random) => {
    const { pid } = postgres;
    // Immediate: no checkpoint, no goodbye; what was not flushed is gone.
    process.kill(pid, "SIGQUIT");
    await until("Postgres has ended", async () => !isAlive(pid));
    await pause(random() * 2_000);
    await postgres.revive();
  },
};

/** Only root may mount the disk that fills up. */
const DISK_FAULTS: Faults = {
  "the disk of Postgres is full": async (random) => {
    const { pid } = postgres;
    const ballast = path.join(cluster, "ballast");
    const { bavail, bsize } = statfsSync(cluster);
    spawnSync("fallocate", ["-l", String(bavail * bsize), ballast]);
    await pause(500 + random() * 2_500);
    rmSync(ballast, { force: true });
    // What does not fit into its log ends it; it comes back by itself, or whoever looks after it starts it again.
    await until("Postgres is there again", async () => {
      if (!isAlive(pid)) await postgres.revive();
      return isAnswering();
    });
  },
};

const isAnswering = () =>
  withClient({ socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" }, (tx) =>
    tx.query({ text: "select 1" }),
  ).then(
    () => true,
    () => false,
  );

const WORKER_FAULTS: Faults = {
  "a worker is killed": async (random) => {
    const i = Math.floor(random() * WORKERS);
    await workers[i]?.kill();
    workers[i] = await startWorkerOf(i);
  },
  "a worker is frozen": async (random) => {
    const worker = workers[Math.floor(random() * WORKERS)];
    if (worker) await freeze(worker.child);
  },
  "the workers of a node are cut off": async (random) => roads[Math.floor(random() * NODES)]?.cut(),
  "answers to workers are lost": async (random) =>
    roads[Math.floor(random() * NODES)]?.loseAnswers(500 + random() * 2_000),
  "the network of workers is slow": async (random) =>
    roads[Math.floor(random() * NODES)]?.slow(100 + random() * 700, 4_000),
  "a node is not heard of by its workers, and nobody is told": async (random) =>
    roads[Math.floor(random() * NODES)]?.hush(1_000 + random() * 7_000),
};

const SERVICE_FAULTS: Faults = {
  "Redis is flushed": async () => {
    const direct = new Redis(redis.url);
    await direct.flushall();
    direct.disconnect();
  },
  "Redis restarts with nothing": async () => {
    const { port } = redis;
    await redis.stop();
    const again = await startRedis(port);
    if (again.url !== undefined) redis = again;
  },
  "Redis is paused": async () => {
    const direct = new Redis(redis.url);
    await direct.call("CLIENT", "PAUSE", "3000");
    direct.disconnect();
  },
  "every database connection is cut": async () => {
    await withClient({ socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" }, (tx) =>
      tx.query({ text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'serving'" }),
    ).catch(() => note("Postgres is away already"));
  },
  "the network to Postgres is cut": async () => database.cut(),
  // What was committed, and what was not, nobody knows.
  "answers of Postgres are lost": (random) => database.loseAnswers(200 + random() * 800),
  "the network to Postgres is slow": (random) => database.slow(50 + random() * 250, 3_000),
  "Postgres is not heard of, and nobody is told": (random) => database.hush(1_000 + random() * 7_000),
};

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Starts runs until told to stop; a start counts only when it was acknowledged. */
async function client(name: number, acknowledged: Set<string>, going: () => boolean): Promise<void> {
  for (let n = 0; going(); n++) {
    const key = `client-${name}-${n}`;
    const run = await until(
      `run ${key} is started`,
      async () => {
        const port = ports[Math.floor(Math.random() * NODES)];
        const at = new Client({ url: `http://127.0.0.1:${port}`, principal: "ada" });
        return at.startRun({ workflow: "order" }, key).catch(() => null);
      },
      120_000,
    );
    acknowledged.add(run.run_id);
    await pause(50);
  }
}

/** All runs, each as it is now. */
async function allRuns(at: Running): Promise<Run[]> {
  const runs: Run[] = [];
  for (let cursor = ""; ;) {
    const page = await at.client.json<{ items: Run[]; next_cursor: string | null }>(`/runs?limit=200${cursor}`);
    runs.push(...page.items);
    if (page.next_cursor === null) return runs;
    cursor = `&cursor=${page.next_cursor}`;
  }
}

const settled = (run: Run) => !["queued", "running"].includes(run.state) && run.reason !== "timer";

/** Which processes are there still, and what they wrote last. */
function processes(): string {
  const told = [...nodes, ...workers].map((running, i) => {
    const name = i < NODES ? `node ${i}` : `worker ${i - NODES}`;
    if (!running) return `${name}: not there`;
    const { exitCode, signalCode } = running.child;
    return `${name}: ended ${exitCode ?? signalCode ?? "not"}\n${running.log()}`;
  });
  return told.join("\n");
}

/** What explains a run that does not go on: the run and its events, the queues and the workers, as the owner sees them. */
async function openRuns(): Promise<string> {
  const [node] = nodes;
  if (!node) return "no node";
  const open = (await allRuns(node)).filter((run) => !settled(run)).slice(0, 5);
  const parts = [];
  for (const run of open) parts.push(run, await node.client.json(`/runs/${run.run_id}/events`));
  for (const path of ["/shards", "/queues", "/workers"]) parts.push(await node.client.json(path));
  return parts.map((part) => JSON.stringify(part)).join("\n");
}

/** A fault that does not end is a process that does not start or stop as it should. */
async function within(what: string, work: Promise<void> | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`never ended: ${what}`)), FAULT_MS_MAX);
  });
  await Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** Faults of the three kinds come at the same time, each kind in an order of its own. */
async function faults(): Promise<void> {
  let n = 0;
  const strand = async (list: Faults, random: () => number): Promise<void> => {
    const names = Object.keys(list);
    while (n < FAULTS) {
      const name = `fault ${n++}: ${names[Math.floor(random() * names.length)] ?? ""}`;
      note(name);
      await within(name, list[name.slice(name.indexOf(": ") + 2)]?.(random));
      note(`over: ${name}`);
      await pause(random() * 1_000);
    }
  };
  const disk = mounted.status === 0 ? DISK_FAULTS : {};
  const lists = [{ ...NODE_FAULTS, ...disk }, WORKER_FAULTS, SERVICE_FAULTS];
  await Promise.all(lists.map((list, i) => strand(list, seeded(SEED + i))));
}

test.skipIf(!hasRedis)(
  `${FAULTS} faults, seed ${SEED}: nothing acknowledged is lost, nothing happens twice, every run ends or waits`,
  async () => {
    const acknowledged = new Set<string>();
    let going = true;
    const clients = Array.from({ length: CLIENTS }, (_, i) => client(i, acknowledged, () => going));
    try {
      await faults();
      going = false;
      await Promise.all(clients);
      const [node] = nodes;
      if (!node) throw new Error("no node");
      const runs = await until(
        "every run has ended or waits for a person",
        async () => {
          const now = await allRuns(node).catch(() => null);
          return now?.every(settled) ? now : null;
        },
        90_000,
      );
      note(`${runs.length} runs, ${acknowledged.size} acknowledged`);
      const known = new Set(runs.map((run) => run.run_id));
      expect([...acknowledged].filter((id) => !known.has(id))).toEqual([]);
      const states = new Set(runs.map((run) => (run.state === "waiting" ? run.reason : run.state)));
      for (const state of states) expect(["succeeded", "in_doubt"]).toContain(state);
      const { once } = await ledger.counts();
      expect(Object.entries(once).filter(([, count]) => count > 1)).toEqual([]);
      const paid = Object.keys(once).length;
      const succeeded = runs.filter((run) => run.state === "succeeded");
      expect(succeeded.length).toBeGreaterThan(0);
      expect(succeeded.length).toBeLessThanOrEqual(paid);
      const verified = await node.client.json("/journal/verify", { method: "POST", body: {} });
      expect(verified).toMatchObject({ ok: true, faults: [] });
      await budgetsHold(node);
    } catch (error) {
      const file = path.join(tmpdir(), `quarterdeck-cluster-${SEED}.log`);
      const open = `${await openRuns().catch(String)}\n${processes()}`;
      writeFileSync(file, `seed ${SEED}\n${history.join("\n")}\n${String(error)}\n${open}\n`);
      throw new Error(`the history is in ${file}; what is open:\n${open}\n${history.slice(-20).join("\n")}`, {
        cause: error,
      });
    } finally {
      going = false;
    }
  },
);

interface Books {
  /** Of the runs. */
  readonly cost: number;
  readonly held: number;
  /** Of the budgets. */
  readonly spent: number;
  readonly reserved: number;
}

async function booksOf(node: Running): Promise<Books> {
  const runs = await allRuns(node);
  const { budgets } = await node.client.json<{ budgets: { spent_micro_usd: number; reserved_micro_usd: number }[] }>(
    "/status",
  );
  return {
    cost: runs.reduce((sum, run) => sum + run.cost_micro_usd, 0),
    held: await heldInDoubt(node, runs),
    spent: budgets.reduce((sum, use) => sum + use.spent_micro_usd, 0),
    reserved: budgets.reduce((sum, use) => sum + use.reserved_micro_usd, 0),
  };
}

/**
 * The budget's row is the sum of what the runs cost; nothing is reserved but by runs that still wait. Looked at when nothing
 * changes any more: a result that was held up settles a doubt, and its run goes on, also now.
 */
async function budgetsHold(node: Running): Promise<void> {
  const books = await until(
    "nothing changes any more",
    async () => {
      const before = await booksOf(node);
      await pause(500);
      const after = await booksOf(node);
      return JSON.stringify(after) === JSON.stringify(before) ? after : null;
    },
    120_000,
  );
  note(`${books.held / COST_MICRO_USD} steps that cost are in doubt`);
  expect(books.cost % COST_MICRO_USD).toBe(0);
  expect(books).toMatchObject({ spent: books.cost, reserved: books.held });
}

/** What runs that wait for a person hold: a step that costs, and whose workers were all lost. */
async function heldInDoubt(node: Running, runs: readonly Run[]): Promise<number> {
  let held = 0;
  for (const { run_id, state } of runs) {
    if (state !== "waiting") continue;
    const { items } = await node.client.events(run_id);
    const doubt = items.findLast(({ type }) => type === "step.in_doubt");
    const asked = items.findLast(({ type, step_id }) => type === "tool.requested" && step_id === doubt?.step_id);
    if (asked?.data["tool"] === "noop@1") held += COST_MICRO_USD;
  }
  return held;
}
