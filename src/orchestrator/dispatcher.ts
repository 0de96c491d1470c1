// Hands jobs to remote workers. Owns every job that waits or is out, in memory: the journal has their intents, so whoever
// takes over finds them there again. The queue only carries tickets.
// Invariants:
//   - a job is handed out at most once per attempt: a ticket counts only while its job waits here;
//   - a worker not heard of for the lease has lost its jobs; the run decides what follows (again, or in doubt);
//   - a result is acknowledged when it is committed, and taken only from the worker that holds the lease.
import { hmacHex, sameText } from "../kit/hash.ts";
import type { Clock, Timer } from "../kit/clock.ts";
import { KeyedLimit } from "../kit/keyed-limit.ts";
import { Rate } from "../kit/rate.ts";
import type { PlaceCounter } from "../kit/keyed-limit.ts";
import { isAppError, messageOf } from "../contract/errors.ts";
import { limitsOf, needsOf } from "../contract/jobs.ts";
import type { Job, JobQueue, JobResult } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import { WORKER_LOST } from "../core/decide.ts";
import { serves, ticketKey } from "../contract/queue.ts";
import type { Queue, Ticket } from "../contract/queue.ts";
import type { LeasedJob, LeasedResult, LeaseRef, Verdict } from "../contract/workers.ts";
import { keyOf, sameWorker, Waiters } from "./waiters.ts";
import type { Waiter, WorkerId } from "./waiters.ts";

interface Held {
  readonly job: Job;
  readonly ticket: Ticket;
  readonly waiting_since_ms: number;
  /** Null while it waits. */
  worker: WorkerId | null;
  epoch: number;
  /** Of the lease; empty while it waits. */
  token: string;
  until_ms: number;
  stopped: boolean;
  /** Waits for a place, not for a worker. */
  parked: boolean;
  /** Set while its result is being committed. */
  settling: Promise<Verdict> | null;
}

export interface DispatcherOptions {
  readonly queue: Queue;
  readonly clock: Clock;
  readonly log: Log;
  /** Signs lease tokens; from outside the database. */
  readonly key: (tenant_id: string) => Uint8Array;
  /** Commits a result; throws STALE_RESULT when no attempt waits for it. */
  readonly deliver: (result: JobResult) => Promise<void>;
  /** Raised by each take-over of the run. */
  readonly epoch: (run_id: string) => number;
  /** False when another node may own the run by now: it is not handed out then. */
  readonly owns?: (run_id: string) => boolean;
  readonly onLeased?: (waited_ms: number) => void;
  /** Counts calls of tools and agents that limit them; absent: this process counts by itself. */
  readonly places?: PlaceCounter;
}

const SWEEP_MS = 1_000;
/** A waiting job that the queue has not handed out for so long may have lost its ticket. */
const LOST_TICKET_MS = 2_000;
const POLL_MS = 500;
const SETTLED_KEPT = 10_000;
export class Dispatcher implements JobQueue {
  private readonly options: DispatcherOptions;
  private readonly held = new Map<string, Held>();
  /** Attempts whose result was committed lately, so that a second one is told apart from a late one. */
  private settled = new Set<string>();
  private settledBefore = new Set<string>();
  private readonly outgoing: Ticket[] = [];
  private readonly waiters = new Waiters((worker) => this.runningOn(worker));
  private readonly limits: KeyedLimit<Held>;
  private running = 0;
  /** Jobs out on each worker process, by its key. */
  private readonly loads = new Map<string, number>();
  private readonly arrived = new Rate();
  private readonly done = new Rate();
  private timer: Timer | null = null;
  private sweeping: Promise<void> | null = null;

  constructor(options: DispatcherOptions) {
    this.options = options;
    this.limits = new KeyedLimit(options.places);
    options.places?.watch({
      isWaiting: (key) => this.limits.isWaiting(key),
      free: (key) => this.admit(key, this.limits.unpark(key)),
    });
  }

  start(): void {
    this.timer = this.options.clock.timer(SWEEP_MS, () => {
      this.sweeping = this.tick()
        .catch((error: unknown) => this.options.log.warn("queue.sweep_failed", { error: messageOf(error) }))
        .finally(() => {
          this.sweeping = null;
          if (this.timer) this.start();
        });
    });
  }

