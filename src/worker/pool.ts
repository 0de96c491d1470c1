// The in-process worker pool. Same contract as remote workers will have: it gets jobs, it answers results, it knows
// nothing of runs, and it has no way to the database. Results of one turn of the event loop go back as one batch.
import type { Clock } from "../kit/clock.ts";
import { KeyedLimit } from "../kit/keyed-limit.ts";
import type { PlaceCounter } from "../kit/keyed-limit.ts";
import type { KeyLimit } from "../kit/keyed-limit.ts";
import { CanonicalFormError, canonicalJson } from "../kit/jcs.ts";
import { Line } from "../kit/line.ts";
import { limitsOf, PRIORITY_DEFAULT } from "../contract/jobs.ts";
import type { Job, JobFailure, JobOutcome, JobQueue, JobResult } from "../contract/jobs.ts";
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import type { JobProgress, Progress } from "../contract/progress.ts";

/**
 * Lets an executor hear that its run was stopped, and say how its call goes on. The signal is made when first asked for: most
 * jobs never ask.
 */
export class JobContext {
  private controller: AbortController | null = null;
  private aborted = false;
  /** Tells whoever watches the run; lost when nobody does. */
  readonly say: (kind: Progress["kind"], text: string) => void;

  constructor(say: JobContext["say"] = () => undefined) {
    this.say = say;
  }

  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.aborted) this.controller.abort();
    return this.controller.signal;
  }

  abort(): void {
    this.aborted = true;
    this.controller?.abort();
  }
}

/** Executes one kind of job. Throws JobError for a failure it can name; anything else is a bug of the executor. */
export type Execute = (job: Job, context: JobContext) => JobOutcome | Promise<JobOutcome>;

/** A failure with its class; the orchestrator decides what follows from it. */
export class JobError extends Error {
  override readonly name = "JobError";
  readonly failure: JobFailure;

  constructor(failure: JobFailure, cause?: unknown) {
    super(failure.message, cause === undefined ? undefined : { cause });
    this.failure = failure;
  }
}

export interface PoolOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly concurrency_max: number;
  readonly execute: Execute;
  readonly report: (results: readonly JobResult[]) => void;
  /** Counts calls of tools and agents that limit them; absent: this pool counts by itself. */
  readonly places?: PlaceCounter;
  /** False when another node may own the run by now: its jobs are not begun any more. */
  readonly owns?: (run_id: string) => boolean;
  /** What running calls say, gathered for a moment. */
  readonly progress?: (said: readonly JobProgress[]) => void;
}

/** A job that has not begun. */
interface Waiting {
  readonly job: Job;
  readonly priority: number;
}

/** Tokens come faster than anybody reads. */
const GATHER_MS = 50;

export class WorkerPool implements JobQueue {
  private readonly options: PoolOptions;
  private readonly waiting = new Line<Waiting>();
  private readonly aborts = new Map<string, Set<JobContext>>();
  private readonly limits: KeyedLimit<Waiting>;
  private busy = 0;
  private done: JobResult[] = [];
  private reporting = false;
  private stopped = false;
  private said = new Map<string, JobProgress>();

  constructor(options: PoolOptions) {
    this.options = options;
    this.limits = new KeyedLimit(options.places);
    options.places?.watch({
      isWaiting: (key) => this.limits.isWaiting(key),
      free: (key) => {
        const next = this.limits.unpark(key);
        if (next) this.next([next]);
        this.pump();
      },
    });
  }

  dispatch(jobs: readonly Job[], priority: number = PRIORITY_DEFAULT): void {
    for (const job of jobs) this.waiting.push({ job, priority }, priority);
    this.pump();
  }

  /** It was their turn before: it is again, before others of their priority. */
  private next(woken: readonly Waiting[]): void {
    for (const one of woken.toReversed()) this.waiting.putBack([one], one.priority);
  }

  abort(run_id: string): void {
    for (const context of this.aborts.get(run_id) ?? []) context.abort();
    // What has not begun is answered at once: it had no effect.
    const isStopped = ({ job }: Waiting) => job.run_id === run_id;
    const message = "The run was stopped.";
    for (const { job } of [...this.limits.drop(isStopped), ...this.waiting.drop(isStopped)])
      this.finish(job, 0, { ok: false, failure: { class: "cancelled", code: "cancelled", message } });
  }

