// Calls of agents that we do not run: they come through the proxy, pass the same policy and the same budgets, and are recorded
// as steps of a captured run. A call that is denied leaves the run open: what the agent does then is its own affair.
import type { Capability } from "../contract/capabilities.ts";
import type { Actor, EventDraft, Origin, TerminalState } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import { AppError } from "../contract/errors.ts";
import type { ModelRoute } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Bound } from "./budget.ts";
import { hasRunning } from "./decide-context.ts";
import type { Decision } from "./decide-context.ts";
import { askApproval, CHANGED, decided, gateTool, isApproved, overBudget, UNDECIDED, verdictOf } from "./gate.ts";
import { modelVerdict, definitionOf, denyModel, modelPolicyCall } from "./gate-model.ts";
import type { Verdict } from "./policy.ts";
import { isClaimable } from "./run-state.ts";
import type { RunState, ShownArgs, StepState } from "./run-state.ts";

/** A model call that a foreign agent wants to make. */
export interface ForeignCall {
  /** Names it until its outcome is known. */
  readonly call: string;
  readonly route: ModelRoute;
  readonly max_output_tokens: number;
  /** Worst case; null when the model has no price. */
  readonly bound: Bound | null;
  /** What is recorded of the request: API, signature, the request itself or where it is. */
  readonly recorded: JsonObject;
}

/** A tool call that a foreign agent wants to have made; it is made here, like those of our own agents. */
export interface ForeignToolCall {
  readonly call: string;
  readonly tool: string;
  readonly args: JsonObject;
  /** Patterns of the tools that the agent may name; null: those that the policy allows. */
  readonly allow: readonly string[] | null;
  /** What those may make use of; absent: everything. */
  readonly capabilities?: readonly Capability[];
  /** What is recorded in place of the arguments, where something was taken out of them. */
  readonly shown?: ShownArgs;
}

export type ForeignCommand =
  | { type: "call"; call: ForeignCall }
  | { type: "tool"; call: ForeignToolCall }
  /** A call of a replayed process, answered from the recording. */
  | { type: "replayed"; call: string; requested: ReplayedEvent | null; ended: ReplayedEvent }
  | EndCommand;

export interface EndCommand {
  readonly type: "end";
  readonly state: TerminalState;
  readonly code: string;
  readonly message: string;
  readonly output?: Json;
  readonly mismatch?: JsonObject;
  readonly actor?: Actor;
}

export interface ReplayedEvent {
  readonly type: EventDraft["type"];
  /** Set where the recorded call was observed, not made here. */
  readonly origin?: Origin;
  readonly data: JsonObject;
}

const TOOL_ENDS: readonly string[] = ["tool.completed", "tool.denied", "step.ended", "step.in_doubt"];

/** True for what ends a tool call, as the agent that made it sees it. */
export function isToolEnd(type: string): boolean {
  return TOOL_ENDS.includes(type);
}

/** When a captured run that nobody adds to ends by itself; 0: it does not, a call is open or a person has paused it. */
export function idleEnd(run: RunState): number {
  const foreign = run.kind === "captured" && run.program === null;
  if (!foreign || run.paused || run.steps.size > 0) return 0;
  return run.updated_us + quietMs(run) * 1000;
}

/** A trace says when it is over; a session only falls silent; whoever started a run by name means to end it. */
function quietMs({ observed, external_id }: RunState): number {
  if (observed?.root) return LIMITS.trace_quiet_ms;
  return external_id === null ? LIMITS.capture_open_ms : LIMITS.capture_idle_ms;
}

/** How a run ends that nobody adds to: as the root of its trace did, if it has one. */
export function idleCommand({ observed }: RunState): EndCommand {
  if (observed?.root === "failed")
    return { type: "end", state: "failed", code: "root_failed", message: "The root of the trace ended with an error." };
  return { type: "end", state: "succeeded", code: observed?.root ? "" : "idle", message: "" };
}

/** True for a captured run that nobody has added to for long. */
export function isIdle(run: RunState, now_us: number): boolean {
  const ends_us = idleEnd(run);
  return ends_us > 0 && ends_us <= now_us;
}

export function onForeign(decision: Decision, command: ForeignCommand): void {
  const { run } = decision;
  if (isTerminal(run.state)) {
    throw new AppError("RUN_TERMINAL", `Run ${run.run_id} is ${run.state}; nothing can be added to it`, {
      details: { run_id: run.run_id, state: run.state },
    });
  }
  if (run.program !== null)
    throw new AppError("CONFLICT", `Run ${run.run_id} runs here; nobody else can add calls to it`);
  if (command.type === "end") return end(decision, command);
  refuseWhileHeld(run);
  const step = run.step_count + 1;
  if (command.type === "call") return admit(decision, command.call);
  if (command.type === "tool") {
    if (step <= LIMITS.steps_per_run_max) return void gateTool(decision, command.call);
    throw new AppError(
      "CONFLICT",
      `Run ${run.run_id} has ${run.step_count} steps, which is the limit; start another one`,
    );
  }
  const { call, requested, ended } = command;
  if (requested) decision.push({ ...requested, step, call });
  decision.push({ ...ended, step, call });
}

