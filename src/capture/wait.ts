// Waiting for what becomes of a call: for as long as its client does.
import { isTerminal } from "../contract/events.ts";
import type { EventDraft, RunStateName } from "../contract/events.ts";
import type { Clock, Timer } from "../kit/clock.ts";
import { Stop } from "../kit/stop.ts";
import type { StopSignal } from "../kit/stop.ts";

/** Tells what is committed for a run, and when it is another node's, until the returned function is called. */
export type Subscribe = (
  run_id: string,
  listener: (drafts: readonly EventDraft[]) => void,
  moved: () => void,
) => () => void;

/** True for the event that ends a run. */
export function endsRun(type: string): boolean {
  return type.startsWith("run.") && isTerminal(type.slice("run.".length) as RunStateName);
}

/** How long somebody waits. */
export interface Patience {
  readonly wait_ms: number;
  readonly gone: StopSignal;
}

/** The outcome, or null when the time is over or the client has gone first. */
export function before<T>(outcome: Promise<T>, clock: Clock, { wait_ms, gone }: Patience): Promise<T | null> {
  return new Promise((resolve) => {
    const leave = () => resolve(null);
    const timer = clock.timer(gone.aborted ? 0 : wait_ms, leave);
    gone.addEventListener("abort", leave);
    void outcome.then((value) => {
      timer.cancel();
      gone.removeEventListener("abort", leave);
      resolve(value);
    });
  });
}

/** What ends a call that is under way: its client hangs up, its time is over, or it is cut. Has to be closed. */
export class Leash {
  private readonly stop = new Stop();
  private readonly timer: Timer;
  private readonly gone: StopSignal;
  private readonly hungUp = () => this.stop.abort(this.gone.reason);

  constructor(clock: Clock, given: { gone: StopSignal; timeout_ms: number }) {
    const { gone, timeout_ms } = given;
    const late = () => this.stop.abort(new DOMException("the time for an answer is over", "TimeoutError"));
    this.timer = clock.timer(timeout_ms, late);
    this.gone = gone;
    if (gone.aborted) this.hungUp();
    else gone.addEventListener("abort", this.hungUp);
  }

  get signal(): StopSignal {
    return this.stop;
  }

  cut(): void {
    this.stop.abort();
  }

  close(): void {
    this.timer.cancel();
    this.gone.removeEventListener("abort", this.hungUp);
  }
}

/** Events of a run from its making on; what comes before somebody waits for it is kept. Has to be closed. */
export class RunWatch {
  readonly close: () => void;
  private readonly seen: EventDraft[] = [];
  private wake: () => void = () => undefined;
  private moved = false;

  constructor(subscribe: Subscribe, run_id: string) {
    const take = (drafts: readonly EventDraft[]) => {
      this.seen.push(...drafts);
      this.wake();
    };
    this.close = subscribe(run_id, take, () => {
      this.moved = true;
      this.wake();
    });
  }

  /** The first event that fits, which has come or will; what came before it is dropped. Null when the run moves first. */
  next(fits: (draft: EventDraft) => boolean): Promise<EventDraft | null> {
    return new Promise((resolve) => {
      this.wake = () => {
        if (this.moved) return resolve(null);
        const at = this.seen.findIndex(fits);
        const found = this.seen[at];
        if (!found) return void this.seen.splice(0);
        this.seen.splice(0, at + 1);
        resolve(found);
      };
      this.wake();
    });
  }
}
