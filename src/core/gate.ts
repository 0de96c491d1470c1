// The gate that every model and tool call passes before its effect, in this order: registry -> policy -> inspection
// (arguments) -> budget (checked) -> approval -> budget (reserved, with the intent). Whatever cannot be decided is denied.
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject, parseJson } from "../kit/json.ts";
import { lacking } from "../contract/capabilities.ts";
import type { Capability } from "../contract/capabilities.ts";
import type { EventDraft } from "../contract/events.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { messageOf } from "../contract/errors.ts";
import { runLimitPassed } from "./budget.ts";
import type { Bound } from "./budget.ts";
import { SliceShort } from "./decide-context.ts";
import type { Decision, SharedRefusal } from "./decide-context.ts";
import { matchesAny } from "./pattern.ts";
import { pathOf, toolRequest } from "./past-calls.ts";
import type { PolicyCall, Verdict } from "./policy.ts";
import { permitsLive, reuseOf, stopReplay, takeOver } from "./reuse.ts";
import type { Taken } from "./reuse.ts";
import type { ApprovalState, RunState, ShownArgs, StepState } from "./run-state.ts";
import { faultText, schemaFaults } from "./schema.ts";

/** What became of a proposed call. `stopped`: a limit was reached, the run is ending. */
export type GateResult = "running" | "waiting" | "denied" | "stopped";

/** A tool call that a program wants to make. */
export interface ToolIntent {
  readonly tool: string;
  /** Parsed arguments, or the text as a model wrote it. */
  readonly args: JsonObject | string;
  readonly call?: string;
  readonly node?: number;
  readonly cause?: number;
  /** Patterns of the tools that may be named, where no program of ours says it. */
  readonly allow?: readonly string[] | null;
  /** What those may make use of. */
  readonly capabilities?: readonly Capability[] | undefined;
  /** What is recorded in place of the arguments, where something was taken out of them. */
  readonly shown?: ShownArgs;
}

/** Where arguments were put away and cannot be opened. */
export const ARGS_LOST =
  "The arguments held a secret and were put away; they are not here any more. Make the call again.";
export const CHANGED = "What was approved has changed since; ask again.";

export const UNDECIDED: Omit<Verdict, "reason"> = {
  effect: "deny",
  rules: [],
  shadow: [],
  approvals_min: 1,
  approval_ttl_ms: 0,
  block_run: false,
  replay_live: false,
};

export function verdictOf(decision: Decision, call: PolicyCall): Verdict {
  const { policy } = decision.ctx;
  if (!policy) return { ...UNDECIDED, reason: "policy_unavailable" };
  try {
    return policy.decide(call);
  } catch (error) {
    return { ...UNDECIDED, reason: `policy_error: ${messageOf(error)}` };
  }
}

export function policyCall(
  run: RunState,
  call: Pick<PolicyCall, "kind" | "name" | "args" | "effect_class" | "idempotent" | "call_micro_usd" | "now_us">,
): PolicyCall {
  const { totals } = run;
  return {
    kind: call.kind,
    name: call.name,
    args: call.args,
    effect_class: call.effect_class,
    idempotent: call.idempotent,
    call_micro_usd: call.call_micro_usd,
    now_us: call.now_us,
    agent: run.target.slice(0, run.target.lastIndexOf("@")),
    env: run.env,
    project: run.project,
    requester: run.requester,
    labels: run.labels,
    run: {
      steps: run.step_count,
      tool_calls: totals.tool_calls,
      model_calls: totals.model_calls,
      tokens: totals.spent_tokens,
      cost_micro_usd: totals.spent_micro + totals.reserved_micro,
    },
  };
}

