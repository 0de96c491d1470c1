// Runs as the API shows them.
import { Type, type Static } from "typebox";
import type { Json } from "../kit/json.ts";
import { Name, RunId } from "./ids.ts";
import { LIMITS } from "./limits.ts";
import { MicroUsd } from "./money.ts";

const nullable = (schema: ReturnType<typeof Type.String>) => Type.Union([schema, Type.Null()]);

export const Run = Type.Object(
  {
    run_id: RunId,
    project_id: Type.String(),
    kind: Type.String(),
    target: Type.String({ description: "Agent or workflow, as name@version." }),
    env: Type.String(),
    state: Type.String(),
    reason: nullable(Type.String()),
    requester: Type.String(),
    created_at: Type.String(),
    updated_at: Type.String(),
    steps: Type.Integer(),
    cost_micro_usd: MicroUsd,
    tokens: Type.Integer(),
    retry_of: nullable(Type.String()),
    source_run_id: nullable(Type.String({ description: "Of a replay or fork: the run it was made from." })),
    external_id: nullable(
      Type.String({ description: "Of a captured run: what its source calls it (a trace, a session)." }),
    ),
    sealed: Type.Boolean({
      description: "Nothing is added to its events any more; captured runs so long after their end (`seal_after_ms`).",
    }),
  },
  { $id: "Run" },
);
export type Run = Static<typeof Run>;

export const StartRun = Type.Object(
  {
    agent: Type.Optional(Name),
    workflow: Type.Optional(Name),
    version: Type.Optional(Type.Integer({ minimum: 1 })),
    env: Type.Optional(Name),
    input: Type.Optional(Type.Unknown({ description: "Text or content parts for an agent; any JSON for a workflow." })),
    labels: Type.Optional(
      Type.Record(Type.String({ maxLength: 128 }), Type.String({ maxLength: 512 }), {
        maxProperties: LIMITS.labels_max,
      }),
    ),
    budget: Type.Optional(
      Type.Object(
        {
          cost_micro_usd: Type.Optional(MicroUsd),
          total_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
          tool_calls: Type.Optional(Type.Integer({ minimum: 0 })),
          model_calls: Type.Optional(Type.Integer({ minimum: 0 })),
          active_ms: Type.Optional(Type.Integer({ minimum: 1 })),
        },
        { additionalProperties: false },
      ),
    ),
    deadline_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.run_deadline_ms_max })),
    correlation_id: Type.Optional(Type.String({ minLength: 1, maxLength: 200 })),
    priority: Type.Optional(
      Type.Integer({ minimum: 0, maximum: 9, description: "Of its jobs in the queue: 9 first, 5 unless said." }),
    ),
  },
  { additionalProperties: false },
);
export type StartRun = Static<typeof StartRun>;

export const RunInput = Type.Object(
  { content: Type.Unknown(), final: Type.Optional(Type.Boolean({ description: "Nothing follows: the run ends." })) },
  { additionalProperties: false },
);

export const AckStream = Type.Object(
  {
    consumer: Name,
    seq: Type.Integer({ minimum: 1, description: "Of the last event that it has done with." }),
  },
  { additionalProperties: false },
);
export type AckStream = Static<typeof AckStream>;

export const OverridePrivacy = Type.Object(
  {
    reason: Type.String({
      minLength: 1,
      maxLength: LIMITS.note_chars_max,
      description: "Why it may be replayed and exported all the same; stands in the run's journal, with who says so.",
    }),
  },
  { additionalProperties: false },
);
export type OverridePrivacy = Static<typeof OverridePrivacy>;

export const AmendRun = Type.Object(
  {
    note: Type.String({
      minLength: 1,
      maxLength: LIMITS.note_chars_max,
      description: "What has to be known beside what is recorded; stands behind it, with who says so.",
    }),
    about: Type.Optional(Type.Integer({ minimum: 1, description: "The seq of the event that it is about." })),
  },
  { additionalProperties: false },
);
export type AmendRun = Static<typeof AmendRun>;

/** A payload that nobody could look at, as it came. */
export const QuarantinedPayload = Type.Object({
  seq: Type.Integer({ description: "Of the event that it belongs to." }),
  type: Type.String(),
  at: Type.String({ description: "JSON pointer into the event's data; empty for all of it." }),
  value: Type.Unsafe<Json>({}),
});
export type QuarantinedPayload = Static<typeof QuarantinedPayload>;

export const ResolveStep = Type.Union([
  Type.Object(
    {
      outcome: Type.Literal("completed"),
      result: Type.Unknown(),
      note: Type.Optional(Type.String({ maxLength: LIMITS.note_chars_max })),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      outcome: Type.Literal("failed"),
      message: Type.String({ maxLength: LIMITS.note_chars_max }),
      note: Type.Optional(Type.String({ maxLength: LIMITS.note_chars_max })),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    { outcome: Type.Literal("retry"), note: Type.Optional(Type.String({ maxLength: LIMITS.note_chars_max })) },
    { additionalProperties: false },
  ),
]);
export type ResolveStep = Static<typeof ResolveStep>;

export const Approval = Type.Object(
  {
    approval_id: Type.String(),
    run_id: RunId,
    step: Type.Integer(),
    state: Type.String(),
    tool: Type.String(),
    shown: Type.Unknown({ description: "What will run, rendered from the bytes that will run." }),
    binding: Type.String(),
    requester: Type.String(),
    approvers_min: Type.Integer(),
    created_at: Type.String(),
    expires_at: Type.String(),
    resolved_by: nullable(Type.String()),
    resolved_at: nullable(Type.String()),
    note: nullable(Type.String()),
  },
  { $id: "Approval" },
);
export type Approval = Static<typeof Approval>;

export const Explanation = Type.Object(
  {
    run_id: RunId,
    step: Type.Integer(),
    decision: Type.String(),
    reason: Type.String(),
    rules: Type.Array(Type.String()),
    policy_digest: Type.String(),
    /** False when the policy has changed since: the trace below is then of the current one. */
    same_policy: Type.Boolean(),
    call: Type.Unknown(),
    trace: Type.Array(
      Type.Object({
        rule: Type.String(),
        effect: Type.String(),
        outcome: Type.String(),
        condition: nullable(Type.String()),
        error: Type.Optional(Type.String()),
      }),
    ),
  },
  { $id: "Explanation" },
);
export type Explanation = Static<typeof Explanation>;
