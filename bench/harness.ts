// What the workloads share: a server's parts on a fresh embedded database, and CPU seconds of all processes involved.
import { readFileSync, readdirSync } from "node:fs";
import { PostgresDb, withClient } from "../src/adapters/postgres/db.ts";
import { migrate } from "../src/adapters/postgres/setup.ts";
import { startEmbeddedPostgres } from "../src/adapters/embedded-postgres/supervisor.ts";
import { systemClock, systemRandom } from "../src/adapters/system/system.ts";
import type { Catalog, WorkflowSpec } from "../src/contract/catalog.ts";
import { newId } from "../src/contract/ids.ts";
import type { ToolDefinition } from "../src/contract/jobs.ts";
import { Policy } from "../src/core/policy.ts";
import { PostgresJournalStore } from "../src/journal/postgres-store.ts";
import { Engine } from "../src/orchestrator/engine.ts";
import { WorkerPool } from "../src/worker/pool.ts";
import { remove, tempFolder } from "../test/support/processes.ts";

export const STEPS = 10;
export const IN_FLIGHT = 50;
const TICKS_PER_SECOND = 100;

/** CPU seconds so far of a process and all below it, from /proc. */
export function cpuOfTree(root: number): number {
  const children = new Map<number, number[]>();
  const ticks = new Map<number, number>();
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const fields = stat
        .slice(stat.lastIndexOf(")") + 2)
        .split(" ")
        .map(Number);
      const parent = fields[1] ?? 0;
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
      // utime, stime and those of reaped children.
      ticks.set(
        Number(name),
        [11, 12, 13, 14].reduce((sum, i) => sum + (fields[i] ?? 0), 0),
      );
    } catch {
      // It ended while we looked.
    }
  }
  const sum = (pid: number): number =>
    (ticks.get(pid) ?? 0) + (children.get(pid) ?? []).reduce((total, child) => total + sum(child), 0);
  return sum(root) / TICKS_PER_SECOND;
}

const tool: ToolDefinition = {
  name: "bench.noop",
  version: 1,
  digest: "sha256:bench",
  kind: "builtin",
  description: "",
  input_schema: { type: "object" },
  output_schema: null,
  effect_class: "read",
  idempotent: true,
  timeout_ms: 1_000,
  attempts_max: 3,
  cost_micro_usd: 100,
  config: {},
};

function flow(name: string, needs: readonly (readonly number[])[]): WorkflowSpec {
  const nodes = needs.map((list, i) => ({
    id: `s${i}`,
    kind: "tool" as const,
    needs: list,
    tool: tool.name,
    args: { i },
    on_error: "fail" as const,
  }));
  const dependents: number[][] = nodes.map(() => []);
  for (const [i, node] of nodes.entries()) for (const need of node.needs) dependents[need]?.push(i);
  return {
    name,
    version: 1,
    digest: "sha256:bench",
    nodes,
    dependents,
    output: null,
    budget: { cost_micro_usd: 10_000_000 },
    deadline_ms: null,
  };
}

const chain = (n: number) => Array.from({ length: n }, (_, i) => (i === 0 ? [] : [i - 1]));
const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const FLOWS: Record<string, WorkflowSpec> = {
  w1: flow("w1", chain(STEPS)),
  w2: flow("w2", chain(1_000)),
  w3: flow("w3", [...range(1_000).map(() => []), range(1_000)]),
};

const BUDGETS = [
  {
    name: "bench",
    scope: "project" as const,
    subject: "*",
    period: "month" as const,
    limit_micro_usd: 9_000_000_000_000,
    limit_tokens: null,
    thresholds: [80],
    action: "stop" as const,
  },
];
const catalog: Catalog = {
  agent: () => null,
  workflow: (name) => FLOWS[name] ?? null,
  tool: () => tool,
  toolsMatching: () => [],
  model: () => null,
  intent: () => null,
  modelOf: () => null,
  price: () => null,
  budgets: () => BUDGETS,
};
/** Evaluated on each step: a deny by selector, and an allow with a condition over run and cost. */
const policy = new Policy({
  policies: [
    {
      name: "bench",
      version: 1,
      rules: [
        { id: "never", effect: "deny", match: { effect_classes: ["irreversible"] } },
        { id: "allow", effect: "allow", match: { tools: ["bench.*"] }, when: "run.steps < 5000 && cost < 1000000.0" },
      ],
    },
  ],
});

export interface Ours {
  run(name: keyof typeof FLOWS): Promise<void>;
  /** CPU seconds of this process and of Postgres, which is its child. */
  cpu(): number;
  close(): Promise<void>;
}

/** Our engine with policy, budget, chain and fsync on, in this process. */
export async function openOurs(): Promise<Ours> {
  const data = tempFolder("qd-bench");
  const server = await startEmbeddedPostgres(data, systemClock);
  const owner = { socket_dir: server.socket_dir, user: "postgres", database: "quarterdeck" };
  await withClient({ ...owner, database: "postgres" }, (tx) => tx.query({ text: "create database quarterdeck" }));
  await migrate(owner, "quarterdeck");
  const db = new PostgresDb({ socket_dir: server.socket_dir });
  const store = new PostgresJournalStore(db);
  const seams = { clock: systemClock, random: systemRandom };
  const tenant_id = newId("tenant", seams);
  const log = {
    info: () => undefined,
    warn: () => undefined,
    error: (event: string, fields?: object) => console.error(event, fields),
  };
  const waiting = new Map<string, { resolve: () => void; reject: (error: Error) => void }>();
  const result = "x".repeat(200);
  const pool: WorkerPool = new WorkerPool({
    clock: systemClock,
    log,
    concurrency_max: 256,
    execute: () => ({ ok: true, kind: "tool", result }),
    report: (results) => engine.results(results),
  });
  const engine: Engine = new Engine({
    store,
    ...seams,
    governance: { of: () => ({ catalog, policy }) },
    queue: pool,
    tenantKey: () => new Uint8Array(32),
    log,
    group: 0,
    owner: "bench",
    onCommit: ({ run_id, summary }) => {
      if (summary.state === "running") return;
      const waiter = waiting.get(run_id);
      waiting.delete(run_id);
      if (summary.state === "succeeded") waiter?.resolve();
      else waiter?.reject(new Error(`run ended as ${summary.state}: ${summary.reason}`));
    },
  });
  await engine.open();
  return {
    run: (name) => {
      const run_id = newId("run", seams);
      const data = {
        env: "dev",
        input: null,
        kind: "workflow",
        project: "default",
        requester: "bench",
        target: { digest: "sha256:bench", kind: "workflow", name, version: 1 },
      };
      return new Promise((resolve, reject) => {
        waiting.set(run_id, { resolve, reject });
        engine.start({ tenant_id, run_id, command: { type: "start", data } }).catch(reject);
      });
    },
    cpu: () => cpuOfTree(process.pid),
    close: async () => {
      await engine.close();
      await store.close();
      await db.close();
      await server.stop();
      remove(data);
    },
  };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
}

export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))] ?? 0;
}

/** Runs n jobs with at most `width` at a time. */
export async function concurrently(n: number, width: number, job: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < n) await job(next++);
    }),
  );
}
