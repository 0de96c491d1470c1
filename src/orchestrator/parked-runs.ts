// Open runs that wait for long: all that is kept of one is its id, whose it is, and when it needs attention by itself. What
// else it is stands in the journal, and is read again when somebody or its time comes.
// Invariant: a run is parked or it has an actor, never both; it is unparked once, however many ask for it.
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import { nextDue } from "../core/advance.ts";
import type { RunState } from "../core/run-state.ts";
import type { Clock, Timer } from "../kit/clock.ts";
import type { Actor } from "./engine-options.ts";

export interface ParkedRunsOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** How long a run waits before it is parked. */
  readonly park_after_ms?: number;
  /** Runs that are at hand; those that are parked are taken out. */
  readonly actors: Map<string, Actor>;
  readonly load: (run_id: string) => Promise<Actor>;
  /** Whatever else was kept of a run that is parked. */
  readonly forget: (actor: Actor) => void;
  /** Takes the run over again, right when it is there. */
  readonly unparked: (actor: Actor) => void;
}

interface Parked {
  readonly tenant_id: string;
  /** 0: it waits for somebody. */
  due_us: number;
}

const WAITS: readonly (string | null)[] = ["approval", "timer", "input", "paused"];
const AGAIN_US = 1_000_000;

/** True when nothing of a run is needed before somebody, or its time, comes. What is in doubt is shown to people. */
export function canPark(run: RunState): boolean {
  if (run.state !== "waiting" || !WAITS.includes(run.reason) || run.stopping || run.more) return false;
  // Of captured runs callers ask all the time; replays and forks have a past that is not read twice for nothing.
  if (run.program === null || run.lineage !== null || run.abandoned.size > 0) return false;
  if (run.totals.reserved_micro > 0 || run.totals.reserved_tokens > 0) return false;
  for (const { status } of run.steps.values()) if (status === "running" || status === "in_doubt") return false;
  return true;
}

export class ParkedRuns {
  private readonly options: ParkedRunsOptions;
  private readonly parked = new Map<string, Parked>();
  private readonly loading = new Map<string, Promise<void>>();
  private timer: Timer | null = null;
  private timer_due_us = 0;
  /** Set while a run waits that may be parked soon. */
  private parking: Timer | null = null;
  private stopped = false;

  constructor(options: ParkedRunsOptions) {
    this.options = options;
  }

  get size(): number {
    return this.parked.size;
  }

  /** Whose run it is; undefined when it is not parked. */
  tenantOf(run_id: string): string | undefined {
    return this.parked.get(run_id)?.tenant_id;
  }

  add(run: RunState): void {
    const due_us = nextDue(run);
    this.parked.set(run.run_id, { tenant_id: run.tenant_id, due_us });
    this.arm(due_us);
  }

  /** Has a run at hand again, if it is parked. */
  async take(run_id: string): Promise<void> {
    let loading = this.loading.get(run_id);
    if (!loading && this.parked.has(run_id)) {
      loading = this.load(run_id).finally(() => this.loading.delete(run_id));
      this.loading.set(run_id, loading);
    }
    await loading;
  }

  private async load(run_id: string): Promise<void> {
    const actor = await this.options.load(run_id);
    this.parked.delete(run_id);
    this.options.unparked(actor);
    // Whoever asked for it may have changed nothing.
    this.soon();
  }

  stop(): void {
    this.stopped = true;
    this.timer?.cancel();
    this.parking?.cancel();
  }

  /** A run waits: after a while it is parked, with all that have waited as long. */
  soon(): void {
    if (this.parking || this.stopped) return;
    const { clock, park_after_ms = LIMITS.park_after_ms } = this.options;
    this.parking = clock.timer(park_after_ms, () => {
      this.parking = null;
      if (this.park(clock.now_us() - park_after_ms * 1000)) this.soon();
    });
  }

  /** Parks what has not changed since; true when there is more that will be parked soon. */
  private park(since_us: number): boolean {
    const { actors, forget } = this.options;
    let later = false;
    for (const [run_id, actor] of actors) {
      if (actor.inFlight || actor.queue.length > 0 || !canPark(actor.run)) continue;
      if (actor.run.updated_us > since_us) later = true;
      else {
        actor.timer?.cancel();
        actors.delete(run_id);
        forget(actor);
        this.add(actor.run);
      }
    }
    return later;
  }

  /** One timer for all: the earliest. */
  private arm(due_us: number): void {
    if (due_us === 0 || this.stopped || (this.timer && this.timer_due_us <= due_us)) return;
    this.timer?.cancel();
    this.timer_due_us = due_us;
    const delay_ms = Math.max(0, (due_us - this.options.clock.now_us()) / 1000);
    this.timer = this.options.clock.timer(Math.ceil(delay_ms), () => this.look());
  }

  private look(): void {
    this.timer = null;
    const now_us = this.options.clock.now_us();
    let next = 0;
    for (const [run_id, parked] of this.parked) {
      if (parked.due_us === 0) continue;
      if (parked.due_us <= now_us) {
        this.wake(run_id);
        // Until it is there: if it cannot be read now, it is tried again.
        parked.due_us = now_us + AGAIN_US;
      }
      if (next === 0 || parked.due_us < next) next = parked.due_us;
    }
    this.arm(next);
  }

  private wake(run_id: string): void {
    this.take(run_id).catch((error: unknown) =>
      this.options.log.warn("run.not_unparked", { run_id, error: messageOf(error) }),
    );
  }
}
