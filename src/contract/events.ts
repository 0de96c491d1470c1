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
  "policy.decided",
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
  "journal.late",
  "journal.import_note",
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
  readonly kind: "user" | "human_reviewer" | "system" | "importer" | "agent" | "model" | "tool";
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
    seq: Type.Integer({ minimum: 1 }),
    step: Type.Optional(Type.Integer({ minimum: 1 })),
    type: Type.String({ pattern: "^[a-z]+\\.[a-z_]+$" }),
  },
  { additionalProperties: false },
);

const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

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
    attempt: Type.Integer(),
    seq: Type.Integer(),
    occurred_at: Type.String(),
    recorded_at: Type.String(),
    actor: Type.Object({ kind: Type.String(), id: Type.String() }),
    causation_id: nullable(Type.String()),
    correlation_id: Type.String(),
    trace: Type.Object({ trace_id: Type.String() }),
    call: nullable(Type.Object({ call_id: Type.String() })),
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
