// decide: (state, command) -> events. The only place where a run's future is made. Pure: what it may know is in the
// context. A command that does not fit the state is refused with an AppError and changes nothing.
import type { Json, JsonObject } from "../kit/json.ts";
import { fullJitter } from "../kit/backoff.ts";
import { AppError } from "../contract/errors.ts";
import type { Actor, EventDraft } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import type { JobFailure, JobResult, Usage } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { advance, modelCallBound } from "./advance.ts";
import { usageCost } from "./budget.ts";
import { Decision } from "./decide-context.ts";
import type { DecideContext } from "./decide-context.ts";
import { idleCommand, isIdle, onForeign } from "./foreign.ts";
import type { ForeignCommand } from "./foreign.ts";
import { gateAgain, gateApproved } from "./gate.ts";
import { denyModel, gateApprovedModel } from "./gate-model.ts";
import { beginRouting, nextRoute } from "./routing.ts";
import { awaitsInput, isClaimable } from "./run-state.ts";
import type { ApprovalState, RunState, StepState } from "./run-state.ts";
import { onTold } from "./told.ts";
import type { TellCommand } from "./told.ts";

export type Command =
  | { type: "start"; data: JsonObject; actor?: Actor }
  | { type: "result"; result: JobResult }
  | { type: "tick" }
  | { type: "recover" }
  /** The run cannot be recorded any further (a payload that has no stored form). */
  | { type: "abort"; code: string; message: string }
  | { type: "input"; content: Json; final: boolean; actor: Actor }
  | { type: "approve"; number: number; decision: "approved" | "rejected"; note: string; actor: Actor }
  | { type: "cancel"; reason: string; actor: Actor }
  | { type: "pause"; actor: Actor }
  | { type: "resume"; actor: Actor }
  | { type: "resolve"; step: number; resolution: Resolution; actor: Actor }
  | ForeignCommand
  | TellCommand;

export type Resolution =
  | { outcome: "completed"; result: Json; note: string }
  | { outcome: "failed"; message: string; note: string }
  | { outcome: "retry"; note: string };

/** Decides a command. The run has the events folded already when this returns. Throws AppError for a misfit. */
export function decide(run: RunState, command: Command, ctx: DecideContext): EventDraft[] {
  const decision = new Decision(run, ctx);
  switch (command.type) {
    case "start":
      decision.push({ type: "run.started", data: command.data, ...(command.actor ? { actor: command.actor } : {}) });
      beginRouting(decision);
      break;
    case "result":
      onResult(decision, command.result);
      break;
    case "tick":
      onTick(decision);
      break;
    case "recover":
      onRecover(decision);
      break;
    case "abort":
      // What could not be recorded after the end changes nothing of it.
      if (!isTerminal(run.state)) decision.terminal("failed", command.code, command.message);
      break;
    case "call":
    case "tool":
    case "replayed":
    case "end":
      onForeign(decision, command);
      break;
    case "ingest":
    case "seal":
    case "override":
    case "amend":
      onTold(decision, command);
      break;
    default:
      onPerson(decision, command);
  }
  advance(decision);
  return decision.events;
}

type PersonCommand = Exclude<
  Command,
  TellCommand | ForeignCommand | { type: "start" | "result" | "tick" | "recover" | "abort" }
>;

function onPerson(decision: Decision, command: PersonCommand): void {
  const { run } = decision;
  if (isTerminal(run.state)) {
    throw new AppError("RUN_TERMINAL", `Run ${run.run_id} is ${run.state}; it cannot be changed`, {
      details: { run_id: run.run_id, state: run.state },
    });
  }
  switch (command.type) {
    case "input":
      return onInput(decision, command);
    case "approve":
      return onApproval(decision, command);
    case "cancel":
      return decision.stop("cancelled", "cancelled_by_user", command.reason, LIMITS.stop_grace_ms * 1000);
    case "pause":
      if (run.paused) throw notWaiting(run, "is paused already");
      decision.push({ type: "run.waiting", actor: command.actor, data: { reason: "paused" } });
      return;
    case "resume":
      if (!run.paused) throw notWaiting(run, "is not paused");
      decision.push({ type: "run.running", actor: command.actor, data: {} });
      return;
    case "resolve":
      return onResolve(decision, command);
  }
}

