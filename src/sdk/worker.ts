// A remote worker: leases jobs over HTTP, executes them, and reports until each result is acknowledged.
// Invariants: no more jobs at hand than the concurrency; a result is kept until the control plane has answered for it; what
// runs is named in every heartbeat, and stops when the answer says so.
import { messageOf, isAppError } from "../contract/errors.ts";
import type { Job, JobResult } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import { ticketKey } from "../contract/queue.ts";
import type { LeasedJob, LeasedResult, LeaseRef } from "../contract/workers.ts";
import { fullJitter } from "../kit/backoff.ts";
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import type { WorkerClient } from "./worker-client.ts";

/** Executes jobs; results come back through `RemoteWorker.finished`. */
export interface JobRunner {
  dispatch(jobs: readonly Job[]): void;
  abort(run_id: string): void;
}

export interface RemoteWorkerOptions {
  readonly client: Pick<WorkerClient, "lease" | "heartbeat" | "report" | "progress">;
  /** Names this process. */
  readonly instance: string;
  readonly labels: readonly string[];
  readonly concurrency: number;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** The credential was refused, or the control plane asked to drain: this worker ends. */
  readonly onEnd: (reason: "refused" | "drained") => void;
}

export interface WorkerFigures {
  leased: number;
  accepted: number;
  refused: number;
  running: number;
  unreported: number;
}

const WAIT_MS = 10_000;
/** How long a worker that leaves waits for the answer to its last lease. */
const LEAVE_MS = 2_000;
const RETRY = { base_ms: 100, cap_ms: 2_000 };

export class RemoteWorker {
  private readonly options: RemoteWorkerOptions;
  /** Everything at hand: running, or finished and not acknowledged. */
  private readonly atHand = new Map<string, LeaseRef>();
  private outbox: LeasedResult[] = [];
  private reporting = false;
  private untold: JobProgress[] = [];
  private telling = false;
  /** Jobs that the requests in flight may bring, beyond the room that a report makes itself. */
  private readonly asked = { lease: 0, report: 0 };
  private stopping = false;
  private ended = false;
  private connected = false;
  private readonly leasing = new AbortController();
  private freed: () => void = () => undefined;
  private readonly counts = { leased: 0, accepted: 0, refused: 0 };
  private leased: Promise<void> = Promise.resolve();
  private loops: Promise<unknown> = Promise.resolve();

  constructor(options: RemoteWorkerOptions) {
    this.options = options;
  }

  get figures(): WorkerFigures {
    return { ...this.counts, running: this.atHand.size - this.outbox.length, unreported: this.outbox.length };
  }

  /** The control plane answered the last request. */
  get isConnected(): boolean {
    return this.connected;
  }

  start(): void {
    this.leased = this.leaseLoop();
    this.loops = Promise.all([this.leased, this.heartbeatLoop()]);
  }

  /** Takes no more jobs and resolves when those at hand are reported, or the time is over. */
  async drain(limit_ms: number): Promise<void> {
    this.stopping = true;
    this.freed();
    await this.takeLeave();
    const end = this.options.clock.monotonic_ms() + limit_ms;
    while (this.atHand.size > 0 && !this.ended && this.options.clock.monotonic_ms() < end) {
      await this.options.clock.sleep(20);
    }
    this.ended = true;
    await this.loops;
  }

  /**
   * Says that no more jobs are wanted, so that the lease in flight is answered. Cutting it off could lose jobs that are on
   * their way; that is done only when nobody answers.
   */
  private async takeLeave(): Promise<void> {
    const { client, instance, labels, clock } = this.options;
    const running = [...this.atHand.values()];
    await client
      .heartbeat({ instance, labels: [...labels], running, draining: true })
      .catch(() => this.leasing.abort());
    await Promise.race([this.leased, clock.sleep(LEAVE_MS)]);
    this.leasing.abort();
  }

  /** Results of the runner. */
  finished(results: readonly JobResult[]): void {
    for (const result of results) {
      const ref = this.atHand.get(ticketKey(result));
      if (ref) this.outbox.push({ ...result, attempt_epoch: ref.attempt_epoch, token: ref.token });
    }
    if (this.reporting) return;
    this.reporting = true;
    // What finishes in the same turn goes together; what finishes while a report is on its way goes with the next one.
    this.options.clock.soon(() => void this.report());
  }

  /** What the runner's calls say. It is told once; what cannot be told in time is dropped. */
  says(said: readonly JobProgress[]): void {
    this.untold = [...this.untold, ...said].slice(-LIMITS.worker_batch_max);
    if (!this.telling) void this.tell();
  }