  async stop(): Promise<void> {
    this.timer?.cancel();
    this.timer = null;
    await this.sweeping;
    this.waiters.wakeAll();
  }

  /** Jobs that wait, and jobs that are out. */
  get depth(): { waiting: number; running: number; oldest_ms: number } {
    const first = [...this.held.values()].find((held) => held.worker === null);
    const oldest_ms = first ? Math.round(this.options.clock.monotonic_ms() - first.waiting_since_ms) : 0;
    return { waiting: this.held.size - this.running, running: this.running, oldest_ms };
  }

  /** Jobs that came and results that were taken, per second of the last minute. */
  get rates(): { arrived_per_s: number; done_per_s: number } {
    const now = this.options.clock.monotonic_ms();
    return { arrived_per_s: this.arrived.perSecond(now), done_per_s: this.done.perSecond(now) };
  }

  /** Jobs out on each worker process. */
  runningOn(worker: WorkerId): number {
    return this.loads.get(keyOf(worker)) ?? 0;
  }

  dispatch(jobs: readonly Job[], priority: number): void {
    const now = this.options.clock.monotonic_ms();
    this.arrived.mark(now, jobs.length);
    const tickets = jobs.map((job) => {
      const { tenant_id, run_id, step, attempt } = job;
      const ticket: Ticket = { tenant_id, run_id, step, attempt, priority, needs: needsOf(job) };
      const fresh = { worker: null, epoch: 0, token: "", until_ms: 0, stopped: false, parked: false, settling: null };
      this.held.set(ticketKey(ticket), { job, ticket, waiting_since_ms: now, ...fresh });
      return ticket;
    });
    this.push(tickets);
  }

  /** Tickets of one turn of the event loop (all runs of one commit) go out together. */
  private push(tickets: readonly Ticket[]): void {
    this.outgoing.push(...tickets);
    if (this.outgoing.length > tickets.length) return;
    this.options.clock.soon(() => this.send(this.outgoing.splice(0)));
  }

  /** Straight to workers that ask for jobs when nothing else waits; else through the queue, which knows whose turn it is. */
  private send(tickets: readonly Ticket[]): void {
    const alone = this.held.size - this.running <= tickets.length;
    const left = alone ? tickets.filter((ticket) => !this.handOver(ticket)) : tickets;
    if (left.length === 0) return;
    this.options.queue.push(left).then(
      () => this.waiters.wake(left.length),
      // The jobs are here; the sweep pushes their tickets again.
      (error: unknown) => this.options.log.warn("queue.push_failed", { error: messageOf(error) }),
    );
  }

  private handOver(ticket: Ticket): boolean {
    const waiter = this.waiters.for(ticket.needs);
    const job = waiter && this.claim(ticket, waiter.worker);
    if (!job) return false;
    waiter.jobs.push(job);
    waiter.wake();
    return true;
  }

  abort(run_id: string): void {
    for (const [key, held] of this.held) {
      if (held.ticket.run_id !== run_id) continue;
      held.stopped = true;
      if (held.worker) continue;
      this.held.delete(key);
      this.answer(held, { class: "cancelled", code: "cancelled", message: "The run was stopped." });
    }
  }

  /** Forgets jobs of runs that another engine has taken over: it dispatches what is open anew. */
  reset(isGone: (run_id: string) => boolean): void {
    this.limits.drop((held) => isGone(held.ticket.run_id));
    for (const [key, held] of this.held) {
      if (!isGone(held.ticket.run_id)) continue;
      this.held.delete(key);
      if (held.worker) this.vacate(held, held.worker);
    }
  }

  /** Jobs for a worker; waits for the first one. */
  async lease(wanted: {
    worker: WorkerId;
    labels: readonly string[];
    max: number;
    wait_ms: number;
    gone?: AbortSignal;
    /** True once the worker wants no more: it is answered at once, and gets nothing. */
    leaving?: () => boolean;
  }): Promise<LeasedJob[]> {
    const { worker, labels, max, wait_ms, gone, leaving } = wanted;
    const end = this.options.clock.monotonic_ms() + wait_ms;
    for (;;) {
      if (leaving?.()) return [];
      const jobs = await this.take(worker, labels, max);
      const left = end - this.options.clock.monotonic_ms();
      if (jobs.length === 0 && left > 0 && this.timer !== null && !gone?.aborted)
        jobs.push(...(await this.waitFor({ worker, labels, max, jobs: [], leaving }, Math.min(left, POLL_MS))));
      if (gone?.aborted) {
        this.giveBack(jobs);
        return [];
      }
      if (jobs.length > 0 || left <= 0 || this.timer === null) return jobs;
    }
  }