function notWaiting(run: RunState, why: string): AppError {
  return new AppError("RUN_NOT_WAITING", `Run ${run.run_id} ${why}`, {
    details: { run_id: run.run_id, state: run.state, reason: run.reason },
  });
}

function onInput(decision: Decision, command: Extract<Command, { type: "input" }>): void {
  const { run } = decision;
  if (run.program?.kind !== "agent" || !awaitsInput(run)) throw notWaiting(run, "does not wait for input");
  decision.push({ type: "human.input", actor: command.actor, data: { content: command.content } });
  if (!command.final) return;
  const said = run.program.messages.findLast((m) => m.role === "assistant" && m.content !== null);
  decision.push({ type: "run.succeeded", data: { output: said?.role === "assistant" ? said.content : null } });
}

function onApproval(decision: Decision, command: Extract<Command, { type: "approve" }>): void {
  const { run } = decision;
  const step = [...run.steps.values()].find((candidate) => candidate.approval?.n === command.number);
  const approval = step?.approval;
  if (run.paused) throw new AppError("CONFLICT", `Run ${run.run_id} is paused; resume it first`);
  // A call that is approved now would be made after everybody was told that no more are.
  if (run.stopping)
    throw new AppError(
      "RUN_TERMINAL",
      `Run ${run.run_id} is ending (${run.stopping.to}); nothing of it is approved any more`,
      {
        details: { run_id: run.run_id, state: run.state },
      },
    );
  if (!step || !approval) {
    throw new AppError("APPROVAL_RESOLVED", `This approval of run ${run.run_id} is not open any more`);
  }
  const by = command.actor.id;
  if (by === run.requester) {
    throw new AppError("SELF_APPROVAL", `${by} started run ${run.run_id} and may not decide on its calls`, {
      details: { requester: run.requester },
    });
  }
  if (approval.approved_by.includes(by)) {
    throw new AppError(
      "APPROVAL_RESOLVED",
      `${by} has approved this already; ${approval.approvals_min} people are needed`,
    );
  }
  // The timer may be late; the clock decides, not who comes first. All that is due is done, as the timer would have.
  if (approval.expires_us <= decision.ctx.now_us) return onTick(decision);
  const granted = command.decision === "approved" && approval.approved_by.length + 1 >= approval.approvals_min;
  const final = granted || command.decision === "rejected";
  resolveApproval(decision, step, { by, decision: command.decision, final, note: command.note }, command.actor);
  if (granted) makeApproved(decision, step, approval);
  else if (final)
    denyStep(
      decision,
      step,
      "approval_rejected",
      `A person rejected this call${command.note ? `: ${command.note}` : "."}`,
    );
}

function makeApproved(decision: Decision, step: StepState, approval: ApprovalState): void {
  if (step.kind === "tool") return void gateApproved(decision, step, approval);
  // A call of a foreign agent is made by its client, which waits for this or asks again (foreign.ts).
  if (decision.run.program === null) return;
  const [name] = splitTarget(step.target);
  const route = decision.ctx.catalog.model(name);
  if (!route) return denyModel(decision, step, "unknown_model", `There is no model ${name} any more.`);
  const { bound } = modelCallBound(decision, route, step.slot, step.max_output_tokens);
  gateApprovedModel(decision, step, approval, { route, bound });
}

function resolveApproval(
  decision: Decision,
  step: StepState,
  outcome: { by: string; decision: string; final: boolean; note: string },
  actor: Actor,
): void {
  const data: JsonObject = { by: outcome.by, decision: outcome.decision, final: outcome.final };
  if (outcome.note !== "") data["note"] = outcome.note;
  data["number"] = step.approval?.n ?? 0;
  decision.push({ type: "human.approval_resolved", step: step.n, actor, data });
}

function denyStep(decision: Decision, step: StepState, reason: string, message: string): void {
  if (step.kind === "model") return denyModel(decision, step, reason, message);
  decision.push({ type: "tool.denied", step: step.n, data: { message, reason } });
}

