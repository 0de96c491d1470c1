// The state of one run: what fold builds from the journal and decide reads. Plain data, no behaviour.
// Closed steps are dropped; what a run needs of them later (messages, workflow outputs, totals) is kept apart.
import type { AgentSpec, RunBudget, WorkflowSpec } from "../contract/catalog.ts";
import type { RunKind, RunStateName, TerminalState } from "../contract/events.ts";
import { PRIORITY_DEFAULT } from "../contract/jobs.ts";
import type { Message, ToolCall } from "../contract/jobs.ts";
import type { RoutingState } from "../contract/tasks.ts";
import type { Lineage } from "../contract/replay.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { ObservedState } from "./observed.ts";
import type { PastCalls } from "./past-calls.ts";

export type StepStatus = "proposed" | "running" | "approval" | "in_doubt" | "retry" | "sleeping";

export interface ApprovalState {
  readonly n: number;
  readonly binding: string;
  readonly expires_us: number;
  readonly approvals_min: number;
  approved_by: string[];
}

/** Arguments of a foreign agent's call as they are recorded: redacted, with where the others are. */
export interface ShownArgs {
  readonly args: JsonObject;
  /** Keyed digest of the call as it was made. */
  readonly signature: string;
  /** Where the arguments are, encrypted. */
  readonly args_box: JsonObject;
  readonly redaction: JsonObject;
}

export interface StepState {
  readonly n: number;
  readonly kind: "tool" | "model" | "wait";
  /** Workflow: index of the node. Agent: index of the tool call in its turn; -1 for the model call. */
  readonly slot: number;
  /** Tool as name@version, or model route as name@version. */
  target: string;
  args: JsonObject;
  /** What the journal says in their place, where something was taken out of them; null: the arguments themselves. */
  shown: ShownArgs | null;
  /** The arguments are in their box still: `args` are those that are shown. */
  args_boxed: boolean;
  call: string | undefined;
  status: StepStatus;
  attempt: number;
  reserved_micro: number;
  reserved_tokens: number;
  reserved_at_us: number;
  max_output_tokens: number;
  started_us: number;
  /** When a retry or a wait is due; 0 = none. */
  due_us: number;
  approval: ApprovalState | null;
  /** Why it is in doubt; empty when it is not. */
  doubt: string;
  /** seq of the policy decision that asked for the approval: part of what it is bound to. */
  decision_seq: number;
  /** The approval that allowed the running attempt, or allows the one that its caller still has to make. */
  granted: ApprovalState | null;
}

export interface AgentState {
  readonly kind: "agent";
  readonly spec: AgentSpec;
  messages: Message[];
  turns: number;
  /** Calls of the current turn, and their results as they come in (any order). */
  calls: ToolCall[];
  results: (Message | null)[];
  next_slot: number;
  ended_by_tool: boolean;
  output_retries: number;
  /** The last answer without tool calls, not yet judged. */
  answer: string | null;
}

export type NodeStatus = "pending" | "open" | "done" | "failed";

export interface WorkflowState {
  readonly kind: "workflow";
  readonly spec: WorkflowSpec;
  status: NodeStatus[];
  missing: number[];
  outputs: (Json | undefined)[];
  ready: number[];
  open: number;
  finished: number;
  failure: { node: string; code: string; message: string } | null;
}

export interface Totals {
  spent_micro: number;
  reserved_micro: number;
  spent_tokens: number;
  reserved_tokens: number;
  input_tokens: number;
  output_tokens: number;
  tool_calls: number;
  model_calls: number;
}

export interface RunState {
  readonly run_id: string;
  readonly tenant_id: string;
  project: string;
  env: string;
  kind: RunKind;
  target: string;
  requester: string;
  retry_of: string | null;
  priority: number;
  labels: JsonObject;
  input: Json;
  budget: RunBudget;
  created_us: number;
  updated_us: number;
  deadline_us: number;
  state: RunStateName;
  /** Why it waits (WaitReason), or the code of its end. */
  reason: string | null;
  paused: boolean;
  stopping: { to: TerminalState; code: string; message: string; until_us: number } | null;
  program: AgentState | WorkflowState | null;
  steps: Map<number, StepState>;
  step_count: number;
  approval_count: number;
  totals: Totals;
  /** Microseconds spent not waiting, up to the last change; running since, or 0. */
  active_us: number;
  active_since_us: number;
  seq: number;
  output: Json;
  /** Attempts (step/attempt) that the run ended without; each may still report once, late. */
  abandoned: Set<string>;
  /** Digest of the policy that decided last. */
  policy_digest: string;
  /**
   * Of a replay or fork: where it comes from (null for exact replays, which have no past), and what was recorded there. The
   * loader sets the past, no event does.
   */
  lineage: Lineage | null;
  source_run_id: string | null;
  /** What the source of a captured run calls it. */
  external_id: string | null;
  /** Nothing more is taken from outside. */
  sealed: boolean;
  /** Null while nothing was observed elsewhere. */
  observed: ObservedState | null;
  past: PastCalls | null;
  /** Recorded outcomes are left to be taken over by the next append. */
  more: boolean;
  /** Of a task: the models it may ask, and which of them it asks now. */
  routing: RoutingState | null;
  /** The last allow and what it reserves, until the intent that follows it takes it. */
  grant: { step: number; micro: number; tokens: number } | null;
}

export function emptyRun(tenant_id: string, run_id: string): RunState {
  return {
    run_id,
    tenant_id,
    project: "",
    env: "dev",
    kind: "agent",
    target: "",
    requester: "",
    retry_of: null,
    priority: PRIORITY_DEFAULT,
    labels: {},
    input: null,
    budget: {},
    created_us: 0,
    updated_us: 0,
    deadline_us: 0,
    state: "queued",
    reason: null,
    paused: false,
    stopping: null,
    program: null,
    steps: new Map(),
    step_count: 0,
    approval_count: 0,
    totals: {
      spent_micro: 0,
      reserved_micro: 0,
      spent_tokens: 0,
      reserved_tokens: 0,
      input_tokens: 0,
      output_tokens: 0,
      tool_calls: 0,
      model_calls: 0,
    },
    active_us: 0,
    active_since_us: 0,
    seq: 0,
    output: null,
    abandoned: new Set(),
    policy_digest: "none",
    lineage: null,
    source_run_id: null,
    external_id: null,
    sealed: false,
    observed: null,
    past: null,
    more: false,
    routing: null,
    grant: null,
  };
}

export function activeMs(run: RunState, now_us: number): number {
  const running = run.active_since_us > 0 ? now_us - run.active_since_us : 0;
  return (run.active_us + running) / 1000;
}

/** An approved call that waits for whoever asked for it to come back: only they can make it. */
export function isClaimable(step: StepState): boolean {
  return step.kind === "model" && step.status === "proposed" && step.granted !== null;
}

/** A conversation in which the next word is the user's. */
export function awaitsInput(run: RunState): boolean {
  const { program } = run;
  return program?.kind === "agent" && program.spec.mode === "chat" && program.answer !== null && run.steps.size === 0;
}
