// A replay or fork as a session: its state, its reason and what each step's outcome was, read from its journal.
import type { Json } from "../kit/json.ts";
import type { StoredEvent } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import type { RunSummary } from "../contract/journal.ts";
import type { Determinism, Lineage, Mismatch, ReplaySession, SessionState } from "../contract/replay.ts";

type Data = Record<string, Json | undefined>;
type Counts = ReplaySession["steps"];

const OUTCOME = /^(tool|model)\.(completed|failed)$/;

/** Outcomes by where they came from. In an exact replay all are the source's. */
function countsOf(events: readonly StoredEvent[], lineage: Lineage): Counts {
  const counts: { -readonly [K in keyof Counts]: number } = { exact: 0, cached: 0, simulated: 0, live: 0 };
  for (const event of events) {
    if (!OUTCOME.test(event.type)) continue;
    const label = event.data["determinism"] as unknown as Determinism | undefined;
    counts[lineage.mode === "exact" ? "exact" : (label?.mode ?? "live")] += 1;
  }
  return counts;
}

function stateOf(summary: RunSummary, failed: boolean, counts: Counts): SessionState {
  if (failed) return "failed_execution";
  if (summary.state === "queued") return "pending";
  if (!isTerminal(summary.state)) return "running";
  const used = (["exact", "cached", "simulated", "live"] as const).filter((mode) => counts[mode] > 0);
  if (used.length === 0) return "completed_exact";
  if (used.length > 1)
    return used.includes("live") || used.includes("simulated") ? "completed_mixed" : "completed_cached";
  const [only] = used;
  return only === "live" || only === undefined ? "completed_mixed" : `completed_${only}`;
}

function mismatchOf(event: StoredEvent): Mismatch {
  const data: Data = event.data;
  const seq = typeof data["seq"] === "number" ? data["seq"] : Number(data["source_seq"] ?? 0);
  return {
    step: Number(data["step"] ?? 0),
    seq,
    paths: (data["paths"] ?? []) as string[],
    ...(data["recorded"] === undefined ? {} : { recorded: data["recorded"] }),
    ...(data["produced"] === undefined ? {} : { produced: data["produced"] }),
  };
}

/** An exact replay repeats its source, with the mismatch that ended the source if it was a replay or fork itself. */
function isOwnMismatch(event: StoredEvent, lineage: Lineage, started: StoredEvent | undefined): boolean {
  if (event.type !== "replay.mismatched") return false;
  const target = started?.data["target"] as Data | undefined;
  const repeats = lineage.mode === "exact" && target?.["kind"] !== "captured";
  return !repeats || event.data["reason"] === "decision_mismatch";
}

export function sessionOf(
  replay_id: string,
  lineage: Lineage,
  summary: RunSummary,
  events: readonly StoredEvent[],
): ReplaySession {
  const found = events.find((event) => isOwnMismatch(event, lineage, events[0]));
  const end: Data =
    events.findLast((event) => isTerminal(summary.state) && event.type === `run.${summary.state}`)?.data ?? {};
  const counts = countsOf(events, lineage);
  return {
    replay_id,
    source_run_id: lineage.source_run_id,
    mode: lineage.mode,
    state: stateOf(summary, found !== undefined, counts),
    reason: found ? String(found.data["reason"]) : null,
    message: found ? String(end["message"] ?? "") : null,
    fork_step: lineage.mode === "exact" ? null : lineage.step,
    failed_step: found ? Number(found.data["step"] ?? 0) : null,
    run_state: summary.state,
    steps: counts,
    events: events.at(-1)?.seq ?? 0,
    mismatch: found ? mismatchOf(found) : null,
  };
}
