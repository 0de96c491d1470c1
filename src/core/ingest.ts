// Decides what may be recorded of the events that others observed. They are facts, so there is nothing to allow; but their
// order must make sense: a run starts first, an outcome has its request, nothing follows the end. What does not fit is refused
// by its number and leaves a gap in its producer's numbers, so that what follows it is not held up.
import { assert } from "../kit/assert.ts";
import type { JsonObject } from "../kit/json.ts";
import { AppError } from "../contract/errors.ts";
import type { ErrorCode } from "../contract/errors.ts";
import type { Actor, EventDraft, EventType, Origin, TerminalState } from "../contract/events.ts";
import { isTerminal, TERMINAL_STATES } from "../contract/events.ts";
import type { Usage } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { usageCost } from "./budget.ts";
import { hasRunning } from "./decide-context.ts";
import type { Decision } from "./decide-context.ts";
import { givenId, isIncomplete, observedOf, placeOf, producerKey, producerOf, roleOf, seqOf } from "./observed.ts";
import type { ObservedStep, StepRole } from "./observed.ts";
import type { RunState } from "./run-state.ts";
import { isOver } from "./seal.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export interface IngestFault {
  readonly code: ErrorCode;
  readonly message: string;
  readonly pointer: string;
}

/** An observed event, checked by itself and redacted. */
export interface ObservedEvent {
  /** Null where the source numbers nothing (spans); such events are known by their steps. */
  readonly no: number | null;
  readonly type: string;
  readonly step?: string;
  readonly parent?: string;
  readonly attempt?: number;
  readonly call?: string;
  readonly actor?: Actor;
  readonly occurred?: number;
  readonly data: JsonObject;
  /** See Origin. */
  readonly mac?: string;
  readonly said?: JsonObject;
  /** What is wrong with it by itself: only its number is used. */
  readonly fault?: IngestFault;
}

export interface IngestCommand {
  readonly type: "ingest";
  readonly producer: string;
  readonly epoch: number;
  /** In the order of their numbers. */
  readonly events: readonly ObservedEvent[];
  /** Numbers that came twice, with other content the second time. */
  readonly conflicts?: readonly { readonly no: number; readonly first: string; readonly second: string }[];
  /** Why what is missing before an event is given up; without it nothing may be missing. */
  readonly holes?: "timeout" | "forced" | "ended";
  /** Filled by the decision: what was refused, by number (or by place in `events`, where there are no numbers). */
  readonly refused: Map<number, IngestFault>;
}

const fault = (code: ErrorCode, message: string, pointer = ""): IngestFault => ({ code, message, pointer });
const AFTERWARDS = ["evaluation.recorded", "human.feedback"];

/** True for what may still be said of a run that has ended. */
function isAfterword(type: string): boolean {
  return AFTERWARDS.includes(type);
}

export function onIngest(decision: Decision, command: IngestCommand): void {
  const { run } = decision;
  const [first] = command.events;
  if (run.seq === 0) {
    if (first?.fault) throw new AppError(first.fault.code, first.fault.message, { errors: [first.fault] });
    if (first?.type !== "run.started")
      throw new AppError(
        "RUN_NOT_STARTED",
        `Run ${run.run_id} begins with ${first?.type ?? "nothing"}, not run.started`,
      );
  }
  if (run.program !== null)
    throw new AppError("CONFLICT", `Run ${run.run_id} runs here; nobody else can add events to it`);
  for (const conflict of command.conflicts ?? []) {
    const { no, first: recorded, second: refused } = conflict;
    const { producer, epoch } = command;
    decision.push({ type: "journal.conflict", data: { epoch, first: recorded, no, producer, second: refused } });
  }
  for (const [index, event] of command.events.entries()) take(decision, command, event, index);
}

