// Builds the engines of this process, and what says which of them are open.
import type { Clock } from "../kit/clock.ts";
import { systemRandom } from "../adapters/system/system.ts";
import type { EmbeddedPostgres } from "../adapters/embedded-postgres/supervisor.ts";
import type { Place } from "../capture/quarantine.ts";
import type { ToolRecords } from "../capture/tool-records.ts";
import type { JobQueue, JobResult } from "../contract/jobs.ts";
import type { JournalStore, NodeAddress } from "../contract/journal.ts";
import { present } from "../kit/assert.ts";
import type { Db, Log } from "../contract/ports.ts";
import type { PastReader } from "../journal/past.ts";
import { Engine } from "../orchestrator/engine.ts";
import type { Commit } from "../orchestrator/engine.ts";
import type { Registry } from "../orchestrator/registry.ts";
import type { SliceOptions } from "../orchestrator/slice-keeper.ts";
import { PostgresBudgetSlices } from "../store/budget-slices.ts";
import { PostgresLeases } from "../store/leases.ts";
import { GroupHosts } from "./group-hosts.ts";
import type { GroupHostsOptions } from "./group-hosts.ts";
import type { Metrics } from "./metrics.ts";
import type { Settings } from "./settings.ts";

export interface HostParts extends Pick<
  GroupHostsOptions,
  "onFenced" | "onClaimed" | "onOpen" | "onReset" | "onGone" | "elsewhere"
> {
  readonly db: Db;
  readonly embedded: EmbeddedPostgres | null;
  readonly clock: Clock;
  readonly log: Log;
  readonly registry: Registry;
  readonly tenantKey: (tenant_id: string) => Uint8Array;
  readonly past: PastReader;
  readonly metrics: Metrics;
  readonly settings: Settings;
  /** One for each group. */
  readonly stores: readonly JournalStore[];
  readonly onCommit: (commit: Commit) => void;
  readonly queue: JobQueue;
  readonly self: NodeAddress;
  readonly seal_after_ms: number;
  /** What is recorded of the calls of foreign agents. */
  readonly records: () => Pick<ToolRecords, "openArgs" | "outcome">;
}

export function openHosts(parts: HostParts): GroupHosts {
  const { db, embedded, clock, log, registry, tenantKey, past, metrics, stores, onCommit, queue, self } = parts;
  const groups = stores.length;
  const options = {
    clock,
    random: systemRandom,
    governance: registry,
    tenantKey,
    log,
    owner: self.node,
    onCommit,
    past: past.state.bind(past),
    seal_after_ms: parts.seal_after_ms,
    queue,
    openArgs: (place: Place, digest: string) => parts.records().openArgs(place, digest),
    redacted: (result: JobResult) => parts.records().outcome(result),
    onFlush: (rows: number, ms: number) => metrics.committed(rows, ms),
  };
  const slices: { slices?: SliceOptions } = groups === 1 ? {} : { slices: slicesOf(db, groups, () => hosts) };
  const hosts = new GroupHosts({
    ...parts,
    groups,
    create: (group, onLost, lease) => {
      const store = present(stores[group], "each group has a store");
      return new Engine({ ...options, ...slices, store, group, onLost, ...(lease ? { lease } : {}) });
    },
    leases: embedded ? null : new PostgresLeases(db),
    self: () => self,
    reviveDatabase: async () => embedded?.revive(),
  });
  return hosts;
}

/** Where the shared budgets are spent by several groups. */
function slicesOf(db: Db, groups: number, hosts: () => GroupHosts): SliceOptions {
  return { store: new PostgresBudgetSlices(db, groups), recall: (key) => hosts().shards.giveBack([key]) };
}
