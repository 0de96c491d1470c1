// The stored ("lean") form of journal events and the closed list of their types.
// One event is one line of canonical JSON. What is the same for a whole run (tenant, project, producer, trace) stands
// once, in `run.started` and in columns; core/envelope.ts expands it for readers. `seq` and `at` are fixed when the
// event is staged, so a retry after an unknown commit sends identical bytes.
import { Type, type Static, type TSchema } from "typebox";
import type { JsonObject } from "../kit/json.ts";

export const EVENT_TYPES = [
  "run.started",
  "run.running",
  "run.waiting",
  "run.stopping",
  "run.succeeded",
  "run.failed",
  "run.cancelled",
  "run.timed_out",
  "run.budget_exceeded",
  "run.policy_blocked",
  "routing.decided",
  "policy.decided",
  "model.proposed",
  "model.requested",
  "model.completed",
  "model.failed",
  "model.denied",
  "tool.proposed",
  "tool.requested",
  "tool.completed",
  "tool.failed",
  "tool.denied",
  "step.ended",
  "step.in_doubt",
  "step.resolved",
  "step.retry_scheduled",
  "timer.set",
  "timer.fired",
  "human.approval_requested",
  "human.approval_resolved",
  "human.input",
  "validation.decided",
  "budget.warned",
  "budget.exceeded",
  "budget.overrun",
  "replay.mismatched",
  "privacy.overridden",
  "journal.late",
  "journal.amended",
  "journal.import_note",
  // Of runs whose events come from outside.
  "run.input",
  "run.output",
  "agent.started",
  "agent.ended",
  "agent.handoff",
  "step.started",
  "plan.proposed",
  "plan.revised",
  "prompt.rendered",
  "model.first_token",
  "model.cancelled",
  "tool.progress",
  "tool.cancelled",
  "retrieval.requested",
  "retrieval.completed",
  "retrieval.failed",
  "memory.read",
  "memory.written",
  "memory.deleted",
  "safety.decided",
  "human.feedback",
  "human.edited",
  "state.snapshot",
  "state.delta",
  "evaluation.recorded",
  "wire.message",
  "journal.gap",
  "journal.gap_filled",
  "journal.conflict",
  "run.sealed",
] as const;

export type EventType = (typeof EVENT_TYPES)[number];

export const TERMINAL_STATES = [
  "succeeded",
  "failed",
  "cancelled",
  "timed_out",
  "budget_exceeded",
  "policy_blocked",
] as const;
export type TerminalState = (typeof TERMINAL_STATES)[number];
export const RUN_STATES = ["queued", "running", "waiting", ...TERMINAL_STATES] as const;
export type RunStateName = (typeof RUN_STATES)[number];
export const WAIT_REASONS = ["approval", "input", "timer", "in_doubt", "paused", "quota"] as const;
export type WaitReason = (typeof WAIT_REASONS)[number];
export const RUN_KINDS = ["agent", "workflow", "captured", "replay", "fork", "eval"] as const;
export type RunKind = (typeof RUN_KINDS)[number];
export const EFFECT_CLASSES = ["read", "write", "external", "irreversible"] as const;
export type EffectClass = (typeof EFFECT_CLASSES)[number];

export function isTerminal(state: RunStateName): state is TerminalState {
  return (TERMINAL_STATES as readonly string[]).includes(state);
}

/** Who caused an event, where it is not the engine itself. */
export interface Actor {
  readonly id: string;
  readonly kind:
    | "user"
    | "human_reviewer"
    | "system"
    | "importer"
    | "agent"
    | "model"
    | "tool"
    | "retriever"
    | "planner"
    | "validator"
    | "safety"
    | "memory"
    | "sdk";
}

/** Where an event came from that was observed elsewhere. Its presence says that nothing here decided it. */
export interface Origin {
  /** `producer/epoch/sequence_no`; absent where the source has no such numbers (spans). */
  readonly from?: string;
  /** Tells whether the same number came twice with other content: a keyed digest, which says nothing of the content. */
  readonly mac?: string;
  /** The producer's own name of the step, at the first event of it. */
  readonly step?: string;
  /** The producer's own name of the parent step, where that was not heard of yet. */
  readonly parent?: string;
  /** It came after a gap was declared: the seq of the event that it belongs behind. */
  readonly late?: number;
  /** What else its producer said of it: id, causation_id, trace, ext. */
  readonly said?: JsonObject;
}