function onResolve(decision: Decision, command: Extract<Command, { type: "resolve" }>): void {
  const { run, ctx } = decision;
  const step = run.steps.get(command.step);
  if (step?.status !== "in_doubt") throw notWaiting(run, `has no step ${command.step} in doubt`);
  const { resolution, actor } = command;
  const data: JsonObject = { by: actor.id };
  if (resolution.outcome === "completed") data["cost_micro_usd"] = step.reserved_micro;
  if (resolution.outcome === "retry") data["due"] = ctx.now_us;
  if (resolution.note !== "") data["note"] = resolution.note;
  data["resolution"] = resolution.outcome;
  if (resolution.outcome === "completed") data["result"] = resolution.result;
  decision.push({ type: "step.resolved", step: step.n, actor, data });
  if (resolution.outcome === "failed") {
    decision.push({ type: "step.ended", step: step.n, data: { code: "resolved_failed", message: resolution.message } });
  }
  if (resolution.outcome === "retry") tryAgain(decision, step);
}

function onTick(decision: Decision): void {
  const { run, ctx } = decision;
  if (isTerminal(run.state)) return;
  if (run.stopping) {
    if (run.stopping.until_us <= ctx.now_us) abandonInFlight(decision);
    return;
  }
  if (run.deadline_us > 0 && run.deadline_us <= ctx.now_us) {
    return decision.stop("timed_out", "deadline", "The run passed its deadline.", LIMITS.stop_grace_ms * 1000);
  }
  if (isIdle(run, ctx.now_us)) return onForeign(decision, idleCommand(run));
  for (const step of run.steps.values()) {
    if (step.approval && step.approval.expires_us <= ctx.now_us) expire(decision, step);
    else if (step.granted && isClaimable(step) && step.granted.expires_us <= ctx.now_us)
      denyStep(decision, step, "approval_expired", "Nobody came to make the approved call in time.");
    else if (!run.paused && step.due_us > 0 && step.due_us <= ctx.now_us) due(decision, step);
    if (isTerminal(run.state) || run.stopping) return;
  }
}

function expire(decision: Decision, step: StepState): void {
  const actor: Actor = { id: "quarterdeck", kind: "system" };
  resolveApproval(decision, step, { by: "quarterdeck", decision: "expired", final: true, note: "" }, actor);
  denyStep(decision, step, "approval_expired", "Nobody approved this call in time.");
}

function due(decision: Decision, step: StepState): void {
  if (step.status === "sleeping") decision.push({ type: "timer.fired", step: step.n, data: {} });
  else if (step.status === "retry") tryAgain(decision, step);
}

function tryAgain(decision: Decision, step: StepState): void {
  const { catalog } = decision.ctx;
  const [name, version] = splitTarget(step.target);
  if (step.kind === "tool") {
    const tool = catalog.tool(name, version);
    gateAgain(decision, step, { micro: tool?.cost_micro_usd ?? 0, tokens: 0 }, tool);
    return;
  }
  const route = catalog.model(name, version);
  if (!route) return decision.stop("failed", "unknown_model", `There is no model ${name}.`, 0);
  const { bound } = modelCallBound(decision, route, step.slot, step.max_output_tokens);
  if (!bound) return decision.stop("policy_blocked", "no_price", `The model ${name} has no price.`, 0);
  gateAgain(decision, step, bound, null);
}

export function splitTarget(target: string): [string, number] {
  const at = target.lastIndexOf("@");
  return [target.slice(0, at), Number(target.slice(at + 1))];
}

/** The grace is over: what has not reported is charged at its bound; a late report is recorded and changes nothing. */
function abandonInFlight(decision: Decision): void {
  for (const step of decision.run.steps.values()) {
    if (step.status === "running") lost(decision, step, "abandoned", "The call did not report before the run ended.");
  }
}

/** After a crash: attempts whose outcome was not recorded. Idempotent ones go again, others need a person. */
function onRecover(decision: Decision): void {
  const { run, ctx } = decision;
  if (run.stopping) return abandonInFlight(decision);
  for (const step of run.steps.values()) {
    if (step.status !== "running") continue;
    if (run.program === null && step.kind === "model") {
      // Whoever made the call is not ours: nobody here can make it again.
      lost(decision, step, "outcome_lost", "The process ended before the outcome was recorded.");
      decision.push({
        type: "step.ended",
        step: step.n,
        data: { code: "outcome_lost", message: "The outcome is not known." },
      });
      continue;
    }
    const [name, version] = splitTarget(step.target);
    const repeatable = step.kind === "model" || ctx.catalog.tool(name, version)?.idempotent === true;
    if (!repeatable) {
      decision.push({ type: "step.in_doubt", step: step.n, data: { attempt: step.attempt, reason: "outcome_lost" } });
      continue;
    }
    lost(decision, step, "outcome_lost", "The process ended before the outcome was recorded.");
    // A crash is not the step's fault: it does not use up its attempts.
    decision.push({ type: "step.retry_scheduled", step: step.n, data: { due: ctx.now_us } });
    if (!run.paused) tryAgain(decision, step);
    if (isTerminal(run.state) || run.stopping) return;
  }
}

