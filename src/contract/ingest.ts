// What others may send us as events of a run: the envelope, the data that each type needs, and the answer to a batch.
// Fields follow event-schema v1.0. Data may hold more than is asked for; it is kept.
import { Type, type Static, type TSchema } from "typebox";
import { ERRORS } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { RUN_STATES, TERMINAL_STATES } from "./events.ts";
import { Name } from "./ids.ts";
import { LIMITS } from "./limits.ts";

/** Major version of the envelope, and the one before it, which is still read. */
export const ENVELOPE_MAJOR = 1;

const Key = Type.String({ minLength: 1, maxLength: 128 });
const optional = <T extends TSchema>(schema: T) => Type.Optional(schema);
const Text = Type.String();
const Count = Type.Integer({ minimum: 0 });
const Any = Type.Unknown();
const oneOf = <T extends string>(...values: readonly T[]) => Type.Unsafe<T>(Type.Enum([...values]));

export const ACTOR_KINDS = [
  "user",
  "human_reviewer",
  "system",
  "agent",
  "model",
  "tool",
  "retriever",
  "planner",
  "validator",
  "safety",
  "memory",
  "sdk",
] as const;

/** One event as a producer sends it. */
export const IngestEvent = Type.Object(
  {
    v: optional(Type.String({ maxLength: 16 })),
    type: Type.String({ pattern: "^[a-z]+\\.[a-z_]+$", maxLength: 64 }),
    type_v: optional(Type.Integer({ minimum: 1 })),
    sequence_no: Type.Integer({ minimum: 1 }),
    occurred_at: optional(Type.String({ maxLength: 40 })),
    step_id: optional(Key),
    parent_step_id: optional(Key),
    attempt: optional(Type.Integer({ minimum: 1, maximum: 1_000 })),
    actor: optional(Type.Object({ kind: oneOf(...ACTOR_KINDS), id: Key }, { additionalProperties: false })),
    call: optional(Type.Object({ call_id: Key }, { additionalProperties: false })),
    tenant_id: optional(Text),
    project_id: optional(Text),
    run_id: optional(Text),
    id: optional(Key),
    causation_id: optional(Key),
    trace: optional(Type.Record(Type.String({ maxLength: 32 }), Any)),
    ext: optional(Type.Record(Type.String({ maxLength: 128 }), Any)),
    data: Type.Object({}),
  },
  { additionalProperties: false },
);
export type IngestEvent = Static<typeof IngestEvent>;

/** A batch: events of one producer. Each is checked by itself, so that a bad one does not cost the others. */
export const IngestBatch = Type.Object(
  {
    producer_id: Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9._:-]{0,63}$" }),
    producer_epoch: optional(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
    events: Type.Array(Any, { minItems: 1, maxItems: LIMITS.ingest_events_max }),
  },
  { additionalProperties: false },
);
export type IngestBatch = Static<typeof IngestBatch>;

export const INGEST_STATUSES = ["committed", "duplicate", "staged", "rejected"] as const;

const Range = Type.Object({ from: Count, to: Count });
export const Missing = Type.Object({ producer_id: Type.String(), producer_epoch: Count, ranges: Type.Array(Range) });
export type Missing = Static<typeof Missing>;

/** What became of one event. */
export const IngestItem = Type.Object({
  /** Null when the event has none that could be read. */
  sequence_no: Type.Union([Type.Integer(), Type.Null()]),
  status: oneOf(...INGEST_STATUSES),
  /** Of a committed one, or of the one that it is a duplicate of. */
  seq: optional(Type.Integer()),
  event_id: optional(Text),
  error: optional(
    Type.Object({
      code: Text,
      status: Type.Integer(),
      message: Text,
      pointer: Text,
      retryable: Type.Boolean(),
    }),
  ),
});
export type IngestItem = Static<typeof IngestItem>;

export const IngestAnswer = Type.Object({
  run_id: Text,
  /** Null while nobody has started the run: its events are staged. */
  state: Type.Union([Type.Null(), oneOf(...RUN_STATES)]),
  items: Type.Array(IngestItem),
  /** Events that others wait for. */
  missing: Type.Array(Missing),
});
export type IngestAnswer = Static<typeof IngestAnswer>;

export const FinalizeRun = Type.Object(
  {
    force: optional(Type.Boolean({ description: "Gives up what is missing; the gap is recorded." })),
    state: optional(oneOf(...TERMINAL_STATES)),
    code: optional(Type.String({ maxLength: 64 })),
    message: optional(Type.String({ maxLength: LIMITS.note_chars_max })),
    output: optional(Any),
  },
  { additionalProperties: false },
);
export type FinalizeRun = Static<typeof FinalizeRun>;

