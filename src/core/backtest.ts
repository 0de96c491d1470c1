// A draft policy over decisions that were recorded: which would have been others. Certain up to a run's first flip; after it the
// run would have gone another way, so what follows is conjecture and says so.
import type { StoredEvent } from "../contract/events.ts";
import { decidedCall } from "./decided-call.ts";
import { fold } from "./fold.ts";
import type { Governed } from "./governance.ts";
import type { Effect, Policy } from "./policy.ts";
import type { RunState } from "./run-state.ts";

export interface Flip {
  readonly step: number;
  readonly seq: number;
  readonly name: string;
  readonly was: Effect;
  readonly now: Effect;
  readonly reason: string;
  readonly rules: readonly string[];
  readonly certain: boolean;
}

export interface Backtest {
  readonly decisions: number;
  readonly approvals_before: number;
  readonly approvals_after: number;
  /** Paid for calls that the draft would not have allowed. */
  readonly cost_denied_micro_usd: number;
  readonly flips: readonly Flip[];
}

/** Reasons that no policy gives: the call was not up to it. */
const NOT_POLICY = new Set([
  "unknown_tool",
  "not_in_allowlist",
  "invalid_arguments",
  "budget_exceeded",
  "no_price",
  "policy_unavailable",
  "approval_void",
  "too_many_steps",
]);

/** Evaluates a draft over one run. `run` is its state before its first event; it is folded. */
export function backtestRun(
  run: RunState,
  events: readonly StoredEvent[],
  draft: Policy,
  governed: (event: StoredEvent) => Governed,
): Backtest {
  const flips: Flip[] = [];
  const seen = new Set<number>();
  const denied = new Set<number>();
  let [decisions, before, after, cost] = [0, 0, 0, 0];
  for (const event of events) {
    const { catalog } = governed(event);
    const reason = String(event.data["reason"] ?? "");
    const step = event.step ?? 0;
    if (event.type === "policy.decided" && !seen.has(step) && !NOT_POLICY.has(reason)) {
      // A second decision on the same step (a retry, a grant) follows from the first.
      seen.add(step);
      decisions += 1;
      const was = event.data["decision"] as Effect;
      const call = decidedCall(run, events, event, catalog);
      const verdict = draft.decide(call);
      const now = verdict.effect;
      if (was === "require_approval") before += 1;
      if (now === "require_approval") after += 1;
      if (now === "deny") denied.add(step);
      if (now !== was) {
        const certain = flips.length === 0;
        flips.push({
          step,
          seq: event.seq,
          name: call.name,
          was,
          now,
          reason: verdict.reason,
          rules: verdict.rules,
          certain,
        });
      }
    }
    const paid = event.data["cost_micro_usd"];
    if (typeof paid === "number" && denied.has(step)) cost += paid;
    fold(run, event, event.at, catalog);
  }
  return { decisions, approvals_before: before, approvals_after: after, cost_denied_micro_usd: cost, flips };
}