function take(decision: Decision, command: IngestCommand, event: ObservedEvent, index: number): void {
  const { run } = decision;
  const key = producerKey(command.producer, command.epoch);
  const state = event.no === null ? null : producerOf(observedOf(run), key);
  const no = event.no ?? 0;
  const hasEnded = isTerminal(run.state);
  const isLate = state !== null && placeOf(state, no) === "gap";
  const wrong = event.fault ?? misfit(decision, event, isLate);
  if (wrong) command.refused.set(event.no ?? index, wrong);
  // What is refused after the end holds nothing up, so it leaves no gap either.
  if (wrong && (hasEnded || isLate || !state)) return;
  if (state && no > state.next) {
    assert(command.holes !== undefined, "what comes too early waits", { no, next: state.next });
    giveUp(decision, command, { from: state.next, to: no - 1, reason: command.holes });
  }
  if (wrong) return giveUp(decision, command, { from: no, to: no, reason: wrong.code });
  const late = state && isLate ? (seqOf(state, lastBefore(state.segments, no)) ?? 0) : null;
  decision.push(draftOf(decision, event, state ? `${key}/${no}` : null, late));
  if (late === null) return;
  const { producer, epoch } = command;
  decision.push({ type: "journal.gap_filled", data: { epoch, from: no, producer, to: no } });
}

/** These numbers will not come, or were refused: that goes on record, and what follows them may. */
function giveUp(
  decision: Decision,
  { producer, epoch }: IngestCommand,
  { from, to, reason }: { from: number; to: number; reason: string },
): void {
  decision.push({ type: "journal.gap", data: { epoch, from, producer, reason, to } });
}

function lastBefore(segments: readonly (readonly [number, number, number])[], no: number): number {
  let last = 0;
  for (const [from, , count] of segments) if (from + count - 1 < no) last = Math.max(last, from + count - 1);
  return last;
}

/** Why an event cannot stand where it would; null when it can. */
function misfit(decision: Decision, event: ObservedEvent, late: boolean): IngestFault | null {
  const { run } = decision;
  if (run.seq === 0) return null;
  if (event.type === "run.started")
    return fault("RUN_ALREADY_STARTED", `Run ${run.run_id} has started before`, "/type");
  const id = givenId(event.said);
  if (id !== null && run.observed?.ids.has(id))
    return fault("ID_REUSED", `The id ${id} is that of an event of run ${run.run_id} with another number`, "/id");
  if (isTerminal(run.state)) {
    if (!isAfterword(event.type) && isOver(decision))
      return fault("RUN_SEALED", `Run ${run.run_id} ended too long ago; it is sealed`);
    if (!isAfterword(event.type) && !late)
      return fault("RUN_TERMINAL", `Run ${run.run_id} is ${run.state}; ${event.type} cannot follow`, "/type");
    if (late && isEnd(event.type)) return fault("RUN_TERMINAL", `Run ${run.run_id} is ${run.state} already`, "/type");
  }
  return misfitStep(run, event, late);
}

function misfitStep(run: RunState, event: ObservedEvent, late: boolean): IngestFault | null {
  const { role, family } = roleOf(event.type);
  const steps = run.observed?.steps;
  if (event.parent !== undefined && event.no !== null && !late && !steps?.has(event.parent))
    return fault("PARENT_UNKNOWN", `Step ${event.parent} is not known in run ${run.run_id}`, "/parent_step_id");
  if (event.step === undefined)
    return role === "none" ? null : fault("VALIDATION_ERROR", `${event.type} needs a step_id`, "/step_id");
  const step = steps?.get(event.step);
  if (!step && run.step_count >= LIMITS.steps_per_run_max)
    return fault("CONFLICT", `Run ${run.run_id} has ${run.step_count} steps, which is the limit`, "/step_id");
  // What comes late comes without the order that it had.
  return late ? null : misfitPair(event, step, role, family);
}