/** Records an attempt without outcome. A lost model call may have been billed: it is charged at what was reserved. */
function lost(decision: Decision, step: StepState, code: string, message: string): void {
  const data: JsonObject = { class: "unknown_outcome", code };
  if (step.kind === "model" && step.reserved_micro > 0) data["cost_micro_usd"] = step.reserved_micro;
  data["message"] = message;
  decision.push({
    type: step.kind === "tool" ? "tool.failed" : "model.failed",
    step: step.n,
    ...attemptOf(step),
    data,
  });
}

function attemptOf(step: { attempt: number }): { attempt?: number } {
  return step.attempt > 1 ? { attempt: step.attempt } : {};
}

function onResult(decision: Decision, result: JobResult): void {
  const { run } = decision;
  const step = run.steps.get(result.step);
  // A step in doubt takes the result of its own attempt: that is the truth everybody was waiting for.
  const open = step?.status === "running" || step?.status === "in_doubt";
  const current = open && step.attempt === result.attempt && step.kind === result.kind;
  if (!step || !current || isTerminal(run.state)) return lateResult(decision, result);
  const { outcome } = result;
  if (!outcome.ok) return onFailure(decision, step, result, outcome);
  if (outcome.kind === "tool") return toolCompleted(decision, step, result);
  modelCompleted(decision, step, result);
}

/** A result after the run ended is recorded once, with its cost; one that no attempt ever matched is refused. */
function lateResult(decision: Decision, result: JobResult): void {
  const { run } = decision;
  if (!run.abandoned.has(`${result.step}/${result.attempt}`)) {
    throw new AppError(
      "STALE_RESULT",
      `Step ${result.step} attempt ${result.attempt} of ${run.run_id} is not in flight`,
      {
        details: { run_id: run.run_id, step: result.step, attempt: result.attempt },
      },
    );
  }
  const data: JsonObject = { attempt: result.attempt, ok: result.outcome.ok, reason: "cancel_raced" };
  decision.push({ type: "journal.late", step: result.step, data });
}

function toolCompleted(decision: Decision, step: StepState, result: JobResult): void {
  const { outcome } = result;
  if (!outcome.ok || outcome.kind !== "tool") return;
  const [name, version] = splitTarget(step.target);
  const cost = decision.ctx.catalog.tool(name, version)?.cost_micro_usd ?? 0;
  const data: JsonObject = {};
  if (cost > 0) data["cost_micro_usd"] = cost;
  if (result.duration_ms > 0) data["duration_ms"] = result.duration_ms;
  if (outcome.is_error) data["is_error"] = true;
  data["result"] = outcome.result;
  if (outcome.recorded) Object.assign(data, outcome.recorded);
  if (outcome.result_ref !== undefined) data["result_ref"] = { ...outcome.result_ref };
  const call = step.call === undefined ? {} : { call: step.call };
  decision.push({ type: "tool.completed", step: step.n, ...attemptOf(step), ...call, data });
}

function costOf(decision: Decision, step: StepState, usage: Usage | undefined): number {
  if (!usage) return 0;
  const [name, version] = splitTarget(step.target);
  const model = decision.ctx.catalog.model(name, version)?.model ?? "";
  const price = decision.ctx.catalog.price(model, step.started_us);
  // A price that was there at the request and is gone now: charge what was reserved, never nothing.
  return price ? usageCost(price, usage) : step.reserved_micro;
}

