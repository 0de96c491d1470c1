// What a decision may look at besides the run: time, one random number, the registry, the policy, shared budgets.
// All are arguments, so a decision repeats exactly in a replay, a simulation or a back-test.
import type { Catalog } from "../contract/catalog.ts";
import { isTerminal } from "../contract/events.ts";
import type { EventDraft, TerminalState } from "../contract/events.ts";
import { fold } from "./fold.ts";
import type { SliceNeed } from "../contract/slices.ts";
import type { Bound } from "./budget.ts";
import type { Policy } from "./policy.ts";
import type { RunState } from "./run-state.ts";

/** A shared budget that a call would pass. */
export interface SharedRefusal {
  readonly budget: string;
  readonly action: "stop" | "deny" | "warn";
}

/** A call does not fit into what its group was granted of a budget: it can be decided when more was asked for. */
export class SliceShort extends Error {
  override readonly name = "SliceShort";
  readonly need: SliceNeed;

  constructor(need: SliceNeed) {
    super(`the group needs more of budget ${need.budget}`);
    this.need = need;
  }
}

/** The shared budgets as the owner of the run sees them at this instant. */
export interface LedgerView {
  /** Throws SliceShort: nothing can be decided yet, neither that the call is allowed nor that it is refused. */
  check(run: RunState, bound: Bound, now_us: number): SharedRefusal | null;
  /** Takes over what an event changed in the run's totals; returns budgets whose threshold was just passed. */
  moved(run: RunState, before: LedgerMark, now_us: number): readonly { budget: string; threshold: number }[];
}

export interface LedgerMark {
  readonly spent_micro: number;
  readonly reserved_micro: number;
  readonly spent_tokens: number;
  readonly reserved_tokens: number;
}

export interface DecideContext {
  readonly now_us: number;
  /** Uniform in [0, 1), for jitter. */
  random(): number;
  readonly catalog: Catalog;
  /** Null when the policy store is out: every call is denied then. */
  readonly policy: Policy | null;
  readonly ledger: LedgerView;
  /** How long after its end a captured run takes what comes late; LIMITS.seal_after_ms unless said. */
  readonly seal_after_ms?: number | undefined;
}

/** Collects the events of one decision; each is folded at once, so the next thought sees it. */
export class Decision {
  readonly events: EventDraft[] = [];
  /** Outcomes taken over from a recording. */
  reused = 0;
  readonly run: RunState;
  readonly ctx: DecideContext;

  constructor(run: RunState, ctx: DecideContext) {
    this.run = run;
    this.ctx = ctx;
  }

  push(event: EventDraft): void {
    const { totals } = this.run;
    const before = {
      spent_micro: totals.spent_micro,
      reserved_micro: totals.reserved_micro,
      spent_tokens: totals.spent_tokens,
      reserved_tokens: totals.reserved_tokens,
    };
    fold(this.run, event, this.ctx.now_us, this.ctx.catalog);
    this.events.push(event);
    const changed =
      before.spent_micro !== totals.spent_micro ||
      before.reserved_micro !== totals.reserved_micro ||
      before.spent_tokens !== totals.spent_tokens ||
      before.reserved_tokens !== totals.reserved_tokens;
    if (!changed) return;
    for (const warning of this.ctx.ledger.moved(this.run, before, this.ctx.now_us)) {
      const warned: EventDraft = {
        type: "budget.warned",
        data: { budget: warning.budget, threshold: warning.threshold },
      };
      // A warning changes no state, so it may stand before the event that caused it; after a run's end nothing may stand.
      if (isTerminal(this.run.state)) this.events.splice(-1, 0, warned);
      else this.events.push(warned);
      this.run.seq += 1;
    }
  }

  /** Ends the run, or tells it to stop and lets calls in flight settle first. */
  stop(to: TerminalState, code: string, message: string, grace_us: number): void {
    if (this.run.stopping) return;
    const inFlight = hasRunning(this.run);
    if (!inFlight) return this.terminal(to, code, message);
    this.push({ type: "run.stopping", data: { code, message, to, until: this.ctx.now_us + grace_us } });
  }

  terminal(to: TerminalState, code: string, message: string): void {
    this.push({ type: `run.${to}`, data: code === "" ? {} : { code, message } });
  }
}

/** True while an attempt is out whose outcome is not known. */
export function hasRunning(run: RunState): boolean {
  for (const step of run.steps.values()) if (step.status === "running") return true;
  return false;
}