/** An event before it has its place: what core/ decides. Keys of `data` are written in ascending order. */
export interface EventDraft {
  readonly type: EventType;
  /** Ordinal of the step in its run, from 1. */
  readonly step?: number;
  /** 1 is left out. */
  readonly attempt?: number;
  /** Foreign id of the call (a provider's tool-call id). */
  readonly call?: string;
  /** `seq` of the event that directly led to this one, where it is not the one before. */
  readonly cause?: number;
  readonly actor?: Actor;
  /** When it happened, where that is not when it was recorded (imports); microseconds. */
  readonly occurred?: number;
  readonly origin?: Origin;
  /** Ordinal of the step that this one is part of. */
  readonly parent?: number;
  readonly data: JsonObject;
}

/** An event as stored. */
export interface StoredEvent extends EventDraft {
  /** recorded_at in microseconds since the epoch. */
  readonly at: number;
  readonly seq: number;
}

/** Schema of a stored event: what every reader checks before it trusts the bytes. */
export const StoredEventSchema = Type.Object(
  {
    actor: Type.Optional(Type.Object({ id: Type.String(), kind: Type.String() })),
    at: Type.Integer({ minimum: 0 }),
    attempt: Type.Optional(Type.Integer({ minimum: 2 })),
    call: Type.Optional(Type.String()),
    cause: Type.Optional(Type.Integer({ minimum: 1 })),
    data: Type.Object({}),
    occurred: Type.Optional(Type.Integer({ minimum: 0 })),
    origin: Type.Optional(Type.Object({})),
    parent: Type.Optional(Type.Integer({ minimum: 1 })),
    seq: Type.Integer({ minimum: 1 }),
    step: Type.Optional(Type.Integer({ minimum: 1 })),
    type: Type.String({ pattern: "^[a-z]+\\.[a-z_]+$" }),
  },
  { additionalProperties: false },
);

const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

/** As events were committed, which is final; or as they happened, where one that comes late can still come between others. */
export const EVENT_ORDERS = ["commit", "logical"] as const;
export const EventOrder = Type.Union(EVENT_ORDERS.map((order) => Type.Literal(order)));
export type EventOrder = (typeof EVENT_ORDERS)[number];

/** The logical envelope that readers see (event-schema v1.0). */
export const Event = Type.Object(
  {
    id: Type.String(),
    v: Type.Literal("1.0"),
    type: Type.String(),
    type_v: Type.Integer(),
    tenant_id: Type.String(),
    project_id: Type.String(),
    env: Type.String(),
    run_id: Type.String(),
    step_id: nullable(Type.String()),
    parent_step_id: nullable(Type.String()),
    attempt: Type.Integer(),
    seq: Type.Integer(),
    occurred_at: Type.String(),
    recorded_at: Type.String(),
    actor: Type.Object({ kind: Type.String(), id: Type.String() }),
    causation_id: nullable(Type.String()),
    correlation_id: Type.String(),
    trace: Type.Object({ trace_id: Type.String() }),
    call: nullable(Type.Object({ call_id: Type.String() })),
    /** Absent: it happened here. Else who observed it, and as which of its events. */
    origin: Type.Optional(
      Type.Object({
        producer_id: Type.Optional(Type.String()),
        epoch: Type.Optional(Type.Integer()),
        sequence_no: Type.Optional(Type.Integer()),
        step_id: Type.Optional(Type.String()),
        late_after: Type.Optional(Type.String()),
        said: Type.Optional(Type.Unsafe<JsonObject>(Type.Object({}))),
      }),
    ),
    /** Absent: the outcome came from the world. */
    determinism: Type.Optional(Type.Unsafe<JsonObject>(Type.Object({ mode: Type.String(), reason: Type.String() }))),
    /** Absent: nothing was taken out. */
    redaction: Type.Optional(Type.Unsafe<JsonObject>(Type.Object({ status: Type.String() }))),
    data: Type.Unsafe<JsonObject>(Type.Object({})),
    integrity: Type.Object({ alg: Type.Literal("sha-256/jcs"), content: Type.String(), chain: Type.String() }),
  },
  { $id: "Event" },
);
export type Event = Static<typeof Event>;