/** A refusal of one item, with what the table says of its code. */
export function refusedItem(sequence_no: number | null, code: ErrorCode, message: string, pointer = ""): IngestItem {
  const { status, retryable } = ERRORS[code];
  return { sequence_no, status: "rejected", error: { code, status, message, pointer, retryable } };
}

const usage = optional(Type.Object({ input_tokens: optional(Count), output_tokens: optional(Count) }));
const cost = { cost_micro_usd: optional(Count), duration_ms: optional(Type.Number({ minimum: 0 })) };
const ended = Type.Object({ message: optional(Text), code: optional(Text) });

/** Data that each type needs. A type that is not here is kept as it is; what only we may say is refused. */
export const OBSERVED: Readonly<Record<string, TSchema>> = {
  "run.started": Type.Object({
    agent: Name,
    env: optional(Name),
    input: optional(Any),
    labels: optional(Type.Record(Type.String({ maxLength: 128 }), Type.String({ maxLength: 512 }))),
    correlation: optional(Key),
  }),
  "run.input": Type.Object({ content: Any }),
  "run.output": Type.Object({ content: Any }),
  "run.succeeded": Type.Object({ output: optional(Any) }),
  "run.failed": Type.Object({ message: Text, code: optional(Key) }),
  "run.cancelled": ended,
  "run.timed_out": ended,
  "agent.started": Type.Object({ name: Key }),
  "agent.ended": Type.Object({}),
  "agent.handoff": Type.Object({ to: Key }),
  "step.started": Type.Object({ name: Key, kind: optional(Key) }),
  "step.ended": Type.Object({}),
  "plan.proposed": Type.Object({ items: Type.Array(Any) }),
  "plan.revised": Type.Object({ items: Type.Array(Any) }),
  "prompt.rendered": Type.Object({ rendered: Any, template: optional(Key), version: optional(Any) }),
  "model.requested": Type.Object({ model: Key, api: optional(Key), request: optional(Type.Object({})) }),
  "model.first_token": Type.Object({}),
  "model.completed": Type.Object({
    content: optional(Any),
    tool_calls: optional(Type.Array(Type.Object({}))),
    usage,
    ...cost,
  }),
  "model.failed": Type.Object({ message: Text, code: optional(Key), usage, ...cost }),
  "model.cancelled": Type.Object({ usage, ...cost }),
  "tool.proposed": Type.Object({ tool: Key, args: Type.Object({}) }),
  "tool.requested": Type.Object({ tool: Key, args: Type.Object({}) }),
  "tool.progress": Type.Object({}),
  "tool.completed": Type.Object({ result: Any, is_error: optional(Type.Boolean()), ...cost }),
  "tool.failed": Type.Object({ message: Text, code: optional(Key), ...cost }),
  "tool.denied": Type.Object({ reason: Text }),
  "tool.cancelled": Type.Object({}),
  "retrieval.requested": Type.Object({ retriever: Key, query: Any, top_k: optional(Count) }),
  "retrieval.completed": Type.Object({ documents: Type.Array(Type.Object({})) }),
  "retrieval.failed": Type.Object({ message: Text }),
  "memory.read": Type.Object({ store: Key }),
  "memory.written": Type.Object({ store: Key }),
  "memory.deleted": Type.Object({ store: Key }),
  "validation.decided": Type.Object({ validator: Key, result: oneOf("pass", "fail", "warn") }),
  "safety.decided": Type.Object({ category: Key, decision: oneOf("allow", "block", "redact", "escalate") }),
  "human.input": Type.Object({ content: Any }),
  "human.edited": Type.Object({ content: Any }),
  "human.feedback": Type.Object({ value: Any }),
  "state.snapshot": Type.Object({ state: Any }),
  "state.delta": Type.Object({ patch: Type.Array(Any) }),
  "evaluation.recorded": Type.Object({ name: Key }),
  "wire.message": Type.Object({}),
};

/** What is decided here is said by us alone. */
const OURS = ["policy", "budget", "journal", "replay", "timer", "registry", "auth"];
const OUR_TYPES = [
  "run.running",
  "run.waiting",
  "run.stopping",
  "run.budget_exceeded",
  "run.policy_blocked",
  "run.sealed",
  "model.proposed",
  "model.denied",
  "step.in_doubt",
  "step.resolved",
  "step.retry_scheduled",
  "human.approval_requested",
  "human.approval_resolved",
];

/** True for types that a producer may not send. */
export function isReserved(type: string): boolean {
  return OURS.includes(type.slice(0, type.indexOf("."))) || OUR_TYPES.includes(type);
}
