// Exact replay: takes the decisions of a recorded run again. What came from outside (outcomes, what people did, time) is fed
// from the journal in the order in which it was committed; what the run decided is decided anew, by the same code, under the
// registry and policy of that time, and compared with what was recorded. There is no executor here: nothing can be called.
import type { EventDraft, StoredEvent } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import type { JobFailure, JobOutcome, JobResult, ToolCall, Usage } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Mismatch } from "../contract/replay.ts";
import { isAppError, messageOf } from "../contract/errors.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { atOnce } from "../kit/turn.ts";
import type { Command, Resolution } from "./decide.ts";
import { decide } from "./decide.ts";
import type { LedgerView, SharedRefusal } from "./decide-context.ts";
import { fold } from "./fold.ts";
import type { Governed } from "./governance.ts";
import { differingPaths } from "./past-calls.ts";
import type { RunState } from "./run-state.ts";
import type { Seal } from "./seal.ts";

export interface Redecision {
  /** What was decided: equal to what was recorded, up to the first mismatch. */
  readonly drafts: readonly EventDraft[];
  readonly mismatch: (Mismatch & { message: string }) | null;
}

export interface Recording {
  /** Events of the run, append by append. */
  readonly appends: readonly (readonly StoredEvent[])[];
  /** The state before the first event. */
  readonly begin: () => RunState;
  /** What may have governed the run at an event, the likeliest first. */
  readonly governed: (event: StoredEvent) => readonly Governed[];
}

/** Takes all decisions of a run again. */
export function redecide(recording: Recording): Redecision {
  return atOnce(redeciding(recording));
}

/** The same, append by append. */
export function* redeciding(recording: Recording): Iterator<void, Redecision> {
  const { appends, begin, governed } = recording;
  const recorded = withPolicies(appends.flat());
  const drafts: EventDraft[] = [];
  let run = begin();
  for (const [index, append] of appends.entries()) {
    yield;
    const [first] = append;
    if (!first) continue;
    let failed: Redecision["mismatch"] = null;
    let done = false;
    for (const candidate of governed(first)) {
      if (failed) run = foldUpTo(recording, index);
      const result = redecideAppend(run, append, recorded, candidate);
      if (!("message" in result)) {
        drafts.push(...result.drafts);
        done = true;
        break;
      }
      failed ??= result;
    }
    if (!done) return { drafts, mismatch: failed ?? nothing(first) };
  }
  return { drafts, mismatch: null };
}

/** The policy's digest is stored where it changes; here each decision says which policy it was of. */
function withPolicies(events: readonly StoredEvent[]): StoredEvent[] {
  let policy: Json = "";
  return events.map((event) => {
    if (event.type !== "policy.decided") return event;
    policy = event.data["policy"] ?? policy;
    return { ...event, data: { ...event.data, policy } };
  });
}

function named(draft: EventDraft, { policy }: Governed): EventDraft {
  if (draft.type !== "policy.decided") return draft;
  return { ...draft, data: { ...draft.data, policy: policy?.digest ?? "" } };
}

function nothing(event: StoredEvent): Mismatch & { message: string } {
  return { step: event.step ?? 0, seq: event.seq, paths: [""], message: "nothing governed the run then" };
}

function foldUpTo({ appends, begin, governed }: Recording, index: number): RunState {
  const run = begin();
  for (const event of appends.slice(0, index).flat()) {
    const [then] = governed(event);
    if (then) fold(run, event, event.at, then.catalog);
  }
  return run;
}

function redecideAppend(
  run: RunState,
  append: readonly StoredEvent[],
  recorded: readonly StoredEvent[],
  governed: Governed,
): { drafts: EventDraft[] } | (Mismatch & { message: string }) {
  const drafts: EventDraft[] = [];
  while (drafts.length < append.length) {
    const next = append[drafts.length] as StoredEvent;
    const { command, random } = commandOf(run, append, drafts.length);
    let produced: EventDraft[];
    try {
      const ledger = new RecordedLedger(recorded);
      produced = decide(run, command, { ...governed, ledger, now_us: next.at, random: () => random });
    } catch (error) {
      if (!isAppError(error)) throw error;
      return { step: next.step ?? 0, seq: next.seq, paths: [""], message: messageOf(error), recorded: bare(next) };
    }
    for (const [i, draft] of produced.entries()) {
      const event = recorded[(append[drafts.length + i]?.seq ?? 0) - 1];
      const wrong = difference(event, named(draft, governed), next);
      if (wrong) return wrong;
    }
    if (produced.length === 0) {
      const message = `${next.type} was recorded, and nothing would be decided now`;
      return { step: next.step ?? 0, seq: next.seq, paths: ["/type"], message, recorded: bare(next) };
    }
    drafts.push(...produced);
  }
  return { drafts };
}

