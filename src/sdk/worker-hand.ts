// What a worker has at hand: jobs that run, results that nobody has acknowledged yet, and the room for more.
// Invariants: no more jobs than the concurrency, also counting what requests in flight may bring; a result is kept until the
// control plane has answered for it.
import type { JobResult } from "../contract/jobs.ts";
import { ticketKey } from "../contract/queue.ts";
import type { LeasedJob, LeasedResult, LeaseRef, Verdict } from "../contract/workers.ts";

export class Hand {
  /** Everything at hand: running, or finished and not acknowledged. */
  private readonly jobs = new Map<string, LeaseRef>();
  private outbox: LeasedResult[] = [];
  private asked = 0;
  private waiting: (() => void)[] = [];
  readonly counts = { leased: 0, accepted: 0, refused: 0 };
  readonly concurrency: number;

  constructor(concurrency: number) {
    this.concurrency = concurrency;
  }

  get size(): number {
    return this.jobs.size;
  }

  get unreported(): number {
    return this.outbox.length;
  }

  get room(): number {
    return this.concurrency - this.jobs.size - this.asked;
  }

  /** Keeps room for jobs that a request may bring; returns how to let go of it. */
  ask(count: number): () => void {
    let kept = Math.max(0, count);
    this.asked += kept;
    return () => {
      this.asked -= kept;
      kept = 0;
      this.freed();
    };
  }

  waitForRoom(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Lets those look up who wait for room. */
  freed(): void {
    for (const wake of this.waiting.splice(0)) wake();
  }

  begin(given: readonly LeasedJob[]): void {
    for (const { job, attempt_epoch, token } of given) {
      const { tenant_id, run_id, step, attempt } = job;
      this.jobs.set(ticketKey(job), { tenant_id, run_id, step, attempt, attempt_epoch, token });
    }
    this.counts.leased += given.length;
  }

  finished(results: readonly JobResult[]): void {
    for (const result of results) {
      const ref = this.jobs.get(ticketKey(result));
      if (ref) this.outbox.push({ ...result, attempt_epoch: ref.attempt_epoch, token: ref.token });
    }
  }

  refs(isMeant: (run_id: string) => boolean): LeaseRef[] {
    return [...this.jobs.values()].filter((ref) => isMeant(ref.run_id));
  }

  results(isMeant: (run_id: string) => boolean, max: number): LeasedResult[] {
    return this.outbox.filter((result) => isMeant(result.run_id)).slice(0, max);
  }

  /** They were answered for; returns those that were refused. */
  acknowledged(batch: readonly LeasedResult[], verdicts: readonly Verdict[]): { result: LeasedResult; code: string }[] {
    const done = new Set(batch);
    this.outbox = this.outbox.filter((result) => !done.has(result));
    return batch.flatMap((result, index) => {
      const verdict = verdicts[index];
      this.jobs.delete(ticketKey(result));
      if (verdict?.accepted) this.counts.accepted += 1;
      else this.counts.refused += 1;
      return verdict?.accepted ? [] : [{ result, code: verdict?.code ?? "" }];
    });
  }
}