/** What a person said of the run holds for its agent too, which cannot know it. */
function refuseWhileHeld(run: RunState): void {
  const details = { run_id: run.run_id, state: run.state };
  if (run.stopping) {
    const { to, code } = run.stopping;
    throw new AppError("RUN_TERMINAL", `Run ${run.run_id} is ending (${to}: ${code}); nothing can be added`, {
      details,
    });
  }
  if (run.paused) throw new AppError("CONFLICT", `Run ${run.run_id} is paused; resume it first`, { details });
}

const targetOf = ({ route }: ForeignCall): string => `${route.name}@${route.version}`;

/** The step of a model call that waits for a person, or for its caller: the same request to the same model. */
export function awaitedCall(run: Pick<RunState, "steps">, call: ForeignCall): StepState | null {
  const target = targetOf(call);
  const signature = call.recorded["signature"] ?? null;
  for (const step of run.steps.values()) {
    const waits = step.approval !== null || isClaimable(step);
    if (step.kind === "model" && waits && step.target === target && step.args["signature"] === signature) return step;
  }
  return null;
}

function admit(decision: Decision, given: ForeignCall): void {
  const { run } = decision;
  const step = run.step_count + 1;
  const { route, bound, call } = given;
  const target = targetOf(given);
  const awaited = awaitedCall(run, given);
  if (awaited) return claim(decision, awaited, given);
  const deny = (verdict: Verdict): void => {
    decided(decision, step, { ...verdict, effect: "deny" }, null);
    const data: JsonObject = { ...given.recorded, model: target, reason: verdict.reason };
    decision.push({ type: "model.denied", step, call, data });
  };
  if (step > LIMITS.steps_per_run_max) return deny({ ...UNDECIDED, reason: "too_many_steps" });
  if (!bound) return deny({ ...UNDECIDED, reason: "no_price" });
  const verdict = verdictOf(decision, modelPolicyCall(decision, route, bound));
  if (verdict.effect === "deny") {
    deny(verdict);
    return blockRun(decision, verdict, route.name);
  }
  const over = overBudget(decision, "model", bound);
  if (over) {
    deny({ ...UNDECIDED, reason: "budget_exceeded" });
    return decision.push({ type: "budget.exceeded", data: { budget: over.budget } });
  }
  if (verdict.effect === "require_approval") {
    const { max_output_tokens } = given;
    const args: JsonObject = { ...given.recorded, max_output_tokens };
    decision.push({ type: "model.proposed", step, call, data: { args, max_output_tokens, model: target } });
    decided(decision, step, verdict, null);
    return askApproval(decision, step, verdict, { definition: definitionOf(route), args });
  }
  decided(decision, step, verdict, bound);
  request(decision, step, given, {});
}

/** A rule may say that its deny ends the run. */
function blockRun(decision: Decision, verdict: Verdict, model: string): void {
  if (!verdict.block_run) return;
  const message = `The model ${model} was denied: ${verdict.reason}`;
  decision.stop("policy_blocked", verdict.reason, message, LIMITS.stop_grace_ms * 1000);
}

function request(decision: Decision, step: number, given: ForeignCall, more: JsonObject): void {
  const { call, recorded, max_output_tokens } = given;
  const data: JsonObject = { ...more, ...recorded, max_output_tokens, model: targetOf(given) };
  decision.push({ type: "model.requested", step, call, data });
}

/**
 * Whoever waits for approval asks again. Nothing is decided while people think; once they have approved, this caller makes the
 * call: what is sent must be what was approved, the policy decides again, a deny wins.
 */
function claim(decision: Decision, step: StepState, given: ForeignCall): void {
  const { granted } = step;
  if (!granted || step.approval) return;
  const refuse = (verdict: Verdict, message: string): void => {
    decided(decision, step.n, { ...verdict, effect: "deny" }, null);
    denyModel(decision, { ...step, call: given.call }, verdict.reason, message);
    blockRun(decision, verdict, given.route.name);
  };
  const { route, bound } = given;
  if (!isApproved(decision, step, granted, { definition: definitionOf(route), args: step.args }))
    return refuse({ ...UNDECIDED, reason: "approval_void" }, CHANGED);
  const verdict = modelVerdict(decision, route, bound);
  if (verdict.effect === "deny" || !bound) return refuse(verdict, `Denied by policy: ${verdict.reason}`);
  const over = overBudget(decision, "model", bound);
  if (over) {
    refuse({ ...UNDECIDED, reason: "budget_exceeded" }, `The budget ${over.budget} does not cover this call.`);
    return decision.push({ type: "budget.exceeded", data: { budget: over.budget } });
  }
  decided(decision, step.n, { ...verdict, effect: "allow", reason: "approved" }, bound);
  request(decision, step.n, given, { approved: granted.binding });
}

function end(decision: Decision, command: EndCommand): void {
  const { state, code, message, mismatch, actor } = command;
  if (mismatch) decision.push({ type: "replay.mismatched", data: mismatch });
  // What is in flight has a cost that is not known yet: its outcome is waited for, for as long as when a run is cancelled.
  if (hasRunning(decision.run)) return decision.stop(state, code, message, LIMITS.stop_grace_ms * 1000);
  const data: JsonObject = {
    ...(code === "" ? {} : { code, message }),
    ...(command.output === undefined ? {} : { output: command.output }),
  };
  decision.push({ type: `run.${state}`, data, ...(actor ? { actor } : {}) });
}
