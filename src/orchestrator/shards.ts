// The runs of all groups that this process owns, behind the face of one engine: each request goes to the engine of the group
// that its run is placed in. What belongs to another node is refused with FENCED before anything is done.
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import { AppError, isAppError } from "../contract/errors.ts";
import type { EventDraft } from "../contract/events.ts";
import type { JobResult } from "../contract/jobs.ts";
import type { RunSummary } from "../contract/journal.ts";
import { groupOf, groupOfName, placedRunId } from "../contract/placement.ts";
import type { SliceKey } from "../contract/slices.ts";
import type { Command } from "../core/decide.ts";
import type { TellCommand } from "../core/told.ts";
import type { RunState } from "../core/run-state.ts";
import type { Engine, Told } from "./engine.ts";
import type { RunImport } from "./imports.ts";

export interface ShardsOptions {
  /** How many groups there are. */
  readonly groups: number;
  /** The engine of a group. Throws FENCED or DATABASE_UNAVAILABLE while there is none here. */
  readonly engine: (group: number) => Engine;
  /** Groups whose runs are taken here. */
  readonly owned: () => readonly number[];
  /** Takes an outcome to the node that owns its run; null where no other can. */
  readonly elsewhere: ((result: JobResult) => Promise<void>) | null;
  readonly clock: Clock;
  readonly random: Random;
}

export class Shards {
  private readonly options: ShardsOptions;

  constructor(options: ShardsOptions) {
    this.options = options;
  }

  get groups(): number {
    return this.options.groups;
  }

  /** The engine of a group. Throws FENCED or DATABASE_UNAVAILABLE while there is none here. */
  engine(group: number): Engine {
    return this.options.engine(group);
  }

  /** The engine that a run belongs to. */
  of(run_id: string): Engine {
    return this.options.engine(groupOf(run_id, this.groups));
  }

  private own(run_id: string): Engine | null {
    return this.options.owned().includes(groupOf(run_id, this.groups)) ? this.of(run_id) : null;
  }

  private get engines(): Engine[] {
    return this.options.owned().map((group) => this.options.engine(group));
  }

  /** An id for a run that is to begin here; one that is known by a name is placed where that is looked for. */
  newRunId(name?: string): string {
    const owned = name === undefined ? this.options.owned() : [groupOfName(name, this.groups)];
    if (owned.length === 0) {
      // Says why, where the database is away.
      this.options.engine(0);
      throw new AppError("FENCED", "This node owns no runs");
    }
    return placedRunId(this.options, this.groups, (group) => owned.includes(group));
  }

  async start(given: Parameters<Engine["start"]>[0]): Promise<RunSummary> {
    return this.of(given.run_id).start(given);
  }

  async command(tenant_id: string, run_id: string, command: Command): Promise<RunSummary> {
    return this.of(run_id).command(tenant_id, run_id, command);
  }

  async decided(tenant_id: string, run_id: string, command: Command): Promise<readonly EventDraft[]> {
    return this.of(run_id).decided(tenant_id, run_id, command);
  }

  async ingest(tenant_id: string, run_id: string, command: TellCommand, isNew = false): Promise<Told> {
    return this.of(run_id).ingest(tenant_id, run_id, command, isNew);
  }

  async observed(tenant_id: string, run_id: string): Promise<Readonly<RunState> | null> {
    return this.of(run_id).observed(tenant_id, run_id);
  }

  /** The outcome of a call that was made in this process, for a run that may have moved since. */
  async result(result: JobResult): Promise<void> {
    const { elsewhere } = this.options;
    if (!elsewhere) return this.of(result.run_id).result(result);
    if (!(await this.takeOwn(result))) await elsewhere(result);
  }

  /** The same, while the run is here. False when it is not, or moves just now: nothing of the outcome is on record then. */
  async takeOwn(result: JobResult): Promise<boolean> {
    try {
      const own = this.own(result.run_id);
      await own?.result(result);
      return own !== null;
    } catch (error) {
      if (isAppError(error, "FENCED") || isAppError(error, "SHUTTING_DOWN")) return false;
      throw error;
    }
  }

  async importRun(given: RunImport): Promise<void> {
    return this.of(given.summary.run_id).importRun(given);
  }

  peek(run_id: string): RunSummary | null {
    return this.own(run_id)?.peek(run_id) ?? null;
  }

  stateOf(run_id: string): Readonly<RunState> | null {
    return this.own(run_id)?.stateOf(run_id) ?? null;
  }

  get states(): Readonly<RunState>[] {
    return this.engines.flatMap((engine) => engine.states);
  }

  get openRuns(): number {
    return this.engines.reduce((sum, engine) => sum + engine.openRuns, 0);
  }

  get stats(): { flushes: number; appends: number; unknown_commits: number } {
    const sum = { flushes: 0, appends: 0, unknown_commits: 0 };
    for (const { writer } of this.engines) {
      sum.flushes += writer.stats.flushes;
      sum.appends += writer.stats.appends;
      sum.unknown_commits += writer.stats.unknown_commits;
    }
    return sum;
  }

  /** Has the groups that are owned here give back what they do not use of a shared budget. */
  giveBack(keys: readonly (SliceKey & { readonly group?: number })[]): void {
    for (const group of this.options.owned())
      for (const key of keys)
        if (key.group === undefined || key.group === group) void this.options.engine(group).giveBack(key);
  }
}