/** An event without its place: what a decision says. */
function bare(event: EventDraft): JsonObject {
  const { type, step, attempt, call, cause, actor, data } = event;
  return {
    ...(actor ? { actor: { ...actor } } : {}),
    ...((attempt ?? 1) > 1 ? { attempt: attempt ?? 1 } : {}),
    ...(call === undefined ? {} : { call }),
    ...(cause === undefined ? {} : { cause }),
    data,
    ...(step === undefined ? {} : { step }),
    type,
  };
}

function difference(
  event: StoredEvent | undefined,
  draft: EventDraft,
  near: StoredEvent,
): (Mismatch & { message: string }) | null {
  const at = { step: draft.step ?? near.step ?? 0, seq: (event ?? near).seq };
  const produced = bare(draft);
  if (!event) {
    const message = `${draft.type} would be decided now, and was not recorded there`;
    return { ...at, paths: ["/type"], message, produced };
  }
  const recorded = bare(event);
  const paths = differingPaths(recorded, produced);
  if (paths.length === 0) return null;
  const message =
    event.type === draft.type
      ? `${event.type} was decided otherwise: ${paths.join(", ")}`
      : `${event.type} was recorded, ${draft.type} would be decided now`;
  return { ...at, paths, message, recorded, produced };
}

type Data = Record<string, Json | undefined>;
const text = (data: Data, key: string): string => (typeof data[key] === "string" ? data[key] : "");
const num = (data: Data, key: string): number => (typeof data[key] === "number" ? data[key] : 0);
const SYSTEM = { id: "quarterdeck", kind: "system" } as const;

/** What made the run decide at this place: the first event of a decision tells. `random` is what a retry drew then. */
function commandOf(run: RunState, append: readonly StoredEvent[], index: number): { command: Command; random: number } {
  const event = append[index] as StoredEvent;
  const data: Data = event.data;
  const actor = event.actor ?? SYSTEM;
  const plain = (command: Command) => ({ command, random: 0 });
  switch (event.type) {
    case "run.started":
      return plain({ type: "start", data: event.data, ...(event.actor ? { actor: event.actor } : {}) });
    case "model.completed":
    case "tool.completed":
      return plain({ type: "result", result: resultOf(run, event, completedOutcome(event)) });
    case "model.failed":
    case "tool.failed":
    case "step.in_doubt":
      return failureOf(run, append, index);
    case "journal.late":
      return plain({ type: "result", result: resultOf(run, event, lateOutcome(data)) });
    case "human.input":
      if (data["determinism"] !== undefined) return plain({ type: "tick" });
      return plain({ type: "input", content: data["content"] ?? null, final: endsWith(append, index), actor });
    case "human.approval_resolved":
      return plain(approvalOf(data, actor));
    case "step.resolved":
      return plain({ type: "resolve", step: event.step ?? 0, resolution: resolutionOf(append, index), actor });
    case "run.sealed":
      return plain({ type: "seal", seal: event.data as unknown as Seal });
    case "privacy.overridden":
      return plain({ type: "override", reason: text(data, "reason"), actor });
    case "journal.amended":
      return plain({
        type: "amend",
        note: text(data, "note"),
        about: data["about"] === undefined ? null : num(data, "about"),
        actor,
      });
    case "run.waiting":
      return plain(data["reason"] === "paused" ? { type: "pause", actor } : { type: "tick" });
    case "run.running":
      return plain(event.actor ? { type: "resume", actor } : { type: "tick" });
    case "run.stopping":
    case "run.cancelled":
      if (data["code"] !== "cancelled_by_user") return plain({ type: "tick" });
      return plain({ type: "cancel", reason: text(data, "message"), actor });
    case "run.failed": {
      const code = text(data, "code");
      const aborted = code === "unrecordable" || code === "internal_error";
      return plain(aborted ? { type: "abort", code, message: text(data, "message") } : { type: "tick" });
    }
    default:
      return plain({ type: "tick" });
  }
}

function endsWith(append: readonly StoredEvent[], index: number): boolean {
  const next = append[index + 1];
  return next?.type === "run.succeeded";
}

function approvalOf(data: Data, actor: NonNullable<EventDraft["actor"]>): Command {
  const decision = text(data, "decision");
  if (decision !== "approved" && decision !== "rejected") return { type: "tick" };
  return { type: "approve", number: num(data, "number"), decision, note: text(data, "note"), actor };
}

function resolutionOf(append: readonly StoredEvent[], index: number): Resolution {
  const data: Data = append[index]?.data ?? {};
  const note = text(data, "note");
  if (data["resolution"] === "completed") return { outcome: "completed", result: data["result"] ?? null, note };
  if (data["resolution"] === "retry") return { outcome: "retry", note };
  const ended: Data = append[index + 1]?.data ?? {};
  return { outcome: "failed", message: text(ended, "message"), note };
}

function resultOf(run: RunState, event: StoredEvent, outcome: JobOutcome): JobResult {
  const step = run.steps.get(event.step ?? 0);
  const late = event.type === "journal.late" ? num(event.data, "attempt") : 0;
  return {
    tenant_id: run.tenant_id,
    run_id: run.run_id,
    step: event.step ?? 0,
    attempt: late || (step?.attempt ?? event.attempt ?? 1),
    kind: event.type.startsWith("model") || step?.kind === "model" ? "model" : "tool",
    duration_ms: num(event.data, "duration_ms"),
    outcome,
  };
}

