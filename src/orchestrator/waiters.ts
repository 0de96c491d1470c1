// Workers that ask for jobs just now, in the order in which they get them.
import { serves } from "../contract/queue.ts";
import type { LeasedJob } from "../contract/workers.ts";

/** Who leases: the credential and its process. */
export interface WorkerId {
  readonly name: string;
  readonly instance: string;
}

export interface Waiter {
  readonly worker: WorkerId;
  readonly labels: readonly string[];
  readonly max: number;
  readonly jobs: LeasedJob[];
  readonly leaving?: (() => boolean) | undefined;
  /** Called when it has jobs, or when it should look into the queue. */
  wake: () => void;
}

/** A worker has much more than another one when it has more than this many times as many jobs, and some. */
const LOAD_RATIO = 1.25;
const LOAD_SLACK = 2;

export function keyOf({ name, instance }: WorkerId): string {
  return `${name}/${instance}`;
}

export function sameWorker(a: WorkerId, b: WorkerId): boolean {
  return a.name === b.name && a.instance === b.instance;
}

export class Waiters {
  private row: Waiter[] = [];
  private readonly loadOf: (worker: WorkerId) => number;

  /** `loadOf`: how many jobs a worker has. */
  constructor(loadOf: (worker: WorkerId) => number) {
    this.loadOf = loadOf;
  }

  add(waiter: Waiter): void {
    this.row.push(waiter);
  }

  /** Its jobs cost no answer of their own. */
  addFirst(waiter: Waiter): void {
    this.row.unshift(waiter);
  }

  remove(waiter: Pick<Waiter, "jobs">): void {
    this.row = this.row.filter((other) => other.jobs !== waiter.jobs);
  }

  /**
   * Who gets a job that needs these labels: the first in the row; where it has much more than the one that has least, that one.
   * Workers that have the same share work at the same time, and not in turns.
   */
  for(needs: readonly string[]): Waiter | undefined {
    let first: Waiter | undefined;
    let least: Waiter | undefined;
    for (const waiter of this.row) {
      const { labels, jobs, max, leaving, worker } = waiter;
      if (jobs.length >= max || leaving?.() === true || !serves(labels, needs)) continue;
      first ??= waiter;
      if (!least || this.loadOf(worker) < this.loadOf(least.worker)) least = waiter;
    }
    if (!first || !least) return undefined;
    return this.loadOf(first.worker) > LOAD_SLACK + LOAD_RATIO * this.loadOf(least.worker) ? least : first;
  }

  wake(count: number): void {
    for (const waiter of this.row.slice(0, Math.max(1, count))) waiter.wake();
  }

  wakeAll(): void {
    for (const waiter of this.row.splice(0)) waiter.wake();
  }

  /** Lets a worker that waits look up: it is leaving. */
  dismiss(worker: WorkerId): void {
    for (const waiter of this.row.filter((other) => sameWorker(other.worker, worker))) waiter.wake();
  }
}
