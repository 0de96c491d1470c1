// The group writer: the only way into the journal. Self-clocked group commit: everything that arrives while a commit is
// in flight goes out with the next one; there is no timer.
// Invariants: one flush in flight per group; offsets are given out at the flush, in order, without gaps; a staged row's
// bytes never change, so after an unknown commit the group's head alone tells whether it happened.
import { assert } from "../kit/assert.ts";
import type { Clock } from "../kit/clock.ts";
import { FencedError, UnknownCommitError } from "../contract/journal.ts";
import type {
  AppendRow,
  ApprovalRow,
  BudgetDelta,
  BudgetUse,
  Flush,
  GroupLease,
  JournalStore,
  RunSummary,
} from "../contract/journal.ts";
import { AppError } from "../contract/errors.ts";

/** One run's append with the rows that change in its transaction. */
export interface Append {
  readonly row: AppendRow;
  readonly run: RunSummary | null;
  readonly approvals: readonly ApprovalRow[];
  readonly budgets: readonly BudgetDelta[];
}

/** This append was refused by the database; the others of its flush were not. The run's state must be dropped. */
export class AppendRejected extends Error {
  override readonly name = "AppendRejected";
}

interface Waiting {
  readonly append: Append;
  resolve(offset: number): void;
  reject(error: unknown): void;
  /** Tells the one who waits, once the outcome is known. */
  settle?: () => void;
}

/** Figures of the writer, for metrics. */
export interface WriterStats {
  flushes: number;
  appends: number;
  unknown_commits: number;
}

const FLUSH_ROWS_MAX = 1_000;
const FLUSH_BYTES_MAX = 32 * 1024 * 1024;
const SPLIT_ROWS_MIN = 16;
const SETTLE_TRIES = 40;
const SETTLE_PAUSE_MS = 250;

export class GroupWriter {
  readonly stats: WriterStats = { flushes: 0, appends: 0, unknown_commits: 0 };
  private queue: Waiting[] = [];
  private flushing = false;
  private failure: Error | null = null;
  private lease: GroupLease;
  private readonly store: JournalStore;
  private readonly clock: Clock;
  /** Use of each shared budget as of the last commit. */
  private readonly committed = new Map<string, BudgetUse>();
  private readonly onFailure: (error: Error) => void;
  private readonly onFlush: (rows: number, ms: number) => void;
  private idle: (() => void)[] = [];

  constructor(options: {
    store: JournalStore;
    clock: Clock;
    lease: GroupLease;
    budgets: readonly BudgetUse[];
    /** The group is lost: nothing will be written any more. */
    onFailure: (error: Error) => void;
    /** Told of each commit: its appends and how long it took. */
    onFlush?: ((rows: number, ms: number) => void) | undefined;
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.lease = options.lease;
    for (const use of options.budgets) this.committed.set(budgetKey(use), use);
    this.onFailure = options.onFailure;
    this.onFlush = options.onFlush ?? (() => undefined);
  }

  get head(): number {
    return this.lease.head;
  }

  get shard_epoch(): number {
    return this.lease.shard_epoch;
  }

  /** Resolves with the append's offset once it is durable. */
  append(append: Append): Promise<number> {
    if (this.failure) return Promise.reject(this.failure);
    const { row } = append;
    assert(
      row.first_seq >= 1 && row.last_seq >= row.first_seq && row.chain.length === 32 && row.body.length > 0,
      "an append has events, in order, and their chain value",
      { run_id: row.run_id, first_seq: row.first_seq, last_seq: row.last_seq },
    );
    return new Promise((resolve, reject) => {
      this.queue.push({ append, resolve, reject });
      if (!this.flushing) {
        this.flushing = true;
        // A microtask later, so that appends decided in the same turn share the first flush.
        queueMicrotask(() => void this.run());
      }
    });
  }

  /** Resolves when nothing is waiting. */
  drained(): Promise<void> {
    if (!this.flushing && this.queue.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }

  private async run(): Promise<void> {
    let batch = this.take(true);
    let sent = this.send(batch);
    for (;;) {
      const done = batch;
      const begun = this.clock.monotonic_ms();
      try {
        const rejected = await sent.result;
        this.onFlush(done.length, this.clock.monotonic_ms() - begun);
        if (rejected.length > 0) await this.isolate(done, rejected);
        else this.confirm(done, sent.budgets);
      } catch (error) {
        this.fail(error instanceof Error ? error : new Error(String(error)), done);
        break;
      }
      // The next flush goes out before anybody is told of this one: the database works while this process decides.
      const more = this.queue.length > 0;
      if (more) {
        batch = this.take(false);
        sent = this.send(batch);
      }
      for (const waiting of done) waiting.settle?.();
      if (!more) break;
    }
    this.flushing = false;
    if (this.queue.length > 0 && !this.failure) {
      this.flushing = true;
      queueMicrotask(() => void this.run());
    }
    for (const tell of this.idle.splice(0)) tell();
  }

  /** The next batch. `fresh`: nothing is in flight, so half of many is left for the flush that follows at once. */
  private take(fresh: boolean): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { append } of this.queue) {
      bytes += append.row.body.length;
      if (count > 0 && (bytes > FLUSH_BYTES_MAX || count >= FLUSH_ROWS_MAX)) break;
      count += 1;
    }
    if (fresh && count > SPLIT_ROWS_MIN) count = Math.ceil(count / 2);
    return count === this.queue.length ? this.queue.splice(0) : this.queue.splice(0, count);
  }

