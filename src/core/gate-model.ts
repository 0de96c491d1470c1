// The gate of model calls: registry -> policy -> recording (in a replay) -> budget -> approval. Without its model an agent
// has no way on, so a denied call ends its run as policy_blocked; a workflow's node fails, and its `on_error` says what then.
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { JsonObject } from "../kit/json.ts";
import type { ModelRoute } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Bound } from "./budget.ts";
import type { Decision } from "./decide-context.ts";
import {
  askApproval,
  CHANGED,
  decided,
  isApproved,
  overBudget,
  policyCall,
  refuse,
  UNDECIDED,
  verdictOf,
} from "./gate.ts";
import type { GateResult } from "./gate.ts";
import { modelMessages } from "./model-input.ts";
import { modelRequest, pathOf, signatureOf } from "./past-calls.ts";
import type { CallRequest } from "./past-calls.ts";
import type { PolicyCall, Verdict } from "./policy.ts";
import { nextRoute, outsidePrivacy } from "./routing.ts";
import { reuseOf, stopReplay, takeOver } from "./reuse.ts";
import type { ApprovalState, RunState, StepState } from "./run-state.ts";

/** A model call that a program wants to make. */
export interface ModelIntent {
  readonly route: ModelRoute;
  readonly input_tokens: number;
  readonly max_output_tokens: number;
  readonly bound: Bound | null;
  readonly node?: number;
}

/** How a model call looks to policies. */
export function modelPolicyCall(decision: Decision, route: ModelRoute, bound: Bound): PolicyCall {
  return policyCall(decision.run, {
    kind: "model",
    name: route.name,
    args: {},
    effect_class: "external",
    idempotent: true,
    call_micro_usd: bound.micro,
    now_us: decision.ctx.now_us,
  });
}

/** What would be called: another model, or the same one somewhere else, is not what was approved. */
export function definitionOf({ name, version, provider, model, base_url }: ModelRoute): string {
  return digestOf(canonicalJson({ base_url, model, name, provider, version }));
}

export function gateModel(decision: Decision, intent: ModelIntent): GateResult {
  const n = decision.run.step_count + 1;
  const { route } = intent;
  const verdict = modelVerdict(decision, route, intent.bound);
  if (verdict.effect === "deny" || !intent.bound) return blocked(decision, route, verdict);
  // Made only where it is needed: it holds the whole conversation.
  const request = () => requestOfModel(decision.run, decision, intent);
  const reuse = decision.run.lineage ? reuseOf(decision, request(), { tool: null, verdict }) : null;
  if (reuse?.how === "stop") return stopReplay(decision, n, reuse);
  const taken = reuse?.how === "take" ? reuse : undefined;
  if (!taken) {
    const over = overBudget(decision, "model", intent.bound);
    if (over) return refuse(decision, n, null, { ...over, action: "stop" });
    if (verdict.effect === "require_approval") return propose(decision, n, intent, request(), verdict);
  }
  decided(decision, n, verdict, taken ? null : intent.bound, taken);
  const data: JsonObject = taken ? { determinism: { ...taken.determinism } } : {};
  data["max_output_tokens"] = intent.max_output_tokens;
  data["model"] = `${route.name}@${route.version}`;
  if (intent.node !== undefined) data["node"] = intent.node;
  decision.push({ type: "model.requested", step: n, data });
  if (taken) takeOver(decision, n, taken);
  return "running";
}

/** `denied`: the run has another model to ask. */
function blocked(decision: Decision, route: ModelRoute, verdict: Verdict): "stopped" | "denied" {
  decided(decision, decision.run.step_count + 1, verdict, null);
  if (nextRoute(decision, route.name, verdict.reason)) return "denied";
  stopBlocked(decision, verdict.reason, `The model ${route.name} was denied: ${verdict.reason}`);
  return "stopped";
}

function stopBlocked(decision: Decision, reason: string, message: string): void {
  decision.stop("policy_blocked", reason, message, LIMITS.stop_grace_ms * 1000);
}

