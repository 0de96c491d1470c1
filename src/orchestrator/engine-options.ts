// What an engine is given and what it tells others.
import type { Clock, Timer } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import type { EventDraft, RunStateName } from "../contract/events.ts";
import type { JobQueue, JobResult } from "../contract/jobs.ts";
import type { ApprovalRow, GroupLease, JournalStore, RunSummary } from "../contract/journal.ts";
import type { Log } from "../contract/ports.ts";
import type { Lineage } from "../contract/replay.ts";
import type { Command } from "../core/decide.ts";
import type { Governance } from "../core/governance.ts";
import type { RunState } from "../core/run-state.ts";
import type { OpenedArgsOptions } from "./opened-args.ts";
import type { SliceOptions } from "./slice-keeper.ts";

export type { Governance } from "../core/governance.ts";

/** What followers are told after a commit. */
export interface Commit {
  readonly run_id: string;
  readonly tenant_id: string;
  readonly last_seq: number;
  readonly offset: number;
  readonly drafts: readonly EventDraft[];
  readonly summary: RunSummary;
}

/** What was committed, the seq of its first event, and the state of the run after it; null when there is no such run. */
export interface Told {
  readonly drafts: readonly EventDraft[];
  readonly first_seq: number;
  readonly state: RunStateName | null;
}

export interface EngineOptions extends Pick<OpenedArgsOptions, "openArgs"> {
  readonly store: JournalStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly governance: Pick<Governance, "of">;
  /** The state that a replay or fork begins with (journal/past.ts). */
  readonly past?: (tenant_id: string, run_id: string, lineage: Lineage) => Promise<RunState>;
  readonly queue: JobQueue;
  /** Key of a tenant, from outside the database. */
  readonly tenantKey: (tenant_id: string) => Uint8Array;
  readonly log: Log;
  readonly group: number;
  readonly owner: string;
  /** The group's lease, where it was claimed before; else the group is taken from whoever had it. */
  readonly lease?: GroupLease;
  /** Where shared budgets are spent by several groups. */
  readonly slices?: SliceOptions;
  /** How long a run waits before only its id is kept; LIMITS.park_after_ms unless a test says otherwise. */
  readonly park_after_ms?: number;
  /** The outcome of a foreign agent's tool call as it may be recorded. */
  readonly redacted?: (result: JobResult) => Promise<JobResult>;
  readonly onCommit?: (commit: Commit) => void;
  /** See DecideContext. */
  readonly seal_after_ms?: number;
  readonly onFlush?: (rows: number, ms: number) => void;
  /** The group is lost (fenced, or no database): this engine is finished. */
  readonly onLost?: (error: Error) => void;
}

/** A command that waits for its turn. */
export interface Pending {
  readonly command: Command;
  /** Told of the events of its append and the seq of the first one, before it is resolved. */
  readonly told?: ((drafts: readonly EventDraft[], first_seq: number) => void) | undefined;
  resolve(summary: RunSummary): void;
  reject(error: unknown): void;
}

/** An open run, as its engine keeps it. */
export interface Actor {
  run: RunState;
  readonly run_bytes: Buffer;
  chain: Buffer;
  queue: Pending[];
  inFlight: boolean;
  /** A turn has failed, and the run is being ended for it. */
  ending?: boolean;
  approvals: Map<number, ApprovalRow>;
  timer: Timer | null;
  due_us: number;
  /** As of the last commit. */
  summary: RunSummary | null;
}