function modelCompleted(decision: Decision, step: StepState, result: JobResult): void {
  const { outcome } = result;
  if (!outcome.ok || outcome.kind !== "model") return;
  const cost = costOf(decision, step, outcome.usage);
  const over = cost - step.reserved_micro;
  const data: JsonObject = { content: outcome.content };
  if (outcome.content_ref !== undefined) data["content_ref"] = { ...outcome.content_ref };
  data["cost_micro_usd"] = cost;
  if (outcome.cut_off) data["cut_off"] = true;
  data["duration_ms"] = result.duration_ms;
  data["finish_reason"] = outcome.finish_reason;
  data["model"] = outcome.response_model;
  if (outcome.recorded) Object.assign(data, outcome.recorded);
  data["tool_calls"] = outcome.tool_calls.map((call) => ({ arguments: call.arguments, id: call.id, name: call.name }));
  data["usage"] = { ...outcome.usage };
  decision.push({ type: "model.completed", step: step.n, ...attemptOf(step), data });
  if (outcome.tool_calls.length > LIMITS.tool_calls_per_turn_max) {
    return decision.stop(
      "failed",
      "too_many_tool_calls",
      `More than ${LIMITS.tool_calls_per_turn_max} tool calls in one turn.`,
      0,
    );
  }
  if (over > 0) {
    decision.push({ type: "budget.overrun", step: step.n, data: { over_micro_usd: over } });
    decision.stop(
      "budget_exceeded",
      "overrun",
      "The provider charged more than the bound of the call.",
      LIMITS.stop_grace_ms * 1000,
    );
  }
}

/** Code of a failure that no worker reported: the one who had the job was not heard of any more. */
export const WORKER_LOST = "worker_lost";

type Failed = Extract<JobResult["outcome"], { ok: false }>;

function onFailure(decision: Decision, step: StepState, result: JobResult, { failure, usage, recorded }: Failed): void {
  const { run, ctx } = decision;
  const [name, version] = splitTarget(step.target);
  const tool = step.kind === "tool" ? ctx.catalog.tool(name, version) : null;
  if (failure.class === "unknown_outcome" && tool && !tool.idempotent && !run.stopping) {
    const data = { attempt: step.attempt, code: failure.code, message: failure.message, reason: "unknown_outcome" };
    decision.push({ type: "step.in_doubt", step: step.n, data });
    return;
  }
  if (failure.code === WORKER_LOST && result.attempt >= attemptsOf(decision, step) && !run.stopping) {
    // Each worker that took it was lost: handing it to yet another one needs a person.
    const data = { attempt: step.attempt, code: failure.code, message: failure.message, reason: "dead_letter" };
    decision.push({ type: "step.in_doubt", step: step.n, data });
    return;
  }
  const data: JsonObject = { class: failure.class, code: failure.code, ...recorded };
  const cost = costOf(decision, step, usage);
  if (cost > 0) data["cost_micro_usd"] = cost;
  data["message"] = failure.message;
  if (usage) data["usage"] = { ...usage };
  decision.push({
    type: step.kind === "tool" ? "tool.failed" : "model.failed",
    step: step.n,
    ...attemptOf(step),
    data,
  });
  if (run.stopping) return;
  // A foreign agent decides itself whether it asks a model again.
  if (run.program === null && step.kind === "model") return endStep(decision, step, failure);
  const retryable =
    failure.class === "transient" || failure.class === "rate_limited" || failure.class === "unknown_outcome";
  if (retryable && result.attempt < attemptsOf(decision, step)) return scheduleRetry(decision, step, failure);
  endStep(decision, step, failure);
}

/** Attempts that the step's tool or model may use up. */
function attemptsOf(decision: Decision, step: StepState): number {
  const { catalog } = decision.ctx;
  const [name, version] = splitTarget(step.target);
  if (step.kind === "tool") return catalog.tool(name, version)?.attempts_max ?? 1;
  return catalog.model(name, version)?.attempts_max ?? 1;
}

function scheduleRetry(decision: Decision, step: StepState, failure: JobFailure): void {
  const jitter = fullJitter({
    base_ms: LIMITS.retry_base_ms,
    cap_ms: LIMITS.retry_cap_ms,
    retry: step.attempt,
    random: decision.ctx.random(),
  });
  const asked = Math.min(failure.retry_after_ms ?? 0, LIMITS.retry_after_ms_max);
  const due = decision.ctx.now_us + Math.max(jitter, asked) * 1000;
  decision.push({ type: "step.retry_scheduled", step: step.n, data: { due } });
}

function endStep(decision: Decision, step: StepState, failure: JobFailure): void {
  const { code, message } = failure;
  decision.push({ type: "step.ended", step: step.n, data: { code, message } });
  // An agent reads a tool's failure and goes on; without its model it cannot.
  if (step.kind === "model" && decision.run.program?.kind === "agent") {
    if (nextRoute(decision, splitTarget(step.target)[0], code)) return;
    decision.stop("failed", code, message, LIMITS.stop_grace_ms * 1000);
  }
}