  /** Sends a batch; the result is the runs whose rows the database refused. */
  private send(batch: readonly Waiting[]): { result: Promise<readonly string[]>; budgets: readonly BudgetUse[] } {
    const runs: RunSummary[] = [];
    const approvals: ApprovalRow[] = [];
    const rows: AppendRow[] = [];
    for (const { append } of batch) {
      rows.push(append.row);
      if (append.run) runs.push(append.run);
      for (const approval of append.approvals) approvals.push(approval);
    }
    const budgets = this.totals(batch);
    const result = this.settle({ rows, runs, approvals, budgets, at_us: this.clock.now_us() });
    return { result, budgets };
  }

  /** A batch is committed: its offsets are known. Whoever waits is told by `settle`. */
  private confirm(batch: readonly Waiting[], budgets: readonly BudgetUse[]): void {
    for (const use of budgets) this.committed.set(budgetKey(use), use);
    const first = this.lease.head + 1;
    this.lease = { ...this.lease, head: this.lease.head + batch.length };
    this.stats.flushes += 1;
    this.stats.appends += batch.length;
    for (const [index, waiting] of batch.entries()) waiting.settle = () => waiting.resolve(first + index);
  }

  /** Budgets as they are once this batch is committed: what the database holds always equals the sum of the journal. */
  private totals(batch: readonly Waiting[]): BudgetUse[] {
    const touched = new Map<string, BudgetUse>();
    for (const { append } of batch) {
      for (const delta of append.budgets) {
        const key = budgetKey(delta);
        let use = touched.get(key);
        if (!use) touched.set(key, (use = { ...(this.committed.get(key) ?? emptyUse(delta)) }));
        addUse(use, delta);
      }
    }
    return [...touched.values()];
  }

  /** Drops the refused appends and commits the rest: a poisoned row fails one run, never the batch. */
  private async isolate(batch: readonly Waiting[], rejected: readonly string[]): Promise<void> {
    const refused = new Set(rejected);
    const rest: Waiting[] = [];
    for (const waiting of batch) {
      const { run_id } = waiting.append.row;
      if (!refused.has(run_id)) rest.push(waiting);
      else waiting.settle = () => waiting.reject(new AppendRejected(`the database refused an append of ${run_id}`));
    }
    assert(rest.length < batch.length, "a rejection names a run of the batch");
    if (rest.length === 0) return;
    const sent = this.send(rest);
    const again = await sent.result;
    if (again.length > 0) return this.isolate(rest, again);
    this.confirm(rest, sent.budgets);
  }

  /** Sends a flush until it is known to be committed or refused. Returns the runs the database refused. */
  private async settle(flush: Flush): Promise<readonly string[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        const result = await this.store.flush(this.lease, flush);
        return result.ok ? [] : result.rejected;
      } catch (error) {
        if (!(error instanceof UnknownCommitError)) throw error;
        this.stats.unknown_commits += 1;
        if (await this.wasCommitted(flush, attempt, error)) return [];
      }
    }
  }

  private async wasCommitted(flush: Flush, attempt: number, unknown: UnknownCommitError): Promise<boolean> {
    let cause = unknown;
    for (let tries = attempt; tries <= SETTLE_TRIES; tries++) {
      try {
        const now = await this.store.groupHead(this.lease.group);
        if (now.shard_epoch !== this.lease.shard_epoch) throw new FencedError("the group has another owner");
        if (now.head === this.lease.head) return false;
        assert(now.head === this.lease.head + flush.rows.length, "the head moves by whole flushes", { ...now });
        return true;
      } catch (error) {
        if (!(error instanceof UnknownCommitError)) throw error;
        cause = error;
        await this.clock.sleep(SETTLE_PAUSE_MS);
      }
    }
    const message = "The database did not take the journal's rows; the journal's owner gave up";
    throw new AppError("DATABASE_UNAVAILABLE", message, { cause });
  }

  private fail(error: Error, batch: readonly Waiting[]): void {
    this.failure = error;
    for (const waiting of [...batch, ...this.queue.splice(0)]) (waiting.settle ?? (() => waiting.reject(error)))();
    this.onFailure(error);
  }
}

export function budgetKey(use: Pick<BudgetUse, "tenant_id" | "budget" | "period_start_us">): string {
  return `${use.tenant_id}/${use.budget}/${use.period_start_us}`;
}

export function emptyUse(id: Pick<BudgetUse, "tenant_id" | "budget" | "period_start_us">): BudgetUse {
  const { tenant_id, budget, period_start_us } = id;
  return {
    tenant_id,
    budget,
    period_start_us,
    spent_micro_usd: 0,
    reserved_micro_usd: 0,
    spent_tokens: 0,
    reserved_tokens: 0,
  };
}

/** Adds a change in place. */
export function addUse(use: BudgetUse, delta: BudgetDelta): void {
  use.spent_micro_usd += delta.spent_micro_usd;
  use.reserved_micro_usd += delta.reserved_micro_usd;
  use.spent_tokens += delta.spent_tokens;
  use.reserved_tokens += delta.reserved_tokens;
}
