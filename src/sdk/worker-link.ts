// A worker's requests to one control node: leases, reports, heartbeats and what its jobs say. What the worker has at hand is
// shared with its links to other nodes.
import { isAppError, messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import type { HeartbeatAnswer, LeasedJob } from "../contract/workers.ts";
import { fullJitter } from "../kit/backoff.ts";
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import type { Hand } from "./worker-hand.ts";
import type { WorkerClient } from "./worker-client.ts";

export type LinkClient = Pick<WorkerClient, "lease" | "heartbeat" | "report" | "progress">;

export interface LinkOptions {
  readonly client: LinkClient;
  readonly instance: string;
  readonly labels: readonly string[];
  readonly hand: Hand;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Whether this node is the one to tell of a run. */
  readonly isMeant: (run_id: string) => boolean;
  /** How many nodes jobs are taken from, and how many of them no request for jobs is on its way to. */
  readonly links: () => { all: number; idle: number };
  readonly isStopping: () => boolean;
  readonly onJobs: (jobs: readonly LeasedJob[]) => void;
  readonly onHeard: (answer: HeartbeatAnswer) => void;
  readonly onEnd: (reason: "refused" | "drained") => void;
}

const WAIT_MS = 10_000;
/** With less room than nodes to ask, each is asked for a moment in turn. */
const TURN_MS = 250;
/** How long a node that has no runs any more may take to answer what it was asked. */
const LEAVE_MS = 2_000;
const RETRY = { base_ms: 100, cap_ms: 2_000 };

export class Link {
  private readonly options: LinkOptions;
  private readonly requests = new AbortController();
  private reporting = false;
  private untold: JobProgress[] = [];
  private telling = false;
  private gone = false;
  isLeasing = false;
  /** When the node last answered. */
  heard_ms = -Infinity;
  private leased: Promise<void> = Promise.resolve();
  private loops: Promise<unknown> = Promise.resolve();

  constructor(options: LinkOptions) {
    this.options = options;
  }

  start(): void {
    this.leased = this.leaseLoop();
    this.loops = Promise.all([this.leased, this.heartbeatLoop()]);
    this.report();
  }

  /** The node has no runs any more. */
  leave(): void {
    if (this.gone) return;
    this.gone = true;
    this.options.hand.freed();
    this.options.clock.timer(LEAVE_MS, () => this.requests.abort());
  }

  /**
   * Says that no more jobs are wanted, so that the lease in flight is answered. Cutting it off could lose jobs that are on
   * their way; that is done only when nobody answers.
   */
  async takeLeave(): Promise<void> {
    await this.beat(true).catch(() => this.requests.abort());
    await Promise.race([this.leased, this.options.clock.sleep(LEAVE_MS)]);
  }

  /** Ends once what is under way has ended. */
  async end(): Promise<void> {
    this.gone = true;
    this.options.hand.freed();
    this.requests.abort();
    await this.loops;
  }

  private get isOver(): boolean {
    return this.gone || this.options.isStopping();
  }

  private async leaseLoop(): Promise<void> {
    const { client, instance, labels, hand, links, onJobs, onEnd } = this.options;
    for (let failures = 0; !this.isOver;) {
      const free = hand.room;
      if (free <= 0) {
        await hand.waitForRoom();
        continue;
      }
      const { all, idle } = links();
      const isScarce = all > 1 && hand.concurrency < 2 * all;
      // The other half is for jobs that follow from results: the two together never ask for more than there is room.
      const max = Math.min(Math.ceil(free / (2 * Math.max(1, idle))), LIMITS.worker_batch_max);
      const letGo = hand.ask(max);
      this.isLeasing = true;
      try {
        const request = { instance, labels: [...labels], max, wait_ms: isScarce ? TURN_MS : WAIT_MS };
        const { jobs, drain } = await client.lease(request, this.requests.signal).finally(letGo);
        this.answered();
        failures = 0;
        onJobs(jobs);
        if (drain && !this.isOver) onEnd("drained");
        if (isScarce && jobs.length === 0) await this.passOn();
      } catch (error) {
        if (this.isOver || this.failed("lease", error)) return;
        failures += 1;
        await this.pause(failures);
      } finally {
        this.isLeasing = false;
      }
    }
  }

  /** Lets the links to other nodes have the room first. */
  private async passOn(): Promise<void> {
    this.isLeasing = false;
    this.options.hand.freed();
    await this.options.clock.sleep(1);
  }

  private async heartbeatLoop(): Promise<void> {
    const { clock } = this.options;
    while (!this.gone) {
      await this.beat(this.options.isStopping()).catch((error: unknown) => this.failed("heartbeat", error));
      await clock.sleep(LIMITS.worker_heartbeat_ms);
    }
  }

  private async beat(draining: boolean): Promise<void> {
    const { client, instance, labels, hand, isMeant, onHeard } = this.options;
    const running = hand.refs(isMeant);
    const answer = await client.heartbeat({ instance, labels: [...labels], running, draining });
    this.answered();
    onHeard(answer);
  }

  /** Reports until nothing is left for this node; one request at a time, which also brings the jobs that follow. */
  report(): void {
    if (this.reporting || this.gone) return;
    this.reporting = true;
    // What finishes in the same turn goes together; what finishes while a report is on its way goes with the next one.
    this.options.clock.soon(() => void this.reportAll());
  }

  private async reportAll(): Promise<void> {
    const { client, instance, labels, hand, isMeant, isStopping, onJobs, log } = this.options;
    for (let failures = 0; !this.gone;) {
      const batch = hand.results(isMeant, LIMITS.worker_batch_max);
      if (batch.length === 0) break;
      // What is reported makes room at once.
      const max = isStopping() ? 0 : Math.max(0, Math.min(hand.room + batch.length, LIMITS.worker_batch_max));
      const letGo = hand.ask(max - batch.length);
      try {
        const request = { instance, labels, max, results: batch };
        const { items, jobs } = await client.report(request, this.requests.signal).finally(letGo);
        this.answered();
        failures = 0;
        for (const { result, code } of hand.acknowledged(batch, items)) {
          const { run_id, step, attempt } = result;
          log.warn("result.refused", { code, run_id, step, attempt });
        }
        onJobs(jobs);
        hand.freed();
        // What is done at once goes with what has waited for this answer: fewer and fuller requests.
        if (jobs.length > 0) await this.turn();
      } catch (error) {
        if (this.failed("report", error) || (isStopping() && failures > 3)) break;
        failures += 1;
        await this.pause(failures);
      }
    }
    // In the same breath as the last look: what finishes from here on begins a report of its own.
    this.reporting = false;
  }

  /** Lets what is ready to run do so. */
  private turn(): Promise<void> {
    return new Promise((resolve) => this.options.clock.soon(resolve));
  }

  /** What calls say. It is told once; what cannot be told in time is dropped. */
  says(said: readonly JobProgress[]): void {
    this.untold = [...this.untold, ...said].slice(-LIMITS.worker_batch_max);
    if (!this.telling) void this.tell();
  }

  private async tell(): Promise<void> {
    const { client, instance } = this.options;
    this.telling = true;
    while (this.untold.length > 0 && !this.gone) {
      const items = this.untold;
      this.untold = [];
      await client.progress({ instance, items }).catch(() => undefined);
    }
    this.telling = false;
  }

  private answered(): void {
    this.heard_ms = this.options.clock.monotonic_ms();
  }

  /** True when there is no use in going on. */
  private failed(what: string, error: unknown): boolean {
    this.heard_ms = -Infinity;
    if (!this.gone) this.options.log.warn(`worker.${what}_failed`, { error: messageOf(error) });
    if (!isAppError(error, "AUTH_REQUIRED") && !isAppError(error, "AUTH_FORBIDDEN")) return false;
    this.options.onEnd("refused");
    return true;
  }

  private pause(failures: number): Promise<void> {
    const { clock, random } = this.options;
    return clock.sleep(fullJitter({ ...RETRY, retry: failures, random: random.float() }) + 10);
  }
}