  /** Waits until there is something in the queue, or jobs are handed over, which are returned. */
  private async waitFor(waiter: Omit<Waiter, "wake">, limit_ms: number): Promise<readonly LeasedJob[]> {
    await new Promise<void>((resolve) => {
      const timer = this.options.clock.timer(limit_ms, resolve);
      const wake = () => {
        timer.cancel();
        // A turn later: more jobs of the same commit may be on their way to it.
        this.options.clock.soon(resolve);
      };
      this.waiters.add({ ...waiter, wake });
    });
    this.waiters.remove(waiter);
    return waiter.jobs;
  }

  /** Lets a worker that waits look up: it is leaving. */
  dismiss(worker: WorkerId): void {
    this.waiters.dismiss(worker);
  }

  private async take(worker: WorkerId, labels: readonly string[], max: number): Promise<LeasedJob[]> {
    if (this.held.size === this.running) return [];
    const deliveries = await this.options.queue.take(labels, max).catch((error: unknown) => {
      this.options.log.warn("queue.take_failed", { error: messageOf(error) });
      return null;
    });
    if (deliveries === null) return this.takeHere(worker, labels, max);
    if (deliveries.length === 0) return [];
    const jobs = deliveries.flatMap(({ ticket }) => this.claim(ticket, worker) ?? []);
    this.options.queue.confirm(deliveries).catch(() => undefined);
    return jobs;
  }

  /** Without the queue nobody knows whose turn it is, but the jobs are here: the one that waits longest goes first. */
  private takeHere(worker: WorkerId, labels: readonly string[], max: number): LeasedJob[] {
    const jobs: LeasedJob[] = [];
    for (const held of this.held.values()) {
      if (jobs.length >= max) break;
      if (held.worker || held.parked || !serves(labels, held.ticket.needs)) continue;
      const job = this.claim(held.ticket, worker);
      if (job) jobs.push(job);
    }
    return jobs;
  }

  /** Gives a waiting job to a worker. Null for a ticket that came twice, or whose job does not wait any more. */
  private claim(ticket: Ticket, worker: WorkerId): LeasedJob | null {
    const held = this.held.get(ticketKey(ticket));
    if (!held || held.worker || held.parked || held.ticket.tenant_id !== ticket.tenant_id) return null;
    if (this.options.owns?.(ticket.run_id) === false) return null;
    const epoch = this.options.epoch(ticket.run_id);
    const { full, woken } = this.limits.enterAll(limitsOf(held.job));
    if (full !== null) {
      // Its ticket is used up; it gets another one when a place is free.
      held.parked = true;
      this.limits.park(full, held, held.ticket.priority);
      for (const other of woken) this.unpark(other);
      return null;
    }
    const now = this.options.clock.monotonic_ms();
    held.worker = worker;
    held.epoch = epoch;
    held.token = this.token(held.ticket, worker, held.epoch);
    held.until_ms = now + LIMITS.worker_lease_ms;
    this.running += 1;
    this.loads.set(keyOf(worker), this.runningOn(worker) + 1);
    this.options.onLeased?.(now - held.waiting_since_ms);
    return { job: held.job, attempt_epoch: held.epoch, token: held.token };
  }

  /** Jobs whose answer could not be sent: nobody has seen them. */
  private giveBack(jobs: readonly LeasedJob[]): void {
    const tickets = jobs.flatMap(({ job, token }) => {
      const held = this.held.get(ticketKey(job));
      // After a take-over the same attempt may be out again, with another lease.
      if (held?.token !== token || !held.worker) return [];
      const { worker } = held;
      held.worker = null;
      held.token = "";
      this.vacate(held, worker);
      return [held.ticket];
    });
    if (tickets.length > 0) this.push(tickets);
  }

