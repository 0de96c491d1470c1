// fold: (state, event) -> state, in place. The same code runs when an event is decided and when a journal is read
// again after a crash, so a recovered run cannot differ from the one that died. Never fails on its own events.
import { assert, present } from "../kit/assert.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Catalog, RunBudget } from "../contract/catalog.ts";
import { isTerminal } from "../contract/events.ts";
import type { EventDraft, RunKind, TerminalState } from "../contract/events.ts";
import { PRIORITY_DEFAULT } from "../contract/jobs.ts";
import type { ArtifactRef, ToolCall } from "../contract/jobs.ts";
import type { Routing, RoutingState } from "../contract/tasks.ts";
import type { Lineage } from "../contract/replay.ts";
import { begunAgain } from "./fork-fold.ts";
import { foldGap, foldObserved, noteOrigin } from "./observed.ts";
import type { AgentState, RunState, ShownArgs, StepState, WorkflowState } from "./run-state.ts";
import * as agent from "./agent-fold.ts";
import * as workflow from "./workflow-fold.ts";

type Data = Record<string, Json | undefined>;

/** Events that say what state the run is in. */
function isState(type: string): boolean {
  return type.startsWith("run.") && !["run.input", "run.output", "run.sealed"].includes(type);
}

const num = (data: Data, key: string): number => (typeof data[key] === "number" ? data[key] : 0);
const str = (data: Data, key: string): string => (typeof data[key] === "string" ? data[key] : "");
const obj = (data: Data, key: string): JsonObject => (data[key] ?? {}) as JsonObject;

/** Applies one event. `at_us` is when it is recorded. */
export function fold(run: RunState, event: EventDraft, at_us: number, catalog: Catalog): void {
  const data: Data = event.data;
  run.seq += 1;
  // What is said of a run that has ended does not make it end later.
  if (!isTerminal(run.state)) run.updated_us = at_us;
  if (event.origin) {
    noteOrigin(run, event.origin);
    if (!isState(event.type)) return foldObserved(run, event);
  }
  switch (event.type) {
    case "run.started":
      return started(run, data, at_us, catalog);
    case "policy.decided":
      if (typeof data["policy"] === "string") run.policy_digest = data["policy"];
      if (data["decision"] === "allow") {
        run.grant = { step: event.step ?? 0, micro: num(data, "reserves"), tokens: num(data, "reserves_tokens") };
      }
      return;
    case "tool.proposed":
    case "model.proposed":
      openStep(run, event, "proposed", at_us);
      return;
    case "tool.requested":
    case "model.requested":
      return requested(run, event, at_us);
    case "tool.completed":
    case "model.completed":
      return completed(run, event);
    case "tool.failed":
    case "model.failed":
      return failed(run, event);
    case "tool.denied":
      return denied(run, event);
    case "model.denied":
      // Where nothing was opened a foreign agent asked, and was told no.
      run.step_count = Math.max(run.step_count, event.step ?? 0);
      if (run.steps.has(event.step ?? 0)) denied(run, event);
      return;
    default:
      return foldControl(run, event, data, at_us);
  }
}

function inDoubt(step: StepState, data: Data): void {
  step.status = "in_doubt";
  step.doubt = typeof data["reason"] === "string" ? data["reason"] : "";
}

