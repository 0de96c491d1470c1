// Calls of agents that we do not run: they come through the proxy, pass the same policy and the same budgets, and are recorded
// as steps of a captured run. A call that is denied leaves the run open: what the agent does then is its own affair.
import type { Actor, EventDraft, Origin, TerminalState } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import { AppError } from "../contract/errors.ts";
import type { ModelRoute } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Bound } from "./budget.ts";
import { hasRunning } from "./decide-context.ts";
import type { Decision } from "./decide-context.ts";
import { decided, gateTool, overBudget, policyCall, UNDECIDED, verdictOf } from "./gate.ts";
import type { Verdict } from "./policy.ts";
import type { RunState } from "./run-state.ts";

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
}

export type ForeignCommand =
  | { type: "call"; call: ForeignCall }
  | { type: "tool"; call: ForeignToolCall }
  /** A call of a replayed process, answered from the recording. */
  | { type: "replayed"; call: string; requested: ReplayedEvent; ended: ReplayedEvent }
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
  decision.push({ ...requested, step, call });
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

function admit(decision: Decision, given: ForeignCall): void {
  const { run, ctx } = decision;
  const step = run.step_count + 1;
  const { route, bound, call } = given;
  const target = `${route.name}@${route.version}`;
  const deny = (verdict: Verdict): void => {
    decided(decision, step, { ...verdict, effect: "deny" }, null);
    const data: JsonObject = { ...given.recorded, model: target, reason: verdict.reason };
    decision.push({ type: "model.denied", step, call, data });
  };
  if (step > LIMITS.steps_per_run_max) return deny({ ...UNDECIDED, reason: "too_many_steps" });
  if (!bound) return deny({ ...UNDECIDED, reason: "no_price" });
  const verdict = verdictOf(
    decision,
    policyCall(run, {
      kind: "model",
      name: route.name,
      args: {},
      effect_class: "external",
      idempotent: true,
      call_micro_usd: bound.micro,
      now_us: ctx.now_us,
    }),
  );
  // The one who waits is a program: nobody can be asked.
  if (verdict.effect !== "allow") {
    deny(verdict);
    if (!verdict.block_run) return;
    const message = `The model ${route.name} was denied: ${verdict.reason}`;
    return decision.stop("policy_blocked", verdict.reason, message, LIMITS.stop_grace_ms * 1000);
  }
  const over = overBudget(decision, "model", bound);
  if (over) {
    deny({ ...UNDECIDED, reason: "budget_exceeded" });
    return decision.push({ type: "budget.exceeded", data: { budget: over.budget } });
  }
  decided(decision, step, verdict, bound);
  const data: JsonObject = { ...given.recorded, max_output_tokens: given.max_output_tokens, model: target };
  decision.push({ type: "model.requested", step, call, data });
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