function requestOfModel(
  run: RunState,
  { ctx }: Decision,
  call: { route: ModelRoute; max_output_tokens: number; node?: number },
): CallRequest {
  const { route, node, max_output_tokens } = call;
  const spec = run.program?.kind === "agent" ? run.program.spec : null;
  return modelRequest({
    target: `${route.name}@${route.version}`,
    path: node === undefined ? "" : pathOf(run, node),
    messages: modelMessages(run, node ?? -1),
    tools: spec ? ctx.catalog.toolsMatching(spec.tools, spec.capabilities) : [],
    max_output_tokens,
    params: { ...spec?.params },
  });
}

const SHOWN_CHARS = 2_000;

/** What an approver is shown of a conversation: its digest, how long it is, and the last word in it. */
function shownOf(run: RunState, slot: number, request: CallRequest, max_output_tokens: number): JsonObject {
  const messages = modelMessages(run, slot);
  const last = messages.at(-1);
  const said = typeof last?.content === "string" ? last.content : JSON.stringify(last?.content ?? null);
  return {
    last: { content: said.slice(0, SHOWN_CHARS), role: last?.role ?? "" },
    max_output_tokens,
    messages: messages.length,
    request: signatureOf(request),
  };
}

function propose(
  decision: Decision,
  n: number,
  intent: ModelIntent,
  request: CallRequest,
  verdict: Verdict,
): "waiting" {
  const { route, max_output_tokens, node } = intent;
  const args = shownOf(decision.run, node ?? -1, request, max_output_tokens);
  const data: JsonObject = { args, max_output_tokens, model: `${route.name}@${route.version}` };
  if (node !== undefined) data["node"] = node;
  decision.push({ type: "model.proposed", step: n, data });
  decided(decision, n, verdict, null);
  askApproval(decision, n, verdict, { definition: definitionOf(route), args });
  return "waiting";
}

/**
 * Makes an approved call of our own programs: what would be said must still be what was approved, the policy decides again, a
 * deny wins. `bound` is the worst case as of now; null without a price.
 */
export function gateApprovedModel(
  decision: Decision,
  step: StepState,
  asked: ApprovalState,
  call: { route: ModelRoute; bound: Bound | null },
): GateResult {
  const { route, bound } = call;
  const { max_output_tokens } = step;
  const node = decision.run.program?.kind === "workflow" ? { node: step.slot } : {};
  const request = requestOfModel(decision.run, decision, { route, max_output_tokens, ...node });
  const args = shownOf(decision.run, step.slot, request, max_output_tokens);
  if (!isApproved(decision, step, asked, { definition: definitionOf(route), args }))
    return refuseModel(decision, step, { ...UNDECIDED, reason: "approval_void" }, CHANGED);
  const verdict = modelVerdict(decision, route, bound);
  if (verdict.effect === "deny" || !bound) return refuseModel(decision, step, verdict);
  const over = overBudget(decision, "model", bound);
  if (over) return refuse(decision, step.n, null, { ...over, action: "stop" });
  decided(decision, step.n, { ...verdict, effect: "allow", reason: "approved" }, bound);
  const data: JsonObject = { approved: asked.binding, max_output_tokens, model: step.target };
  decision.push({ type: "model.requested", step: step.n, data });
  return "running";
}

/** What the policy says of a model call. Before it is asked: what the task minds, and whether there is a price. */
export function modelVerdict(decision: Decision, route: ModelRoute, bound: Bound | null): Verdict {
  const outside = outsidePrivacy(decision.run, route);
  if (outside !== null) return { ...UNDECIDED, reason: outside };
  if (!bound) return { ...UNDECIDED, reason: "no_price" };
  return verdictOf(decision, modelPolicyCall(decision, route, bound));
}

/** Refuses a call that waits: decided and denied, and the run goes on as far as it can. */
function refuseModel(decision: Decision, step: StepState, verdict: Verdict, message?: string): "denied" {
  decided(decision, step.n, { ...verdict, effect: "deny" }, null);
  denyModel(decision, step, verdict.reason, message ?? `Denied by policy: ${verdict.reason}`);
  return "denied";
}

/** Ends a proposed model call without making it. */
export function denyModel(decision: Decision, step: StepState, reason: string, message: string): void {
  const call = step.call === undefined ? {} : { call: step.call };
  decision.push({ type: "model.denied", step: step.n, ...call, data: { message, model: step.target, reason } });
  if (decision.run.program?.kind === "agent") stopBlocked(decision, reason, message);
}
