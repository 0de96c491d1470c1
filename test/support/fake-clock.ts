// A clock that a test moves by hand.
import type { Clock } from "../../src/kit/clock.ts";

export class FakeClock implements Clock {
  private now = 1_700_000_000_000;
  private readonly timers = new Set<{ at: number; fn: () => void }>();

  now_us(): number {
    return this.now * 1_000;
  }

  monotonic_ms(): number {
    return this.now;
  }

  timer(delay_ms: number, fn: () => void): { cancel(): void } {
    const timer = { at: this.now + delay_ms, fn };
    this.timers.add(timer);
    return { cancel: () => void this.timers.delete(timer) };
  }

  sleep(delay_ms: number): Promise<void> {
    return new Promise((resolve) => this.timer(delay_ms, resolve));
  }

  soon(fn: () => void): void {
    setImmediate(fn);
  }

  /** Moves time on, firing what falls due in its order. */
  async pass(ms: number): Promise<void> {
    const end = this.now + ms;
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      const due = [...this.timers].filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.timers.delete(due);
      this.now = Math.max(this.now, due.at);
      due.fn();
    }
    this.now = end;
    await new Promise((resolve) => setImmediate(resolve));
  }
}