function foldControl(run: RunState, event: EventDraft, data: Data, at_us: number): void {
  switch (event.type) {
    case "human.approval_requested":
      return approvalRequested(run, event, data);
    case "human.approval_resolved":
      return approvalResolved(run, event, data);
    case "step.in_doubt":
      inDoubt(open(run, event), data);
      return;
    case "step.resolved":
      return resolved(run, event, data);
    case "step.retry_scheduled": {
      const step = open(run, event);
      step.status = "retry";
      step.due_us = num(data, "due");
      return;
    }
    case "timer.set":
      openStep(run, event, "sleeping", at_us).due_us = num(data, "due");
      return;
    case "timer.fired":
      return fired(run, close(run, event));
    case "step.ended":
      return ended(run, event, data);
    case "human.input":
      if (run.program?.kind === "agent") agent.input(run.program, data["content"] ?? "");
      return;
    case "validation.decided":
      if (run.program?.kind === "agent" && data["pass"] === false)
        agent.invalidAnswer(run.program, str(data, "errors"));
      return;
    case "routing.decided":
      if (run.routing) run.routing = { ...run.routing, ...routed(data) };
      return;
    case "run.sealed":
      run.sealed = true;
      return;
    case "journal.gap":
      return foldGap(run, event.data);
    case "journal.late":
      run.abandoned.delete(`${event.step ?? 0}/${num(data, "attempt")}`);
      return;
    default:
      return foldState(run, event, data, at_us);
  }
}

function routed(data: Data): Pick<RoutingState, "at" | "chosen_by" | "reason"> {
  const chosen_by = str(data, "chosen_by") as RoutingState["chosen_by"];
  return { at: num(data, "at"), chosen_by, reason: str(data, "reason") };
}

function foldState(run: RunState, event: EventDraft, data: Data, at_us: number): void {
  if (!isState(event.type)) return;
  const name = event.type.slice("run.".length);
  if (name === "stopping") {
    const to = str(data, "to") as TerminalState;
    run.stopping = { to, code: str(data, "code"), message: str(data, "message"), until_us: num(data, "until") };
    return;
  }
  if (name === "waiting") {
    run.state = "waiting";
    run.reason = str(data, "reason");
    if (run.reason === "paused") run.paused = true;
    pauseClock(run, at_us);
    return;
  }
  if (name === "running") {
    run.state = "running";
    run.reason = null;
    run.paused = false;
    if (run.active_since_us === 0) run.active_since_us = at_us;
    return;
  }
  run.state = name as TerminalState;
  run.reason = typeof data["code"] === "string" ? data["code"] : null;
  run.output = data["output"] ?? (run.observed ? run.output : null);
  run.stopping = null;
  endSteps(run);
  pauseClock(run, at_us);
}

/** At the end nothing stays reserved. What is in doubt may have happened, so it is paid. */
function endSteps(run: RunState): void {
  for (const step of run.steps.values()) {
    settle(run, step, step.status === "in_doubt" ? { cost_micro_usd: step.reserved_micro } : {});
  }
  run.steps.clear();
}

function pauseClock(run: RunState, at_us: number): void {
  if (run.active_since_us > 0) run.active_us += at_us - run.active_since_us;
  run.active_since_us = 0;
}

function started(run: RunState, data: Data, at_us: number, catalog: Catalog): void {
  assert(run.seq === 1, "run.started is the first event of a run", { run_id: run.run_id, seq: run.seq });
  run.project = str(data, "project");
  run.env = str(data, "env");
  run.kind = str(data, "kind") as RunKind;
  run.requester = str(data, "requester");
  run.priority = typeof data["priority"] === "number" ? data["priority"] : PRIORITY_DEFAULT;
  run.retry_of = typeof data["retry_of"] === "string" ? data["retry_of"] : null;
  run.labels = obj(data, "labels");
  run.created_us = at_us;
  run.active_since_us = at_us;
  run.state = "running";
  run.deadline_us = num(data, "deadline");
  const target = obj(data, "target");
  const name = str(target, "name");
  const version = num(target, "version");
  run.target = `${name}@${version}`;
  if (isObject(data["routing"])) run.routing = { ...(data["routing"] as unknown as Routing), at: 0 };
  run.external_id = typeof data["external_id"] === "string" ? data["external_id"] : null;
  const lineage = data["lineage"] as unknown as Lineage | undefined;
  run.source_run_id = lineage?.source_run_id ?? null;
  // Its past is folded already: it goes on from there. An exact replay has none, it repeats all.
  if (lineage && lineage.mode !== "exact") return begunAgain(run, lineage, catalog.agent(name, version));
  run.input = data["input"] ?? null;
  const kind = str(target, "kind") || run.kind;
  if (kind === "workflow") {
    const spec = present(catalog.workflow(name, version), `workflow ${run.target} is in the registry`);
    run.program = workflow.initial(spec);
    run.budget = { ...spec.budget, ...(obj(data, "budget") as RunBudget) };
  } else if (kind === "agent") {
    const spec = present(catalog.agent(name, version), `agent ${run.target} is in the registry`);
    run.program = agent.initial(spec, run.input);
    run.budget = { ...spec.budget, ...(obj(data, "budget") as RunBudget) };
  }
}

