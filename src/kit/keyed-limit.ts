// Counts what is under way for each key and keeps what has to wait for a place: the more urgent first, then who came first.
import { assert } from "./assert.ts";
import { Line } from "./line.ts";

/** How many may be under way for a key. */
export interface KeyLimit {
  readonly key: string;
  readonly max: number;
}

/** Counts places. One that several limits share counts for all of them. */
export interface PlaceCounter {
  /** Takes a place; false when all are taken. */
  enter(key: string, max: number): boolean;
  leave(key: string): void;
  /** Tells of places that have become free otherwise than by `leave` of the one who waits. */
  watch(waiter: PlaceWaiter): void;
  /** Nobody waits here for the place that was left; somebody elsewhere may. */
  unused(key: string): void;
}

export interface PlaceWaiter {
  isWaiting(key: string): boolean;
  /** There is a place: who waits may try again. */
  free(key: string): void;
}

/** Places of this process alone. */
export class OwnPlaces implements PlaceCounter {
  private readonly busy = new Map<string, number>();

  enter(key: string, max: number): boolean {
    const count = this.busy.get(key) ?? 0;
    if (count >= max) return false;
    this.busy.set(key, count + 1);
    return true;
  }

  leave(key: string): void {
    const count = this.busy.get(key) ?? 0;
    assert(count > 0, "nobody leaves who has not entered", { key });
    if (count === 1) this.busy.delete(key);
    else this.busy.set(key, count - 1);
  }

  watch(): void {
    // Its only user is told by `leave`.
  }

  unused(): void {
    // There is nobody else.
  }
}

export class KeyedLimit<T> {
  private readonly places: PlaceCounter;
  private readonly waiting = new Map<string, Line<T>>();

  constructor(places: PlaceCounter = new OwnPlaces()) {
    this.places = places;
  }

  /** Takes a place; false when all are taken. */
  enter(key: string, max: number): boolean {
    return this.places.enter(key, max);
  }

  isWaiting(key: string): boolean {
    return this.waiting.has(key);
  }

  /**
   * Takes a place under each of these keys, or under none: `full` is then the first that has none. `woken` waited for places
   * that were taken for a moment and given back; they have to enter again.
   */
  enterAll(limits: readonly KeyLimit[]): { full: string | null; woken: T[] } {
    for (const [i, { key, max }] of limits.entries())
      if (!this.enter(key, max)) return { full: key, woken: this.leaveAll(limits.slice(0, i)) };
    return { full: null, woken: [] };
  }

  /** Gives places back. Returns whose turn it is for each; they have to enter again. */
  leaveAll(limits: readonly KeyLimit[]): T[] {
    return limits.flatMap(({ key }) => this.leave(key) ?? []);
  }

  park(key: string, item: T, priority: number): void {
    let line = this.waiting.get(key);
    if (!line) this.waiting.set(key, (line = new Line()));
    line.push(item, priority);
  }

  /** Gives a place back. Returns whose turn it is to have one; they have to enter again. */
  leave(key: string): T | undefined {
    this.places.leave(key);
    const next = this.unpark(key);
    if (next === undefined) this.places.unused(key);
    return next;
  }

  /** Whose turn it is; they have to enter again. */
  unpark(key: string): T | undefined {
    const line = this.waiting.get(key);
    const next = line?.shift();
    if (line?.size === 0) this.waiting.delete(key);
    return next;
  }

  /** Takes out who waits and need not any more. */
  drop(match: (item: T) => boolean): T[] {
    const dropped: T[] = [];
    for (const [key, line] of this.waiting) {
      dropped.push(...line.drop(match));
      if (line.size === 0) this.waiting.delete(key);
    }
    return dropped;
  }
}