function completedOutcome(event: StoredEvent): JobOutcome {
  const data: Data = event.data;
  if (event.type === "tool.completed") {
    return {
      ok: true,
      kind: "tool",
      result: data["result"] ?? null,
      ...(data["result_ref"] === undefined ? {} : { result_ref: data["result_ref"] as never }),
      ...(data["is_error"] === true ? { is_error: true } : {}),
    };
  }
  return {
    ok: true,
    kind: "model",
    content: (data["content"] ?? null) as string | null,
    ...(data["content_ref"] === undefined ? {} : { content_ref: data["content_ref"] as never }),
    tool_calls: (data["tool_calls"] ?? []) as unknown as ToolCall[],
    finish_reason: text(data, "finish_reason"),
    usage: (data["usage"] ?? { input_tokens: 0, output_tokens: 0 }) as unknown as Usage,
    response_model: text(data, "model"),
    ...(data["cut_off"] === true ? { cut_off: true } : {}),
  };
}

function lateOutcome(data: Data): JobOutcome {
  if (data["ok"] === true) return { ok: true, kind: "tool", result: null };
  return { ok: false, failure: { class: "permanent", code: "", message: "" } };
}

/** A failed attempt: reported by whoever made it, or found after a crash, or given up at the end. */
function failureOf(run: RunState, append: readonly StoredEvent[], index: number): { command: Command; random: number } {
  const event = append[index] as StoredEvent;
  const data: Data = event.data;
  const code = text(data, "code");
  if (code === "outcome_lost" || data["reason"] === "outcome_lost") return { command: { type: "recover" }, random: 0 };
  if (code === "abandoned") {
    const due = run.stopping !== null && run.stopping.until_us <= event.at;
    return { command: { type: due ? "tick" : "recover" }, random: 0 };
  }
  const failure: JobFailure = {
    class: event.type === "step.in_doubt" ? "unknown_outcome" : (text(data, "class") as JobFailure["class"]),
    code,
    message: text(data, "message"),
  };
  const next = append[index + 1];
  const attempt = run.steps.get(event.step ?? 0)?.attempt ?? 1;
  const drawn = next?.type === "step.retry_scheduled" ? retryDraw(num(next.data, "due") - event.at, attempt) : null;
  const usage = data["usage"] as unknown as Usage | undefined;
  const outcome: JobOutcome = {
    ok: false,
    failure: drawn?.asked_ms ? { ...failure, retry_after_ms: drawn.asked_ms } : failure,
    ...(usage ? { usage } : {}),
  };
  return { command: { type: "result", result: resultOf(run, event, outcome) }, random: drawn?.random ?? 0 };
}

/** The random number that gave this delay (kit/backoff.ts), or what the other side asked for when it is longer. */
function retryDraw(delay_us: number, retry: number): { random: number; asked_ms: number } {
  const delay_ms = delay_us / 1000;
  const ceiling = Math.min(LIMITS.retry_cap_ms, LIMITS.retry_base_ms * 2 ** (retry - 1));
  if (delay_ms > ceiling) return { random: 0, asked_ms: delay_ms };
  return { random: Math.max(0, delay_ms - 0.5) / ceiling, asked_ms: 0 };
}

/** What shared budgets said then: how they stood depends on other runs, so it is taken from the recording. */
class RecordedLedger implements LedgerView {
  private readonly recorded: readonly StoredEvent[];

  constructor(recorded: readonly StoredEvent[]) {
    this.recorded = recorded;
  }

  check(run: RunState): SharedRefusal | null {
    for (let i = run.seq; i < run.seq + 4; i++) {
      const event = this.recorded[i];
      if (!event) return null;
      const data: Data = event.data;
      if (event.type === "budget.exceeded") return this.refusal(text(data, "budget"), this.recorded[i + 1]);
      const onTheWay =
        event.type === "tool.proposed" ||
        event.type === "tool.denied" ||
        (event.type === "policy.decided" && data["reason"] === "budget_exceeded");
      if (!onTheWay) return null;
    }
    return null;
  }

  private refusal(budget: string, next: StoredEvent | undefined): SharedRefusal | null {
    if (budget.startsWith("run.")) return null;
    if (budget === "unavailable") throw new Error("the budgets could not be read then");
    const stopped = next?.type === "run.stopping" || next?.type === "run.budget_exceeded";
    return { budget, action: stopped ? "stop" : "deny" };
  }

  moved(run: RunState): readonly { budget: string; threshold: number }[] {
    const warnings: { budget: string; threshold: number }[] = [];
    for (let i = isTerminal(run.state) ? run.seq - 1 : run.seq; ; i++) {
      const event = this.recorded[i];
      if (event?.type !== "budget.warned") return warnings;
      warnings.push({ budget: text(event.data, "budget"), threshold: num(event.data, "threshold") });
    }
  }
}
