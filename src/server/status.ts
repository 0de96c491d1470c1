// What an operator wants to know at a glance; also what `doctor` prints.
import type { Clock } from "../kit/clock.ts";
import type { JsonObject } from "../kit/json.ts";
import type { EmbeddedPostgres } from "../adapters/embedded-postgres/supervisor.ts";
import type { JournalStore } from "../contract/journal.ts";
import type { Db } from "../contract/ports.ts";
import type { Caller } from "../orchestrator/runs.ts";
import { countRuns, stuckRuns } from "../store/runs.ts";
import { journalGrowth, serverVersion } from "../store/sizes.ts";
import type { WorkerPool } from "../worker/pool.ts";
import type { Config } from "./config.ts";
import type { GroupHosts } from "./group-hosts.ts";
import { VERSION } from "./version.ts";

const STUCK_AFTER_US = 600_000_000;

export async function statusOf(
  caller: Caller,
  parts: {
    db: Db;
    clock: Clock;
    hosts: GroupHosts;
    store: Pick<JournalStore, "budgetUse">;
    pool: WorkerPool;
    config: Config;
    embedded: EmbeddedPostgres | null;
  },
): Promise<JsonObject> {
  const { db, clock, hosts, store, pool, config, embedded } = parts;
  const [counts, stuck] = await db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, async (tx) => [
    await countRuns(tx),
    await stuckRuns(tx, clock.now_us() - STUCK_AFTER_US, 20),
  ]);
  const [postgres, growth] = await db.transaction({ role: "qd_system" }, async (tx) => [
    await serverVersion(tx),
    await journalGrowth(tx),
  ]);
  const { shards } = hosts;
  const budgets = await store.budgetUse(null);
  return {
    version: VERSION,
    node: process.version,
    postgres,
    embedded: embedded !== null,
    data: config.data,
    journal: { ...growth },
    writer: { ...shards.stats, groups: hosts.owned },
    runs: Object.fromEntries(counts.map((row) => [row.state, row.runs])),
    open_runs: shards.openRuns,
    queue_depth: pool.depth,
    stuck: stuck.map((run) => run.run_id),
    budgets: budgets
      .filter((use) => use.tenant_id === caller.tenant_id)
      .map((use) => ({
        budget: use.budget,
        period_start_us: use.period_start_us,
        spent_micro_usd: use.spent_micro_usd,
        reserved_micro_usd: use.reserved_micro_usd,
        spent_tokens: use.spent_tokens,
      })),
    memory_mb: Math.round(process.memoryUsage().rss / 1_048_576),
  };
}