  /** What a result has to carry that comes from this process without a lease. */
  proof(result: JobResult, worker: WorkerId): string {
    return this.token(result, worker, 0);
  }

  private token(ticket: Omit<Ticket, "priority" | "needs">, worker: WorkerId, epoch: number): string {
    const { tenant_id, run_id, step, attempt } = ticket;
    return hmacHex(
      this.options.key(tenant_id),
      `lease\n${run_id}\n${step}\n${attempt}\n${epoch}\n${worker.name}\n${worker.instance}`,
    );
  }

  /**
   * Extends the leases of what runs; answers what should stop. What is not known here (this process started anew) goes on:
   * its result may settle a step in doubt.
   */
  heartbeat(worker: WorkerId, running: readonly LeaseRef[]): LeaseRef[] {
    const until_ms = this.options.clock.monotonic_ms() + LIMITS.worker_lease_ms;
    return running.filter((ref) => {
      const held = this.held.get(ticketKey(ref));
      if (!held) return false;
      if (!held.worker || !sameWorker(held.worker, worker) || held.epoch !== ref.attempt_epoch) return true;
      held.until_ms = until_ms;
      return held.stopped;
    });
  }

  /** True while this worker has the job: what it says of it counts. */
  isWith(worker: WorkerId, ref: Pick<Ticket, "run_id" | "step" | "attempt" | "tenant_id">): boolean {
    const held = this.held.get(ticketKey(ref));
    if (!held?.worker || held.ticket.tenant_id !== ref.tenant_id) return false;
    return sameWorker(held.worker, worker);
  }

  /** Takes results; a verdict for each, once they are committed. Throws when they cannot be committed now. */
  report(worker: WorkerId, results: readonly LeasedResult[]): Promise<Verdict[]> {
    return Promise.all(results.map((result) => this.settle(worker, result)));
  }

  /** Takes results, and hands the jobs that follow from them to the same worker, as far as it has room. */
  async exchange(wanted: {
    worker: WorkerId;
    labels: readonly string[];
    max: number;
    results: readonly LeasedResult[];
    gone?: AbortSignal;
  }): Promise<{ verdicts: Verdict[]; jobs: readonly LeasedJob[] }> {
    const { worker, labels, max } = wanted;
    const waiter: Waiter = { worker, labels, max, jobs: [], wake: () => undefined };
    if (max > 0) this.waiters.addFirst(waiter);
    try {
      const verdicts = await this.report(worker, wanted.results);
      // What the commit made ready was sent a turn ago.
      await new Promise<void>((resolve) => this.options.clock.soon(resolve));
      this.waiters.remove(waiter);
      if (!wanted.gone?.aborted) return { verdicts, jobs: waiter.jobs };
      this.giveBack(waiter.jobs);
      return { verdicts, jobs: [] };
    } catch (error) {
      this.waiters.remove(waiter);
      this.giveBack(waiter.jobs);
      throw error;
    }
  }

  private settle(worker: WorkerId, given: LeasedResult): Promise<Verdict> {
    const { attempt_epoch, token, ...result } = given;
    const key = ticketKey(result);
    const held = this.held.get(key);
    const right =
      held?.token && held.worker && sameWorker(held.worker, worker)
        ? held.token
        : this.token(result, worker, attempt_epoch);
    if (!sameText(token, right)) return Promise.resolve(this.refused("FOREIGN_RESULT", worker, result));
    if (held?.settling) return held.settling.then(() => this.refused("DUPLICATE_RESULT", worker, result));
    if (this.settled.has(key) || this.settledBefore.has(key))
      return Promise.resolve(this.refused("DUPLICATE_RESULT", worker, result));
    const settling = this.commit(key, worker, result);
    if (held) held.settling = settling;
    return settling;
  }

  private async commit(key: string, worker: WorkerId, result: JobResult): Promise<Verdict> {
    try {
      await this.options.deliver(result);
      this.release(key);
      this.remember(key);
      this.done.mark(this.options.clock.monotonic_ms());
      return { accepted: true };
    } catch (error) {
      if (isAppError(error, "STALE_RESULT")) {
        this.release(key);
        return this.refused("STALE_RESULT", worker, result);
      }
      const held = this.held.get(key);
      if (held) held.settling = null;
      throw error;
    }
  }