  private async tell(): Promise<void> {
    const { client, instance } = this.options;
    this.telling = true;
    while (this.untold.length > 0 && !this.ended) {
      const items = this.untold;
      this.untold = [];
      await client.progress({ instance, items }).catch(() => undefined);
    }
    this.telling = false;
  }

  /** Reports until nothing is left; one request at a time, which also brings the jobs that follow. */
  private async report(): Promise<void> {
    const { client, instance, labels } = this.options;
    for (let failures = 0; this.outbox.length > 0;) {
      const batch = this.outbox.slice(0, LIMITS.worker_batch_max);
      // What is reported makes room at once.
      const room = Math.max(0, this.room() + batch.length);
      const max = this.stopping ? 0 : Math.min(room, LIMITS.worker_batch_max);
      this.asked.report = Math.max(0, max - batch.length);
      try {
        const request = { instance, labels, max, results: batch };
        const { items, jobs } = await client.report(request).finally(() => (this.asked.report = 0));
        this.connected = true;
        failures = 0;
        this.outbox.splice(0, batch.length);
        for (const [index, verdict] of items.entries()) this.acknowledged(batch[index], verdict);
        this.begin(jobs);
        this.freed();
      } catch (error) {
        if (this.failed("report", error) || (this.ended && failures > 3)) break;
        failures += 1;
        await this.pause(failures);
      }
    }
    this.reporting = false;
  }

  private acknowledged(result: LeasedResult | undefined, verdict: { accepted: boolean; code?: string }): void {
    if (!result) return;
    this.atHand.delete(ticketKey(result));
    if (verdict.accepted) this.counts.accepted += 1;
    else {
      this.counts.refused += 1;
      const { run_id, step, attempt } = result;
      this.options.log.warn("result.refused", { code: verdict.code, run_id, step, attempt });
    }
  }

  private room(): number {
    return this.options.concurrency - this.atHand.size - this.asked.lease - this.asked.report;
  }

  private begin(jobs: readonly LeasedJob[]): void {
    if (jobs.length === 0) return;
    for (const { job, attempt_epoch, token } of jobs) {
      const { tenant_id, run_id, step, attempt } = job;
      this.atHand.set(ticketKey(job), { tenant_id, run_id, step, attempt, attempt_epoch, token });
    }
    this.counts.leased += jobs.length;
    this.options.runner.dispatch(jobs.map(({ job }) => job));
  }

  private async leaseLoop(): Promise<void> {
    const { client, instance, labels } = this.options;
    for (let failures = 0; !this.stopping;) {
      const free = this.room();
      if (free <= 0) {
        await new Promise<void>((resolve) => (this.freed = resolve));
        continue;
      }
      try {
        // The other half is for jobs that follow from results: the two together never ask for more than there is room.
        const max = Math.min(Math.ceil(free / 2), LIMITS.worker_batch_max);
        this.asked.lease = max;
        const request = { instance, labels: [...labels], max, wait_ms: WAIT_MS };
        const { jobs, drain } = await client.lease(request, this.leasing.signal).finally(() => (this.asked.lease = 0));
        this.connected = true;
        failures = 0;
        this.begin(jobs);
        if (drain && !this.stopping) return this.end("drained");
      } catch (error) {
        if (this.stopping || this.failed("lease", error)) return;
        failures += 1;
        await this.pause(failures);
      }
    }
  }

  private async heartbeatLoop(): Promise<void> {
    const { client, instance, labels, runner, clock } = this.options;
    while (!this.ended) {
      try {
        const running = [...this.atHand.values()];
        const answer = await client.heartbeat({ instance, labels: [...labels], running, draining: this.stopping });
        this.connected = true;
        for (const ref of answer.stop) runner.abort(ref.run_id);
        if (answer.drain && !this.stopping) this.end("drained");
      } catch (error) {
        this.failed("heartbeat", error);
      }
      await clock.sleep(LIMITS.worker_heartbeat_ms);
    }
  }

  /** True when there is no use in going on. */
  private failed(what: string, error: unknown): boolean {
    this.connected = false;
    this.options.log.warn(`worker.${what}_failed`, { error: messageOf(error) });
    if (!isAppError(error, "AUTH_REQUIRED") && !isAppError(error, "AUTH_FORBIDDEN")) return false;
    this.end("refused");
    return true;
  }

  private end(reason: "refused" | "drained"): void {
    if (this.stopping) return;
    this.stopping = true;
    this.options.onEnd(reason);
  }

  private pause(failures: number): Promise<void> {
    const { clock, random } = this.options;
    return clock.sleep(fullJitter({ ...RETRY, retry: failures, random: random.float() }) + 10);
  }
}
