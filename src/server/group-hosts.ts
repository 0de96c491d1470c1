// The engines of this process: one for each group of runs, open while the group is owned here. With a data folder of its own
// that is always; where several nodes share a database, for as long as this one has the group's lease.
import type { Clock } from "../kit/clock.ts";
import { isAppError, messageOf } from "../contract/errors.ts";
import type { GroupLease, GroupLeases, NodeAddress } from "../contract/journal.ts";
import type { JobResult } from "../contract/jobs.ts";
import { groupOf } from "../contract/placement.ts";
import type { Log } from "../contract/ports.ts";
import type { Engine } from "../orchestrator/engine.ts";
import { Shards } from "../orchestrator/shards.ts";
import { systemRandom } from "../adapters/system/system.ts";
import { EngineHost } from "./engine-host.ts";
import type { EngineHostOptions } from "./engine-host.ts";
import { Ownership } from "./ownership.ts";
import type { Settings } from "./settings.ts";

export interface GroupHostsOptions extends Pick<EngineHostOptions, "reviveDatabase" | "onFenced"> {
  readonly groups: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly create: (group: number, onLost: (error: Error) => void, lease?: GroupLease) => Engine;
  /** Null where a data folder's lock proves that there is no other owner. */
  readonly leases: GroupLeases | null;
  readonly self: () => NodeAddress;
  readonly settings: Pick<Settings, "version" | "changed" | "refresh">;
  /** Takes an outcome to the node that owns its run. */
  readonly elsewhere: (result: JobResult) => Promise<void>;
  /** Before the runs of a group are taken over. */
  readonly onClaimed: (group: number) => void;
  /** A group is open: what its runs left elsewhere goes on. */
  readonly onOpen: (isOurs: (run_id: string) => boolean) => Promise<void>;
  /** Jobs of an engine before are not ours any more: the next one finds their intents in the journal. */
  readonly onReset: (isGone: (run_id: string) => boolean) => void;
  /** The runs of a group are not here any more. */
  readonly onGone: (isGone: (run_id: string) => boolean) => void;
}

export class GroupHosts {
  readonly shards: Shards;
  readonly ownership: Ownership | null;
  private readonly options: GroupHostsOptions;
  private readonly hosts: readonly EngineHost[];

  constructor(options: GroupHostsOptions) {
    this.options = options;
    const { groups, clock, leases } = options;
    this.hosts = Array.from({ length: groups }, (_, group) => this.host(group));
    this.ownership = leases ? this.owning(leases) : null;
    this.shards = new Shards({
      groups,
      clock,
      random: systemRandom,
      engine: (group) => this.engine(group),
      owned: () => this.owned,
      elsewhere: leases ? options.elsewhere : null,
    });
  }

  private isIn(group: number): (run_id: string) => boolean {
    return (run_id) => groupOf(run_id, this.options.groups) === group;
  }

  private host(group: number): EngineHost {
    const { clock, log, create, reviveDatabase, onFenced, onOpen, onReset, leases } = this.options;
    return new EngineHost({
      clock,
      log,
      create: (onLost, lease) => {
        onReset(this.isIn(group));
        return create(group, onLost, lease);
      },
      reviveDatabase,
      onFenced,
      onOpen: () => onOpen(this.isIn(group)),
      ...(leases ? { onLost: () => this.ownership?.lost(group) } : {}),
    });
  }

  private owning(leases: GroupLeases): Ownership {
    const { clock, log, self, settings, onClaimed, onReset, onGone } = this.options;
    return new Ownership({
      leases,
      clock,
      log,
      self,
      openRuns: (group) => (this.hosts[group]?.isReady ? this.engine(group).openRuns : 0),
      seen: () => settings.version,
      onVersion: () => settings.changed(),
      onWanted: (wanted) => this.shards.giveBack(wanted),
      onClaimed: async (lease) => {
        const { group, shard_epoch } = lease;
        // What another owner changed meanwhile is read again before the first run goes on.
        await settings.refresh();
        onClaimed(group);
        const open_runs = (await this.hosts[group]?.open(lease)) ?? 0;
        log.info("runs.taken_over", { group, open_runs, shard_epoch });
      },
      onLeaving: async (group) => this.hosts[group]?.drop(),
      onLost: (group) => {
        onReset(this.isIn(group));
        onGone(this.isIn(group));
        void this.hosts[group]?.drop();
      },
    });
  }

  /** Where the owner of a run answers; null while there is none, or it is this node. */
  urlOf(run_id: string): string | null {
    return this.ownership?.urlOf(groupOf(run_id, this.options.groups)) ?? null;
  }

  /** The engine of a group. Throws FENCED or DATABASE_UNAVAILABLE while there is none here. */
  private engine(group: number): Engine {
    const host = this.hosts[group] ?? this.hosts[0];
    return (host as EngineHost).current();
  }

  /** Groups whose runs are here. */
  get owned(): number[] {
    if (this.ownership) return this.ownership.owned.filter((group) => this.hosts[group]?.isReady);
    return this.hosts.flatMap((host, group) => (host.isReady ? [group] : []));
  }

  /** False when another node may own the run by now. */
  holds(run_id: string): boolean {
    return this.ownership?.holds(groupOf(run_id, this.options.groups)) ?? true;
  }

  get isReady(): boolean {
    if (this.ownership) return this.owned.length > 0;
    return this.hosts.some((host) => host.isReady);
  }

  /** Results that come while there is no engine anywhere are dropped: recovery treats their attempts as lost. */
  report(results: readonly JobResult[]): void {
    if (!this.ownership) return this.hosts[0]?.report(results);
    const { log } = this.options;
    for (const result of results)
      this.shards.result(result).catch((error: unknown) => {
        const { run_id, step, attempt } = result;
        const what = isAppError(error, "STALE_RESULT") ? "result.stale" : "result.lost";
        log.warn(what, { run_id, step, attempt, error: messageOf(error) });
      });
  }

  /** Opens every group, where they are all ours. Returns how many runs go on. */
  async open(): Promise<number> {
    let recovered = 0;
    for (const host of this.hosts) recovered += await host.open();
    return recovered;
  }

  async close(): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.close()));
  }
}