  private release(key: string): void {
    const held = this.held.get(key);
    if (!held) return;
    this.held.delete(key);
    if (held.worker) this.vacate(held, held.worker);
  }

  /** A job is not out any more: who waits for its places gets a ticket. */
  private vacate(held: Held, worker: WorkerId): void {
    this.running -= 1;
    const left = this.runningOn(worker) - 1;
    if (left > 0) this.loads.set(keyOf(worker), left);
    else this.loads.delete(keyOf(worker));
    for (const { key } of limitsOf(held.job)) this.admit(key, this.limits.leave(key));
  }

  /** Who waited longest for a place gets a ticket. One that was stopped is gone; the place is for the one after it. */
  private admit(key: string, first: Held | undefined): void {
    for (let next = first; next; next = this.limits.unpark(key)) if (this.unpark(next)) break;
  }

  /** False when the job does not wait any more. */
  private unpark(held: Held): boolean {
    if (this.held.get(ticketKey(held.ticket)) !== held) return false;
    held.parked = false;
    this.push([held.ticket]);
    return true;
  }

  private remember(key: string): void {
    this.settled.add(key);
    if (this.settled.size < SETTLED_KEPT) return;
    this.settledBefore = this.settled;
    this.settled = new Set();
  }

  private refused(code: NonNullable<Verdict["code"]>, worker: WorkerId, result: JobResult): Verdict {
    const { run_id, step, attempt } = result;
    this.options.log.warn("result.refused", { code, worker: worker.name, run_id, step, attempt });
    return { accepted: false, code };
  }

  /** Ends leases that ran out and pushes tickets that the queue has lost. */
  async tick(): Promise<void> {
    const now = this.options.clock.monotonic_ms();
    const waiting = new Map<string, number>();
    const old: Ticket[] = [];
    for (const [key, held] of this.held) {
      // Tickets of a former owner lead nowhere, and in the queue they hide that those of the owner are gone.
      if (this.options.owns?.(held.ticket.run_id) === false) continue;
      if (held.worker && held.until_ms <= now && !held.settling) this.lose(key, held);
      if (held.worker || held.parked) continue;
      waiting.set(laneOf(held.ticket), (waiting.get(laneOf(held.ticket)) ?? 0) + 1);
      if (now - held.waiting_since_ms > LOST_TICKET_MS) old.push(held.ticket);
    }
    if (old.length === 0) return;
    // Lane by lane: tickets that nobody can serve must not hide that others are gone.
    const there = new Map<string, number>();
    for (const lane of await this.options.queue.depth()) there.set(laneOf(lane), lane.waiting);
    const isShort = (lane: string) => (there.get(lane) ?? 0) < (waiting.get(lane) ?? 0);
    const lost = old.filter((ticket) => isShort(laneOf(ticket)) && this.held.get(ticketKey(ticket))?.worker === null);
    if (lost.length === 0) return;
    this.options.log.warn("queue.tickets_lost", { tickets: lost.length });
    this.push(lost);
  }

  private lose(key: string, held: Held): void {
    this.release(key);
    const { run_id, step, attempt } = held.ticket;
    this.options.log.warn("worker.lost_job", { worker: held.worker?.name, run_id, step, attempt });
    const message = "The worker was not heard of any more.";
    this.answer(held, { class: "unknown_outcome", code: WORKER_LOST, message });
  }

  /** Answers in a worker's place. */
  private answer(held: Held, failure: Extract<JobResult["outcome"], { ok: false }>["failure"]): void {
    const { tenant_id, run_id, step, attempt, kind } = held.job;
    this.options
      .deliver({ tenant_id, run_id, step, attempt, kind, duration_ms: 0, outcome: { ok: false, failure } })
      .catch((error: unknown) => {
        if (isAppError(error)) return;
        this.options.log.error("queue.answer_failed", { run_id, step, error: messageOf(error) });
      });
  }
}

function laneOf({ tenant_id, priority, needs }: Pick<Ticket, "tenant_id" | "priority" | "needs">): string {
  return `${needs.join(",")}|${priority}|${tenant_id}`;
}
