// Long work in one thread, in pieces: between them the event loop has its turn, so that whoever waits for something small (a
// commit, an answer) does not wait for all of it. Invariant: pieces begin in the order in which they were asked for.
import type { Clock } from "./clock.ts";

/** As many pieces, at most, are begun between two turns of the event loop, however small they are. */
const PIECES_MAX = 32;

export class Turn {
  private readonly clock: Pick<Clock, "monotonic_ms" | "soon">;
  private readonly limit_ms: number;
  /** When the first piece of the current turn of the event loop began. */
  private begun_ms: number | null = null;
  private readonly waiting: (() => void)[] = [];
  private waking = false;

  /** `limit_ms`: how long pieces may take together before the event loop has its turn. */
  constructor(clock: Pick<Clock, "monotonic_ms" | "soon">, limit_ms: number) {
    this.clock = clock;
    this.limit_ms = limit_ms;
  }

  /** Resolves when the next piece may begin: at once where it is the first of its turn, else when those before it have begun. */
  next(): Promise<void> {
    if (this.waiting.length === 0 && this.begun_ms === null && this.isYoung()) return Promise.resolve();
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.wake();
    });
  }

  /** What to wait for between two pieces of the same work; null while it may go on. */
  pause(): Promise<void> | null {
    return this.waiting.length > 0 || !this.isYoung() ? this.next() : null;
  }

  /** Does work that stops by itself between its pieces, however long it is. */
  async pieces<T>(work: Iterator<void, T>): Promise<T> {
    for (;;) {
      const { done, value } = work.next();
      if (done === true) return value;
      const pause = this.pause();
      if (pause) await pause;
    }
  }

  /** The first piece of a turn always has the time. */
  private isYoung(): boolean {
    const now = this.clock.monotonic_ms();
    if (this.begun_ms !== null) return now - this.begun_ms < this.limit_ms;
    this.begun_ms = now;
    this.clock.soon(() => (this.begun_ms = null));
    return true;
  }

  /** One by one: what a piece does right away is done before the next one is thought of. */
  private wake(): void {
    if (this.waking) return;
    this.waking = true;
    const count = Math.min(this.waiting.length, PIECES_MAX);
    for (let i = 1; i <= count; i++) this.clock.soon(() => this.begin(i === count));
  }

  private begin(isLast: boolean): void {
    if (this.waiting.length > 0 && this.isYoung()) this.waiting.shift()?.();
    if (!isLast) return;
    this.waking = false;
    if (this.waiting.length > 0) this.wake();
  }
}

/** The same work in one go, where nobody waits for anything else. */
export function atOnce<T>(work: Iterator<void, T>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done === true) return value;
  }
}