export function decided(decision: Decision, n: number, verdict: Verdict, reserve: Bound | null, taken?: Taken): void {
  const digest = decision.ctx.policy?.digest ?? "";
  // Nothing happens when an outcome is taken over, so nobody needs to be asked.
  const data: JsonObject = { decision: taken ? "allow" : verdict.effect };
  // The digest stands where it changes; readers carry it on (core/envelope.ts).
  if (digest !== decision.run.policy_digest) data["policy"] = digest;
  if (verdict.effect !== "allow") data["reason"] = verdict.reason;
  if (reserve && reserve.micro > 0) data["reserves"] = reserve.micro;
  if (reserve && reserve.tokens > 0) data["reserves_tokens"] = reserve.tokens;
  data["rules"] = [...verdict.rules];
  if (verdict.shadow.length > 0) data["shadow"] = [...verdict.shadow];
  decision.push({ type: "policy.decided", step: n, data });
}

/** The tool as this run may see it: a released version that its agent lists. */
function resolveTool(
  decision: Decision,
  name: string,
  foreign: Pick<ToolIntent, "allow" | "capabilities"> = {},
): ToolDefinition | string {
  const { program } = decision.run;
  const tool = decision.ctx.catalog.tool(name);
  if (!tool) return "unknown_tool";
  const { allow, capabilities } =
    program?.kind === "agent" ? { allow: program.spec.tools, capabilities: program.spec.capabilities } : foreign;
  if (allow && !matchesAny(allow, tool.name)) return "not_in_allowlist";
  return lacking(tool.requires, capabilities).length > 0 ? "capability_missing" : tool;
}

function unavailable({ ctx }: Decision, { tool }: ToolIntent, reason: string): string {
  const needs = reason === "capability_missing" ? ` (it needs ${ctx.catalog.tool(tool)?.requires?.join(", ")})` : "";
  return `The tool ${tool} is not available: ${reason}${needs}.`;
}