  /** Forgets what has not begun of runs that another engine has taken over: it dispatches what is open anew. */
  reset(isGone: (run_id: string) => boolean): void {
    this.limits.drop(({ job }) => isGone(job.run_id));
    this.waiting.drop(({ job }) => isGone(job.run_id));
  }

  /** Takes no more jobs and aborts those that run. */
  stop(): void {
    this.stopped = true;
    for (const contexts of this.aborts.values()) for (const context of contexts) context.abort();
  }

  get depth(): number {
    return this.waiting.size;
  }

  private pump(): void {
    while (!this.stopped && this.busy < this.options.concurrency_max) {
      const waiting = this.waiting.shift();
      if (!waiting) return;
      this.begin(waiting);
    }
  }

  /** Starts a job, or keeps it until its tool and its agent have a place. */
  private begin(waiting: Waiting): void {
    const { job, priority } = waiting;
    if (this.options.owns?.(job.run_id) === false) return;
    const limits = limitsOf(job);
    const { full, woken } = this.limits.enterAll(limits);
    if (full !== null) {
      this.limits.park(full, waiting, priority);
      this.next(woken);
      return;
    }
    this.busy += 1;
    void this.run(job, limits);
  }

  private async run(job: Job, limits: readonly KeyLimit[]): Promise<void> {
    const context = new JobContext((kind, text) => this.say(job, kind, text));
    let ofRun = this.aborts.get(job.run_id);
    if (!ofRun) this.aborts.set(job.run_id, (ofRun = new Set()));
    ofRun.add(context);
    const started = this.options.clock.monotonic_ms();
    let outcome: JobOutcome;
    try {
      outcome = storable(await this.options.execute(job, context));
    } catch (error) {
      outcome = { ok: false, failure: this.failureOf(error, job) };
    }
    ofRun.delete(context);
    if (ofRun.size === 0) this.aborts.delete(job.run_id);
    this.busy -= 1;
    if (limits.length > 0) this.next(this.limits.leaveAll(limits));
    this.finish(job, Math.round(this.options.clock.monotonic_ms() - started), outcome);
    this.pump();
  }

  private say({ tenant_id, run_id, step, attempt }: Job, kind: Progress["kind"], text: string): void {
    if (!this.options.progress || text === "") return;
    if (this.said.size === 0) this.options.clock.timer(GATHER_MS, () => this.tell());
    const key = `${run_id}/${step}/${attempt}/${kind}`;
    const before = this.said.get(key)?.text ?? "";
    // A note replaces the one before it; tokens follow each other.
    const all = kind === "tokens" ? before + text : text;
    this.said.set(key, { tenant_id, run_id, step, attempt, kind, text: all.slice(0, LIMITS.progress_chars_max) });
  }

  private tell(): void {
    if (this.said.size === 0) return;
    const said = [...this.said.values()];
    this.said = new Map();
    this.options.progress?.(said);
  }

  private failureOf(error: unknown, job: Job): JobFailure {
    if (error instanceof JobError) return error.failure;
    this.options.log.error("worker.executor_failed", { run_id: job.run_id, step: job.step, error: messageOf(error) });
    return { class: "unknown_outcome", code: "executor_failed", message: messageOf(error) };
  }

  private finish(job: Job, duration_ms: number, outcome: JobOutcome): void {
    const { tenant_id, run_id, step, attempt, kind } = job;
    // What it said comes before what came of it.
    this.tell();
    this.done.push({ tenant_id, run_id, step, attempt, kind, duration_ms, outcome });
    if (this.reporting) return;
    this.reporting = true;
    queueMicrotask(() => {
      this.reporting = false;
      const results = this.done;
      this.done = [];
      this.options.report(results);
    });
  }
}

/** A result that has no canonical form (NaN, NUL, a lone surrogate) cannot be recorded, so it is a failure. */
function storable(outcome: JobOutcome): JobOutcome {
  try {
    if (outcome.ok) canonicalJson(outcome.kind === "tool" ? outcome.result : [outcome.content, outcome.tool_calls]);
    return outcome;
  } catch (error) {
    if (!(error instanceof CanonicalFormError)) throw error;
    const message = `The result cannot be recorded: ${error.message}.`;
    return { ok: false, failure: { class: "permanent", code: "unrecordable_result", message } };
  }
}
