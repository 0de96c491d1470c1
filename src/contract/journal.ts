// The contract of the journal: what the in-memory store (simulation, unit tests) and the Postgres store both do, under
// one suite (journal/store.suite.ts). A store is dumb: it keeps appends and refuses writers that were fenced.
import type { RunKind, RunStateName } from "./events.ts";
import type { SliceKey } from "./slices.ts";

/** One append of one run: one row. `body` is its events, canonical JSON, one a line. */
export interface AppendRow {
  readonly tenant_id: string;
  readonly run_id: string;
  /** The bytes of run_id, where whoever made the row has them at hand. */
  readonly run_bytes?: Buffer;
  readonly first_seq: number;
  readonly last_seq: number;
  readonly body: Buffer;
  /** Chain value after the last event (event-schema section 5). */
  readonly chain: Buffer;
}

/** An append with its place in its group's order. */
export interface CommittedRow extends AppendRow {
  readonly group: number;
  readonly offset: number;
  readonly at_us: number;
}

/** The row of `runs` that lists and recovery read. Written only when the run's state changes. */
export interface RunSummary {
  readonly tenant_id: string;
  readonly project_id: string;
  readonly run_id: string;
  readonly kind: RunKind;
  readonly target: string;
  readonly env: string;
  readonly state: RunStateName;
  readonly reason: string | null;
  readonly requester: string;
  readonly created_at_us: number;
  readonly updated_at_us: number;
  readonly steps: number;
  readonly cost_micro_usd: number;
  readonly tokens: number;
  readonly retry_of: string | null;
  /** Of a replay or fork: the run it was made from. */
  readonly source_run_id: string | null;
  /** Of a captured run: what its source calls it (a trace, a session); unique among open runs only. */
  readonly external_id: string | null;
  /** Nothing is added to it any more (`run.sealed`). */
  readonly sealed: boolean;
}

/** Approval rows change with the events that ask and answer, in the same transaction. */
export interface ApprovalRow {
  readonly tenant_id: string;
  readonly approval_id: string;
  readonly run_id: string;
  readonly step: number;
  readonly state: "pending" | "approved" | "rejected" | "expired";
  readonly tool: string;
  /** Canonical JSON of what is shown: rendered from the bytes that will run. */
  readonly shown: string;
  readonly binding: string;
  readonly requester: string;
  readonly approvers_min: number;
  readonly created_at_us: number;
  readonly expires_at_us: number;
  readonly resolved_by: string | null;
  readonly resolved_at_us: number | null;
  readonly note: string | null;
}

/** Absolute use of one shared budget in one period, as its owner knows it at this commit. */
export interface BudgetUse {
  readonly tenant_id: string;
  readonly budget: string;
  readonly period_start_us: number;
  spent_micro_usd: number;
  reserved_micro_usd: number;
  spent_tokens: number;
  reserved_tokens: number;
}

/** What one append changes in the use of a shared budget. */
export type BudgetDelta = BudgetUse;

/** What one flush commits, in one transaction. */
export interface Flush {
  readonly rows: readonly AppendRow[];
  readonly runs: readonly RunSummary[];
  readonly approvals: readonly ApprovalRow[];
  readonly budgets: readonly BudgetUse[];
  /** Fixed when the flush is first composed: a retry must send identical bytes. */
  readonly at_us: number;
}

export interface GroupLease {
  readonly group: number;
  readonly shard_epoch: number;
  /** Last offset of the group; offsets are gapless. */
  readonly head: number;
}

/** Result of one flush. `rejected` names runs whose row the database refused; nothing of the flush was committed then. */
export type FlushResult = { ok: true } | { ok: false; rejected: readonly string[] };

/** The owner's place was taken: nothing of it was written, and nothing more will be. */
export class FencedError extends Error {
  override readonly name = "FencedError";
}

/** The connection broke after the commit was sent. Ask `groupHead` which it was. */
export class UnknownCommitError extends Error {
  override readonly name = "UnknownCommitError";
}

/**
 * What this program writes and understands. Raised with each change of events or of their meaning that an older program would
 * misread: two versions may share a database, but what a newer one has written is never taken over by an older one.
 * 1: until model calls could wait for approval (`model.proposed`). 2: with it. 3: with several shard groups. 4: arguments of
 * calls may be put away (`args_box`), and those that stand in the event must not be used; ended runs are sealed. 5: tasks ask one model after
 * the other (`routing.decided`), and what they mind holds for each call.
 */