function parsedArgs(args: JsonObject | string): JsonObject | null {
  if (typeof args !== "string") return args;
  try {
    const value: Json = args.trim() === "" ? {} : parseJson(args, LIMITS.json_depth_max);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

/** Takes a tool call through the gate. */
export function gateTool(decision: Decision, intent: ToolIntent): GateResult {
  const { run } = decision;
  const tool = resolveTool(decision, intent.tool, intent);
  const args = overriddenArgs(run, intent.tool, parsedArgs(intent.args));
  const n = run.step_count + 1;
  const open = (): void => propose(decision, intent, args, tool);
  if (typeof tool === "string") return deny(decision, n, open, tool, unavailable(decision, intent, tool));
  const doubted = run.program === null ? inDoubt(run, tool, args ?? {}, intent.shown) : null;
  if (doubted)
    return deny(
      decision,
      n,
      open,
      "in_doubt",
      `The same call is step ${doubted.n} of run ${run.run_id}, and nobody knows whether it took effect. A person has to resolve it first.`,
    );
  const call = toolCall(decision, tool, args ?? {});
  const verdict = verdictOf(decision, call);
  if (verdict.effect === "deny") return denyByPolicy(decision, n, open, verdict, tool.name);
  const faults = args === null ? "/ is no JSON object" : faultText(schemaFaults(tool.input_schema, args));
  if (faults !== "")
    return deny(decision, n, open, "invalid_arguments", `Invalid arguments for ${tool.name}: ${faults}`);
  if (run.lineage) {
    const path = intent.node === undefined ? "" : pathOf(run, intent.node);
    const reuse = reuseOf(decision, toolRequest(`${tool.name}@${tool.version}`, path, args ?? {}), { tool, verdict });
    if (reuse.how === "stop") return stopReplay(decision, n, reuse);
    if (reuse.how === "take") {
      decided(decision, n, verdict, null, reuse);
      request(decision, n, tool, intent, args ?? {}, reuse);
      takeOver(decision, n, reuse);
      return "running";
    }
  }
  return makeCall(decision, { n, open, intent, tool, args: args ?? {} }, permitsLive(run, tool, verdict));
}

/** A step in doubt that is this very call. Our own programs wait for it; an agent of others would make it once more. */
function inDoubt(run: RunState, tool: ToolDefinition, args: JsonObject, shown?: ShownArgs): StepState | null {
  const asked = canonicalJson(args);
  for (const step of run.steps.values()) {
    if (step.status !== "in_doubt" || step.target.slice(0, step.target.lastIndexOf("@")) !== tool.name) continue;
    if (step.shown ? step.shown.signature === shown?.signature : canonicalJson(step.args) === asked) return step;
  }
  return null;
}

/** The call will be made: it must be paid for, and somebody may have to be asked. */
function makeCall(
  decision: Decision,
  call: { n: number; open: () => void; intent: ToolIntent; tool: ToolDefinition; args: JsonObject },
  verdict: Verdict,
): GateResult {
  const { n, open, intent, tool, args } = call;
  const { run } = decision;
  if (verdict.effect === "deny") return denyByPolicy(decision, n, open, verdict, tool.name);
  const bound = { micro: tool.cost_micro_usd, tokens: 0 };
  const refusal = overBudget(decision, "tool", bound);
  if (refusal) return refuse(decision, n, open, refusal);
  if (verdict.effect === "require_approval") {
    open();
    decided(decision, n, verdict, null);
    askApproval(decision, n, verdict, { definition: tool.digest, args: boundArgs(intent.shown, args) });
    opened(run, n, intent, args);
    return "waiting";
  }
  decided(decision, n, verdict, bound);
  request(decision, n, tool, intent, args);
  opened(run, n, intent, args);
  return "running";
}

/** The call is made with what was asked for, not with what is recorded of it. */
function opened(run: RunState, n: number, intent: ToolIntent, args: JsonObject): void {
  const step = run.steps.get(n);
  if (!intent.shown || !step) return;
  step.args = args;
  step.args_boxed = false;
}

/** What is recorded of a call's arguments. */
function recordedArgs(shown: ShownArgs | null | undefined, args: JsonObject): { args: JsonObject } {
  return shown ? { ...shown } : { args };
}

/** What an approval of them is bound to: all of what was recorded, where that is not the arguments themselves. */
function boundArgs(shown: ShownArgs | null | undefined, args: JsonObject): JsonObject {
  return shown ? { ...shown } : args;
}

/** A fork may replace arguments of a tool (how many documents a retriever gives, say). */
function overriddenArgs(run: RunState, tool: string, args: JsonObject | null): JsonObject | null {
  const given = run.lineage?.overrides.arguments?.[tool];
  return given && args ? { ...args, ...(given as JsonObject) } : args;
}

function toolCall(decision: Decision, tool: ToolDefinition, args: JsonObject): PolicyCall {
  return policyCall(decision.run, {
    kind: "tool",
    name: tool.name,
    args,
    effect_class: tool.effect_class,
    idempotent: tool.idempotent,
    call_micro_usd: tool.cost_micro_usd,
    now_us: decision.ctx.now_us,
  });
}

function propose(decision: Decision, intent: ToolIntent, args: JsonObject | null, tool: ToolDefinition | string): void {
  const data: JsonObject = recordedArgs(intent.shown, args ?? {});
  if (args === null) data["arguments"] = String(intent.args);
  if (intent.node !== undefined) data["node"] = intent.node;
  data["tool"] = typeof tool === "string" ? intent.tool : `${tool.name}@${tool.version}`;
  decision.push(withCall({ type: "tool.proposed", step: decision.run.step_count + 1, data }, intent));
}

function withCall(event: EventDraft, intent: ToolIntent): EventDraft {
  return {
    ...event,
    ...(intent.call === undefined ? {} : { call: intent.call }),
    ...(intent.cause === undefined ? {} : { cause: intent.cause }),
  };
}

function request(
  decision: Decision,
  n: number,
  tool: ToolDefinition,
  intent: ToolIntent,
  args: JsonObject,
  taken?: Taken,
): void {
  const data: JsonObject = recordedArgs(intent.shown, args);
  if (taken) data["determinism"] = { ...taken.determinism };
  if (intent.node !== undefined) data["node"] = intent.node;
  data["tool"] = `${tool.name}@${tool.version}`;
  decision.push(withCall({ type: "tool.requested", step: n, data }, intent));
}

function deny(decision: Decision, n: number, open: () => void, reason: string, message: string): GateResult {
  open();
  decided(decision, n, { ...UNDECIDED, reason }, null);
  decision.push({ type: "tool.denied", step: n, data: { message, reason } });
  return "denied";
}

function denyByPolicy(decision: Decision, n: number, open: () => void, verdict: Verdict, tool: string): GateResult {
  open();
  decided(decision, n, verdict, null);
  const reason = verdict.reason;
  decision.push({ type: "tool.denied", step: n, data: { message: `Denied by policy: ${reason}`, reason } });
  const { program } = decision.run;
  const blocks = verdict.block_run || (program?.kind === "agent" && program.spec.on_denied === "block");
  if (!blocks) return "denied";
  decision.stop("policy_blocked", reason, `${tool} was denied: ${reason}`, LIMITS.stop_grace_ms * 1000);
  return "stopped";
}

interface Refusal {
  readonly budget: string;
  readonly action: SharedRefusal["action"];
}

export function overBudget(decision: Decision, kind: "tool" | "model", bound: Bound): Refusal | null {
  const { run, ctx } = decision;
  const limit = runLimitPassed(run, kind, bound, ctx.now_us);
  if (limit) return { budget: `run.${limit}`, action: "stop" };
  try {
    const refusal = ctx.ledger.check(run, bound, ctx.now_us);
    return refusal?.action === "warn" ? null : refusal;
  } catch (error) {
    if (error instanceof SliceShort) throw error;
    return { budget: "unavailable", action: "deny" };
  }
}

export function refuse(decision: Decision, n: number, open: (() => void) | null, refusal: Refusal): GateResult {
  const message = `The budget ${refusal.budget} does not cover this call.`;
  if (open) {
    open();
    decided(decision, n, { ...UNDECIDED, reason: "budget_exceeded" }, null);
    decision.push({ type: "tool.denied", step: n, data: { message, reason: "budget_exceeded" } });
  }
  decision.push({ type: "budget.exceeded", data: { budget: refusal.budget } });
  // A foreign agent's run is not ours to end: it is told, call by call.
  if ((open && refusal.action === "deny") || decision.run.program === null) return "denied";
  decision.stop("budget_exceeded", refusal.budget, message, LIMITS.stop_grace_ms * 1000);
  return "stopped";
}

/** What an approval is bound to: change any of it and the approval is void. */
export function approvalBinding(options: {
  run_id: string;
  step: number;
  decision_seq: number;
  definition: string;
  args: JsonObject;
  expires_us: number;
}): string {
  return digestOf(canonicalJson({ ...options }));
}

/** Asks for approval of the call of step `n`; `definition` is the digest of what will be called. */
export function askApproval(
  decision: Decision,
  n: number,
  verdict: Verdict,
  call: { definition: string; args: JsonObject },
): void {
  const { definition, args } = call;
  const expires_us = decision.ctx.now_us + verdict.approval_ttl_ms * 1000;
  const binding = approvalBinding({
    run_id: decision.run.run_id,
    step: n,
    decision_seq: decision.run.seq,
    definition,
    args,
    expires_us,
  });
  decision.push({
    type: "human.approval_requested",
    step: n,
    data: {
      approvals_min: verdict.approvals_min,
      binding,
      decision: decision.run.seq,
      definition,
      expires: expires_us,
      number: decision.run.approval_count + 1,
      reason: verdict.reason,
    },
  });
}

/** True while a call would be made with the very bytes that were approved. */
export function isApproved(
  decision: Decision,
  step: StepState,
  asked: ApprovalState,
  call: { definition: string; args: JsonObject },
): boolean {
  const { run_id } = decision.run;
  const { decision_seq } = step;
  const binding = approvalBinding({ run_id, step: step.n, decision_seq, ...call, expires_us: asked.expires_us });
  return binding === asked.binding;
}

/** Runs an approved call: the bytes must still be those that were shown, the policy decides again, a deny wins. */
export function gateApproved(decision: Decision, step: StepState, asked: ApprovalState): GateResult {
  const name = step.target.slice(0, step.target.lastIndexOf("@"));
  const tool = resolveTool(decision, name);
  const refuseWith = (reason: string, message: string): GateResult => {
    decided(decision, step.n, { ...UNDECIDED, reason }, null);
    decision.push({ type: "tool.denied", step: step.n, data: { message, reason } });
    return "denied";
  };
  if (typeof tool === "string") return refuseWith(tool, `The tool ${name} is not available any more.`);
  if (!isApproved(decision, step, asked, { definition: tool.digest, args: boundArgs(step.shown, step.args) }))
    return refuseWith("approval_void", CHANGED);
  // Nobody could say what the policy would be asked about.
  if (step.args_boxed) return refuseWith("args_lost", ARGS_LOST);
  const verdict = verdictOf(decision, toolCall(decision, tool, step.args));
  if (verdict.effect === "deny") return refuseWith(verdict.reason, `Denied by policy: ${verdict.reason}`);
  const bound = { micro: tool.cost_micro_usd, tokens: 0 };
  const over = overBudget(decision, "tool", bound);
  if (over) {
    refuseWith("budget_exceeded", `The budget ${over.budget} does not cover this call.`);
    return refuse(decision, step.n, null, over);
  }
  decided(decision, step.n, { ...verdict, effect: "allow", reason: "approved" }, bound);
  decision.push({
    type: "tool.requested",
    step: step.n,
    ...(step.call === undefined ? {} : { call: step.call }),
    data: { approved: asked.binding, ...recordedArgs(step.shown, step.args), tool: `${tool.name}@${tool.version}` },
  });
  return "running";
}

/** Takes another attempt of an open step through the gate: policy and budget may have changed since the last one. */
export function gateAgain(
  decision: Decision,
  step: StepState,
  bound: Bound,
  effect: ToolDefinition | null,
): GateResult {
  const name = step.target.slice(0, step.target.lastIndexOf("@"));
  const call = policyCall(decision.run, {
    kind: step.kind === "tool" ? "tool" : "model",
    name,
    args: step.args,
    effect_class: effect?.effect_class ?? "external",
    idempotent: effect?.idempotent ?? true,
    call_micro_usd: bound.micro,
    now_us: decision.ctx.now_us,
  });
  const verdict = verdictOf(decision, call);
  // A granted approval covers retries of the same bytes; a deny does not care for it.
  const allowed = verdict.effect === "allow" || (verdict.effect === "require_approval" && step.granted !== null);
  if (!allowed) {
    decided(decision, step.n, { ...verdict, effect: "deny" }, null);
    decision.push({
      type: "step.ended",
      step: step.n,
      data: { code: verdict.reason, message: "Denied by policy at a retry." },
    });
    return "denied";
  }
  const over = overBudget(decision, step.kind === "tool" ? "tool" : "model", bound);
  if (over) {
    const data = { code: "budget_exceeded", message: `The budget ${over.budget} does not cover a retry.` };
    if (decision.run.program === null) decision.push({ type: "step.ended", step: step.n, data });
    return refuse(decision, step.n, null, { ...over, action: "stop" });
  }
  decided(decision, step.n, { ...verdict, effect: "allow" }, bound);
  const kind = step.kind === "tool" ? "tool" : "model";
  decision.push({
    type: `${kind}.requested`,
    step: step.n,
    attempt: step.attempt + 1,
    ...(step.call === undefined ? {} : { call: step.call }),
    data:
      kind === "tool"
        ? { ...recordedArgs(step.shown, step.args), tool: step.target }
        : { max_output_tokens: step.max_output_tokens, model: step.target },
  });
  return "running";
}
