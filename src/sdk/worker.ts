// A remote worker: leases jobs over HTTP, executes them, and reports until each result is acknowledged. It begins at the
// configured address; where several control nodes own the runs of some groups each, it talks to all of them.
// Invariants: no more jobs at hand than the concurrency; a result is kept until the owner of its run has answered for it; what
// runs is named in every heartbeat, and stops when the answer says so.
import { isAppError, messageOf } from "../contract/errors.ts";
import type { Job, JobResult } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import type { HeartbeatAnswer, LeasedJob } from "../contract/workers.ts";
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import { Hand } from "./worker-hand.ts";
import { Link } from "./worker-link.ts";
import type { LinkClient } from "./worker-link.ts";
import { Owners } from "./worker-owners.ts";

/** Executes jobs; results come back through `RemoteWorker.finished`. */
export interface JobRunner {
  dispatch(jobs: readonly Job[]): void;
  abort(run_id: string): void;
}

export interface RemoteWorkerOptions {
  /** Reaches the configured address. */
  readonly client: LinkClient;
  /** Reaches one control node. */
  readonly connect: (url: string) => LinkClient;
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

/** The link through the configured address. */
const DOOR = "";
/** When no node has answered for so long, the configured address is asked who is there. */
const LOST_MS = 3 * LIMITS.worker_heartbeat_ms;

export class RemoteWorker {
  private readonly options: RemoteWorkerOptions;
  private readonly hand: Hand;
  private readonly owners = new Owners();
  /** By where the node answers. */
  private readonly links = new Map<string, Link>();
  private stopping = false;
  private ended = false;
  private watching: Promise<void> = Promise.resolve();

  constructor(options: RemoteWorkerOptions) {
    this.options = options;
    this.hand = new Hand(options.concurrency);
  }

  get figures(): WorkerFigures {
    const { size, unreported, counts } = this.hand;
    return { ...counts, running: size - unreported, unreported };
  }

  /** A control node answered the last request. */
  get isConnected(): boolean {
    return [...this.links.values()].some((link) => link.heard_ms > -Infinity);
  }

  start(): void {
    this.connect(DOOR);
    this.watching = this.watch();
  }

  /** Takes no more jobs and resolves when those at hand are reported, or the time is over. */
  async drain(limit_ms: number): Promise<void> {
    const { clock } = this.options;
    this.stopping = true;
    this.hand.freed();
    await Promise.all([...this.links.values()].map((link) => link.takeLeave()));
    const end = clock.monotonic_ms() + limit_ms;
    while (this.hand.size > 0 && !this.ended && clock.monotonic_ms() < end) await clock.sleep(20);
    this.ended = true;
    await Promise.all([...this.links.values()].map((link) => link.end()));
    await this.watching;
  }

  /** Results of the runner. */
  finished(results: readonly JobResult[]): void {
    this.hand.finished(results);
    for (const link of this.links.values()) link.report();
  }

  /** What the runner's calls say. */
  says(said: readonly JobProgress[]): void {
    for (const [url, link] of this.links) {
      const own = said.filter((one) => this.urlOf(one.run_id) === url);
      if (own.length > 0) link.says(own);
    }
  }

  private urlOf(run_id: string): string {
    return this.owners.urlOf(run_id) ?? DOOR;
  }

  private connect(url: string): void {
    const { client, connect, instance, labels, clock, random, log } = this.options;
    const link = new Link({
      instance,
      labels,
      clock,
      random,
      log,
      client: url === DOOR ? client : connect(url),
      hand: this.hand,
      isMeant: (run_id) => this.urlOf(run_id) === url,
      links: () => {
        const idle = [...this.links.values()].filter((other) => !other.isLeasing).length;
        return { all: this.links.size, idle };
      },
      isStopping: () => this.stopping,
      onJobs: (jobs) => this.begin(jobs),
      onHeard: (answer) => this.heard(answer),
      onEnd: (reason) => this.end(reason),
    });
    this.links.set(url, link);
    link.start();
  }

  private begin(jobs: readonly LeasedJob[]): void {
    if (jobs.length === 0) return;
    this.hand.begin(jobs);
    this.options.runner.dispatch(jobs.map(({ job }) => job));
  }

  private heard({ stop, drain, groups }: HeartbeatAnswer): void {
    for (const ref of stop) this.options.runner.abort(ref.run_id);
    if (drain && !this.stopping) this.end("drained");
    this.owners.heard(groups);
    if (this.ended) return;
    const wanted = new Set(this.owners.urls.length > 0 ? this.owners.urls : [DOOR]);
    for (const [url, link] of this.links) {
      if (wanted.has(url)) continue;
      link.leave();
      this.links.delete(url);
    }
    for (const url of wanted) if (!this.links.has(url)) this.connect(url);
    // What was meant for one node may be meant for another now, also where the nodes are the same.
    for (const link of this.links.values()) link.report();
  }

  /** Asks at the configured address when every node that was known is gone. */
  private async watch(): Promise<void> {
    const { client, clock, instance, labels, log } = this.options;
    while (!this.ended) {
      await clock.sleep(LIMITS.worker_heartbeat_ms);
      const last = Math.max(...[...this.links.values()].map((link) => link.heard_ms));
      if (this.ended || this.links.has(DOOR) || clock.monotonic_ms() - last < LOST_MS) continue;
      const asked = { instance, labels: [...labels], running: [], draining: this.stopping };
      await client.heartbeat(asked).then(
        (answer) => this.heard(answer),
        (error: unknown) => {
          log.warn("worker.nobody_answers", { error: messageOf(error) });
          if (isAppError(error, "AUTH_REQUIRED") || isAppError(error, "AUTH_FORBIDDEN")) this.end("refused");
        },
      );
    }
  }

  private end(reason: "refused" | "drained"): void {
    if (this.stopping) return;
    this.stopping = true;
    this.options.onEnd(reason);
  }
}