export const JOURNAL_LEVEL = 5;

/** A newer program has written here: `level` is what it writes. */
export class NewerJournalError extends Error {
  override readonly name = "NewerJournalError";

  constructor(level: number) {
    super(
      `the journal was written by a newer version of the program (level ${level}; this one understands ${JOURNAL_LEVEL}); install that one`,
    );
  }
}

/** A node as others see it. */
export interface NodeAddress {
  readonly node: string;
  readonly url: string;
}

/** What a node says of a group that it holds. */
export interface HeldGroup extends Pick<GroupLease, "group" | "shard_epoch"> {
  readonly open_runs: number;
}

/** Who owns a group, as the database has it. */
export interface GroupPlace extends NodeAddress {
  readonly group: number;
  readonly shard_epoch: number;
  /** How long nobody has owned it; null while somebody does. */
  readonly free_ms: number | null;
}

/** What the database says at a beat. */
export interface Membership {
  /** Groups whose lease was renewed. */
  readonly renewed: readonly number[];
  /** Control nodes that live, the longest running first. */
  readonly nodes: readonly NodeAddress[];
  readonly groups: readonly GroupPlace[];
  /** Of the settings that all nodes keep at hand. */
  readonly version: number;
  /** Slices of budgets that groups held here were granted, and others need. */
  readonly wanted: readonly (SliceKey & { readonly group: number })[];
}

/** Who owns which group, by the database's clock alone. A lease that ran out is anybody's; each claim raises the epoch. */
export interface GroupLeases {
  /**
   * Says that a node lives and which settings it uses, and renews its leases. A node with `counts: false` is none that a share
   * of the groups is meant for.
   */
  beat(given: {
    by: NodeAddress;
    counts: boolean;
    held: readonly HeldGroup[];
    seen: number;
    ttl_ms: number;
  }): Promise<Membership>;
  /** Null when another node holds the lease. Throws NewerJournalError. */
  claim(group: number, by: NodeAddress, ttl_ms: number): Promise<GroupLease | null>;
  /** Gives the group up at once. */
  release(lease: Pick<GroupLease, "group" | "shard_epoch">): Promise<void>;
  /** The node takes no part any more: the others share what it had. */
  leave(node: string): Promise<void>;
}

export interface JournalStore {
  /**
   * Raises the group's epoch and returns the lease. Whoever held the group before is fenced from here on. Throws
   * NewerJournalError.
   */
  acquireGroup(group: number, owner: string): Promise<GroupLease>;
  /** Commits a flush at offsets head+1 ... head+rows. Throws FencedError or UnknownCommitError. */
  flush(lease: GroupLease, flush: Flush): Promise<FlushResult>;
  groupHead(group: number): Promise<{ shard_epoch: number; head: number }>;
  /**
   * Appends of one run in order, those with an event from `from_seq` up to `to_seq` (all that follow, unless said). `tenant_id` null
   * reads across tenants: recovery and followers only.
   */
  readRun(
    tenant_id: string | null,
    run_id: string,
    from_seq: number,
    limit_rows: number,
    to_seq?: number,
  ): Promise<CommittedRow[]>;
  /** Appends of many runs, across tenants, run after run and each in order, up to a number of rows: for recovery. */
  readRuns(run_ids: readonly string[], limit_rows: number): Promise<CommittedRow[]>;
  /** Appends of one group after an offset, for followers. */
  readGroup(group: number, after_offset: number, limit_rows: number): Promise<CommittedRow[]>;
  /**
   * What checkpoints are made of: the leaves (`appendLeaf`) of the next appends of one group, for each tenant one after the
   * other, and the last offset looked at. `ends`: what is not after this offset is left out, by tenant.
   */
  readLeaves(
    group: number,
    after_offset: number,
    limit_rows: number,
    ends: ReadonlyMap<string, number>,
  ): Promise<{ to_off: number; leaves: ReadonlyMap<string, Uint8Array> }>;
  /** Ids of runs that are not terminal, in the order of their creation, after the given one. */
  openRuns(group: number, after_run_id: string | null, limit: number): Promise<string[]>;
  /** Use of shared budgets by the runs of one group; null: by all runs. */
  budgetUse(group: number | null): Promise<BudgetUse[]>;
}