function open(run: RunState, event: EventDraft): StepState {
  return present(run.steps.get(event.step ?? 0), `${event.type} needs an open step`);
}

function openStep(run: RunState, event: EventDraft, status: StepState["status"], at_us: number): StepState {
  const n = event.step ?? 0;
  assert(n === run.step_count + 1, "steps are numbered without gaps", { run_id: run.run_id, n, count: run.step_count });
  const data: Data = event.data;
  run.step_count = n;
  const kind = event.type.startsWith("model") ? "model" : event.type.startsWith("timer") ? "wait" : "tool";
  const step: StepState = {
    n,
    kind,
    slot: run.program ? takeSlot(run.program, kind, data) : -1,
    target: str(data, kind),
    args: obj(data, "args"),
    ...shownOf(data),
    call: event.call,
    status,
    attempt: 1,
    reserved_micro: 0,
    reserved_tokens: 0,
    reserved_at_us: 0,
    max_output_tokens: num(data, "max_output_tokens"),
    started_us: at_us,
    due_us: 0,
    approval: null,
    doubt: "",
    decision_seq: 0,
    granted: null,
  };
  run.steps.set(n, step);
  return step;
}

/** Arguments of which something was taken out are opened by whoever may (orchestrator/opened-args.ts). */
function shownOf(data: Data): Pick<StepState, "shown" | "args_boxed"> {
  if (!isObject(data["args_box"])) return { shown: null, args_boxed: false };
  const { args, args_box, redaction, signature } = data as unknown as ShownArgs;
  return { shown: { args, args_box, redaction, signature }, args_boxed: true };
}

function takeSlot(program: AgentState | WorkflowState, kind: string, data: Data): number {
  if (program.kind === "workflow") return workflow.take(program, num(data, "node"));
  return kind === "model" ? agent.beginTurn(program) : agent.takeCall(program);
}

function requested(run: RunState, event: EventDraft, at_us: number): void {
  const existing = run.steps.get(event.step ?? 0);
  const step = existing ?? openStep(run, event, "running", at_us);
  step.status = "running";
  step.attempt = event.attempt ?? 1;
  step.target = str(event.data, step.kind);
  step.due_us = 0;
  step.started_us = at_us;
  if (event.type === "tool.requested") run.totals.tool_calls += 1;
  else run.totals.model_calls += 1;
  if (run.grant?.step !== step.n) return;
  step.reserved_micro = run.grant.micro;
  step.reserved_tokens = run.grant.tokens;
  step.reserved_at_us = at_us;
  run.totals.reserved_micro += run.grant.micro;
  run.totals.reserved_tokens += run.grant.tokens;
  run.grant = null;
}

/** Releases what the attempt reserved and books what it cost. */
function settle(run: RunState, step: StepState, data: Data): void {
  run.totals.reserved_micro -= step.reserved_micro;
  run.totals.reserved_tokens -= step.reserved_tokens;
  step.reserved_micro = 0;
  step.reserved_tokens = 0;
  run.totals.spent_micro += num(data, "cost_micro_usd");
  const usage: Data = obj(data, "usage");
  run.totals.input_tokens += num(usage, "input_tokens");
  run.totals.output_tokens += num(usage, "output_tokens");
  run.totals.spent_tokens += num(usage, "input_tokens") + num(usage, "output_tokens");
}

