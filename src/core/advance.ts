// What a run does next of its own accord: start every call that is ready, or wait for something named, or end.
import type { Json, JsonObject } from "../kit/json.ts";
import { parseJson } from "../kit/json.ts";
import type { WaitReason } from "../contract/events.ts";
import type { ModelRoute, ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { isTerminal } from "../contract/events.ts";
import { messageOf } from "../contract/errors.ts";
import { lastAnswer } from "./agent-fold.ts";
import { inputTokensBound, modelBound } from "./budget.ts";
import type { Bound } from "./budget.ts";
import { hasRunning } from "./decide-context.ts";
import type { Decision } from "./decide-context.ts";
import { idleEnd } from "./foreign.ts";
import { gateTool } from "./gate.ts";
import { gateModel } from "./gate-model.ts";
import { modelMessages, scopeOf } from "./model-input.ts";
import { routedModel } from "./routing.ts";
import { takeOpenCalls, takeRecordedInput } from "./reuse.ts";
import { awaitsInput, isClaimable } from "./run-state.ts";
import type { AgentState, RunState, WorkflowState } from "./run-state.ts";
import { faultText, schemaFaults } from "./schema.ts";
import { resolveTemplate } from "./template.ts";

/** Tools a model call may name. */
export function modelTools({ program }: RunState, { ctx }: Pick<Decision, "ctx">): readonly ToolDefinition[] {
  if (program?.kind !== "agent") return [];
  return ctx.catalog.toolsMatching(program.spec.tools, program.spec.capabilities);
}

/** Worst case of a model call; null when the model has no price. */
export function modelCallBound(
  decision: Decision,
  route: ModelRoute,
  slot: number,
  output_tokens: number,
): { input: number; bound: Bound | null } {
  const tools = modelTools(decision.run, decision);
  let extra = 64;
  for (const tool of tools)
    extra += Buffer.byteLength(tool.name + tool.description + JSON.stringify(tool.input_schema)) + 64;
  const input = inputTokensBound(modelMessages(decision.run, slot), extra);
  const price = decision.ctx.catalog.price(route.model, decision.ctx.now_us);
  return { input, bound: price ? modelBound(price, input, output_tokens) : null };
}

export function advance(decision: Decision): void {
  const { run } = decision;
  run.more = false;
  if (isTerminal(run.state)) return;
  if (run.stopping) return finishStopping(decision);
  if (run.paused) return;
  if (run.lineage) takeOpenCalls(decision);
  if (run.program?.kind === "workflow") advanceWorkflow(decision, run.program);
  else if (run.program?.kind === "agent") advanceConversation(decision, run.program);
  if (isTerminal(run.state) || run.stopping || run.more) return;
  settleWaiting(decision);
}

/** Recorded outcomes need no waiting: the run goes on at once, up to what one append may hold. */
function advanceConversation(decision: Decision, agent: AgentState): void {
  const { run } = decision;
  for (;;) {
    const before = decision.reused;
    advanceAgent(decision, agent);
    if (!isTerminal(run.state) && !run.stopping && awaitsInput(run)) takeRecordedInput(decision);
    if (decision.reused === before || isTerminal(run.state) || run.stopping) return;
    if (decision.reused < LIMITS.reuse_per_append_max) continue;
    run.more = true;
    return;
  }
}

function finishStopping(decision: Decision): void {
  const { run } = decision;
  const stopping = run.stopping;
  if (!stopping || hasRunning(run)) return;
  decision.terminal(stopping.to, stopping.code, stopping.message);
}

const WAITS: readonly (readonly [string, WaitReason])[] = [
  ["in_doubt", "in_doubt"],
  ["approval", "approval"],
  ["retry", "timer"],
  ["sleeping", "timer"],
];

/** Keeps `waiting` and `running` true to what is open. */
function settleWaiting(decision: Decision): void {
  const { run } = decision;
  let reason: WaitReason | null = null;
  if (run.steps.size === 0) reason = awaitsInput(run) ? "input" : null;
  else {
    if (!hasRunning(run)) {
      const statuses = new Set([...run.steps.values()].map((step) => step.status as string));
      reason = WAITS.find(([status]) => statuses.has(status))?.[1] ?? null;
    }
  }
  if (reason === null && run.state === "waiting") decision.push({ type: "run.running", data: {} });
  if (reason !== null && (run.state !== "waiting" || run.reason !== reason)) {
    decision.push({ type: "run.waiting", data: { reason } });
  }
}

function advanceWorkflow(decision: Decision, workflow: WorkflowState): void {
  while (workflow.ready.length > 0 && workflow.failure === null) {
    if (decision.reused >= LIMITS.reuse_per_append_max) {
      decision.run.more = true;
      return;
    }
    const node = workflow.ready[0] as number;
    startNode(decision, workflow, node);
    if (decision.run.stopping || isTerminal(decision.run.state)) return;
  }
  if (workflow.failure) {
    // Branches in flight settle before the run ends.
    const { node, code, message } = workflow.failure;
    if (workflow.open === 0) decision.push({ type: "run.failed", data: { code, message: `${node}: ${message}` } });
    else if (
      ![...decision.run.steps.values()].some((step) => step.status === "running" || step.status === "in_doubt")
    ) {
      decision.push({ type: "run.failed", data: { code, message: `${node}: ${message}` } });
    }
    return;
  }
  if (workflow.finished < workflow.spec.nodes.length) return;
  decision.push({ type: "run.succeeded", data: { output: workflowOutput(decision.run, workflow) } });
}

function workflowOutput(run: RunState, workflow: WorkflowState): Json {
  if (workflow.spec.output) {
    try {
      return resolveTemplate(workflow.spec.output, scopeOf(run, workflow));
    } catch (error) {
      return { error: messageOf(error) };
    }
  }
  return workflow.outputs.at(-1) ?? null;
}

function startNode(decision: Decision, workflow: WorkflowState, index: number): void {
  const { run, ctx } = decision;
  const node = workflow.spec.nodes[index];
  if (!node) return;
  if (run.step_count >= LIMITS.steps_per_run_max) {
    return decision.stop("failed", "too_many_steps", `More than ${LIMITS.steps_per_run_max} steps.`, 0);
  }
  if (node.kind === "wait") {
    const due = ctx.now_us + (node.delay_ms ?? 0) * 1000;
    decision.push({ type: "timer.set", step: run.step_count + 1, data: { due, node: index, timer: node.id } });
    return;
  }
  if (node.kind === "model") return startModelNode(decision, workflow, index);
  let args: JsonObject;
  try {
    args = resolveTemplate(node.args ?? {}, scopeOf(run, workflow)) as JsonObject;
  } catch (error) {
    const n = run.step_count + 1;
    decision.push({ type: "tool.proposed", step: n, data: { args: {}, node: index, tool: node.tool ?? "" } });
    decision.push({ type: "step.ended", step: n, data: { code: "unresolved_reference", message: messageOf(error) } });
    return;
  }
  gateTool(decision, { tool: node.tool ?? "", args, node: index });
}

function startModelNode(decision: Decision, workflow: WorkflowState, index: number): void {
  const node = workflow.spec.nodes[index];
  const route = decision.ctx.catalog.model(node?.model ?? "");
  if (!route) return decision.stop("failed", "unknown_model", `There is no model ${node?.model}.`, 0);
  const max_output_tokens = node?.max_output_tokens ?? LIMITS.max_output_tokens_default;
  const { input, bound } = modelCallBound(decision, route, index, max_output_tokens);
  gateModel(decision, { route, input_tokens: input, max_output_tokens, bound, node: index });
}

function advanceAgent(decision: Decision, agent: AgentState): void {
  const { run } = decision;
  for (const call of agent.calls.slice(agent.next_slot)) {
    const result = gateTool(decision, { tool: call.name, args: call.arguments, call: call.id });
    if (result === "stopped") return;
    // When the last call of a turn is denied the turn is over, and `calls` has been emptied by the fold.
  }
  if (run.steps.size > 0 || agent.calls.length > 0) return;
  if (agent.ended_by_tool) {
    decision.push({ type: "run.succeeded", data: { output: lastAnswer(agent) } });
    return;
  }
  if (agent.answer !== null) return judgeAnswer(decision, agent, agent.answer);
  if (agent.turns >= agent.spec.turns_max) {
    return decision.terminal("failed", "too_many_turns", `No answer after ${agent.turns} model calls.`);
  }
  const model = routedModel(run) ?? agent.spec.model;
  const route = decision.ctx.catalog.model(model);
  if (!route) return decision.terminal("failed", "unknown_model", `There is no model ${model}.`);
  const max_output_tokens = agent.spec.max_output_tokens;
  const { input, bound } = modelCallBound(decision, route, -1, max_output_tokens);
  const result = gateModel(decision, { route, input_tokens: input, max_output_tokens, bound });
  // A task goes on with the next of its models.
  if (result === "denied") advanceAgent(decision, agent);
}

/** The model answered without calling tools: done, or not in the asked form, or the next word is the user's. */
function judgeAnswer(decision: Decision, agent: AgentState, answer: string): void {
  const { spec } = agent;
  if (spec.output_schema) {
    const judged = structured(answer, spec.output_schema);
    const pass = judged.errors === "";
    decision.push({ type: "validation.decided", data: { errors: judged.errors, pass, validator: "output_schema" } });
    if (pass) {
      decision.push({ type: "run.succeeded", data: { output: judged.value } });
    } else if (agent.output_retries > LIMITS.structured_output_retries) {
      decision.terminal("failed", "output_invalid", `The answer does not fit its schema: ${judged.errors}`);
    } else advanceAgent(decision, agent);
    return;
  }
  if (spec.mode === "chat") return;
  decision.push({ type: "run.succeeded", data: { output: answer } });
}

function structured(answer: string, schema: JsonObject): { value: Json; errors: string } {
  try {
    const value = parseJson(answer.replace(/^\s*```(?:json)?\s*|\s*```\s*$/g, ""), LIMITS.json_depth_max);
    return { value, errors: faultText(schemaFaults(schema, value)) };
  } catch (error) {
    return { value: null, errors: `it is no JSON: ${messageOf(error)}` };
  }
}

/** When the run next needs attention by itself: a retry, a wait, an expiry, a deadline, the end of a grace. 0 = never. */
export function nextDue(run: RunState): number {
  if (isTerminal(run.state)) return 0;
  // While it stops, only the end of the grace matters: nothing else is started any more.
  if (run.stopping) return run.stopping.until_us;
  if (run.more) return 1;
  let due = idleEnd(run) || run.deadline_us;
  const earlier = (at: number) => {
    if (at > 0 && (due === 0 || at < due)) due = at;
  };
  for (const step of run.steps.values()) {
    if (!run.paused) earlier(step.due_us);
    if (step.approval) earlier(step.approval.expires_us);
    else if (isClaimable(step)) earlier(step.granted?.expires_us ?? 0);
  }
  return due;
}