function misfitPair(
  event: ObservedEvent,
  step: ObservedStep | undefined,
  role: StepRole,
  family: string,
): IngestFault | null {
  const name = event.step ?? "";
  if (role === "opens" || role === "proposes") {
    if (step?.status === "open") return fault("CALL_OPEN", `Step ${name} has an open call already`, "/step_id");
    return null;
  }
  if (role === "none") return null;
  const refused = event.type === "tool.denied" && step?.status === "proposed";
  // One event may say a retrieval whole.
  const whole = event.type === "retrieval.completed" && event.data["query"] !== undefined && step?.status !== "open";
  if (refused || whole) return null;
  if (step?.status !== "open" || step.family !== family)
    return fault(
      "CALL_NOT_OPEN",
      `Step ${name} has no open ${family} call that ${event.type} could belong to`,
      "/step_id",
    );
  if (step.attempt !== (event.attempt ?? 1))
    return fault("CALL_NOT_OPEN", `Step ${name} is at attempt ${step.attempt}, not ${event.attempt ?? 1}`, "/attempt");
  return null;
}

function isEnd(type: string): boolean {
  return (TERMINAL_STATES as readonly string[]).includes(type.replace(/^run\./, "")) && type.startsWith("run.");
}

/** The event as it is stored. Names of steps become numbers; each name stands once. */
function draftOf(decision: Decision, event: ObservedEvent, from: string | null, late: number | null): EventDraft {
  const { run } = decision;
  const steps = run.observed?.steps;
  const { step: name, parent: above } = event;
  const origin: Mutable<Origin> = {};
  let count = run.step_count;
  // Put together by hand: this is done for every event.
  const { type, data } = stated(decision, event);
  const draft: Mutable<EventDraft> = { type, data, origin };
  if (from !== null) origin.from = from;
  if (late !== null) origin.late = late;
  if (event.mac !== undefined) origin.mac = event.mac;
  if (event.said !== undefined) origin.said = event.said;
  if (event.actor !== undefined) draft.actor = event.actor;
  if (event.attempt !== undefined && event.attempt > 1) draft.attempt = event.attempt;
  if (event.call !== undefined) draft.call = event.call;
  if (event.occurred !== undefined) draft.occurred = event.occurred;
  if (name !== undefined) {
    const known = steps?.get(name);
    if (!known) origin.step = name;
    draft.step = known?.n ?? (count += 1);
  }
  if (above !== undefined) {
    const known = above === name ? undefined : steps?.get(above);
    if (!known) origin.parent = above;
    draft.parent = known?.n ?? (count += 1);
  }
  return draft;
}

/** Type and data. The end of a run waits for governed calls in flight; the price of a model call is ours to say. */
function stated(decision: Decision, event: ObservedEvent): Pick<EventDraft, "type" | "data"> {
  const { run, ctx } = decision;
  const { type, data } = event;
  if (isEnd(type)) {
    const to = type.slice("run.".length) as TerminalState;
    const incomplete = run.observed && isIncomplete(run.observed) ? { code: "incomplete" } : {};
    if (!hasRunning(run)) return { type: `run.${to}`, data: { ...incomplete, ...data } };
    const until = ctx.now_us + LIMITS.stop_grace_ms * 1000;
    const { code, message } = { code: "", message: "", ...data };
    return { type: "run.stopping", data: { code, message, to, until } };
  }
  return type === "model.completed" ? { type, data: priced(decision, event) } : { type: type as EventType, data };
}

function priced({ run, ctx }: Decision, { data, step }: ObservedEvent): JsonObject {
  const usage = data["usage"] as unknown as Partial<Usage> | undefined;
  if (data["cost_micro_usd"] !== undefined || !usage) return data;
  const model = String(data["response_model"] ?? run.observed?.steps.get(step ?? "")?.target ?? "");
  const route = ctx.catalog.modelOf(model) ?? ctx.catalog.model(model);
  const price = ctx.catalog.price(route?.model ?? model, ctx.now_us);
  if (!price) return data;
  const cost = usageCost(price, { input_tokens: usage.input_tokens ?? 0, output_tokens: usage.output_tokens ?? 0 });
  return { ...data, cost_micro_usd: cost };
}