function close(run: RunState, event: EventDraft): StepState {
  const step = open(run, event);
  run.steps.delete(step.n);
  return step;
}

function fired(run: RunState, step: StepState): void {
  if (run.program?.kind === "workflow") workflow.done(run.program, step.slot, null);
}

function completed(run: RunState, event: EventDraft): void {
  const data: Data = event.data;
  const step = close(run, event);
  settle(run, step, data);
  const program = run.program;
  if (!program) return;
  if (program.kind === "workflow") {
    return workflow.done(
      program,
      step.slot,
      step.kind === "model" ? (data["content"] ?? null) : (data["result"] ?? null),
    );
  }
  if (step.kind === "tool") {
    const ref = data["result_ref"] as unknown as ArtifactRef | undefined;
    return agent.toolResult(program, step.slot, resultText(data), { is_error: data["is_error"] === true, ref });
  }
  const ref = data["content_ref"] as unknown as ArtifactRef | undefined;
  agent.answered(program, data["content"] as string | null, (data["tool_calls"] ?? []) as unknown as ToolCall[], ref);
}

/** A tool's result as the model reads it: text as it is, anything else as JSON. */
function resultText(data: Data): string {
  const result = data["result"] ?? null;
  return typeof result === "string" ? result : JSON.stringify(result);
}

/** A failed attempt leaves its step open: a retry, an in-doubt mark or `step.ended` follows in the same append. */
function failed(run: RunState, event: EventDraft): void {
  const step = open(run, event);
  settle(run, step, event.data);
  if (event.data["code"] === "abandoned") run.abandoned.add(`${step.n}/${step.attempt}`);
  step.status = "proposed";
}

function denied(run: RunState, event: EventDraft): void {
  const data: Data = event.data;
  const step = close(run, event);
  const message = str(data, "message");
  if (run.program?.kind === "agent" && step.kind === "tool")
    agent.toolResult(run.program, step.slot, message, { is_error: true });
  if (run.program?.kind === "workflow") workflow.failed(run.program, step.slot, str(data, "reason"), message);
}

/** The step ended without a result: after its last attempt, or by a person's word. */
function ended(run: RunState, event: EventDraft, data: Data): void {
  const step = close(run, event);
  if (run.program?.kind === "workflow")
    workflow.failed(run.program, step.slot, str(data, "code"), str(data, "message"));
  if (run.program?.kind === "agent" && step.kind === "tool") {
    agent.toolResult(run.program, step.slot, str(data, "message"), { is_error: true });
  }
}

function approvalRequested(run: RunState, event: EventDraft, data: Data): void {
  const step = open(run, event);
  run.approval_count += 1;
  step.status = "approval";
  step.decision_seq = num(data, "decision");
  step.approval = {
    n: run.approval_count,
    binding: str(data, "binding"),
    expires_us: num(data, "expires"),
    approvals_min: num(data, "approvals_min"),
    approved_by: [],
  };
}

function approvalResolved(run: RunState, event: EventDraft, data: Data): void {
  const step = open(run, event);
  const approval = present(step.approval, "an approval is resolved where one was asked");
  if (data["decision"] === "approved") approval.approved_by = [...approval.approved_by, str(data, "by")];
  if (data["final"] !== true) return;
  step.granted = data["decision"] === "approved" ? approval : null;
  step.approval = null;
  step.status = "proposed";
}

function resolved(run: RunState, event: EventDraft, data: Data): void {
  const step = open(run, event);
  if (data["resolution"] === "completed") {
    run.steps.delete(step.n);
    settle(run, step, data);
    if (run.program?.kind === "workflow") workflow.done(run.program, step.slot, data["result"] ?? null);
    else if (run.program) agent.toolResult(run.program, step.slot, resultText(data), { is_error: false });
    return;
  }
  settle(run, step, data);
  step.status = data["resolution"] === "retry" ? "retry" : "proposed";
  if (step.status === "retry") step.due_us = num(data, "due");
}
