// Replays and forks: what may be asked, what a run's journal says of where it comes from, and how a session is seen.
import { Type, type Static, type TSchema } from "typebox";
import { Name, RunId } from "./ids.ts";
import { LIMITS } from "./limits.ts";
import { MicroUsd } from "./money.ts";

export const REPLAY_MODES = ["exact", "cached", "simulated", "live"] as const;
export type ReplayMode = (typeof REPLAY_MODES)[number];

/** Where an output came from, when it did not come from the world. */
export const REUSE_REASONS = [
  "source_output_reused",
  "cache_hit_signature_match",
  "simulation_operator_override",
  "simulation_policy_fallback",
] as const;
export type ReuseReason = (typeof REUSE_REASONS)[number];

/** Why a session cannot start or go on. */
export const REFUSALS = [
  "source_not_ended",
  "chain_broken",
  "artifact_missing",
  "signature_mismatch",
  "decision_mismatch",
  "ambiguous_signature",
  "change_before_fork_point",
  "open_call_at_fork_point",
  "fork_point_not_found",
  "override_not_applicable",
  "privacy_risk",
  "write_not_permitted",
] as const;
export type Refusal = (typeof REFUSALS)[number];

export const SESSION_STATES = [
  "pending",
  "running",
  "completed_exact",
  "completed_cached",
  "completed_mixed",
  "completed_simulated",
  "failed_validation",
  "failed_execution",
] as const;
export type SessionState = (typeof SESSION_STATES)[number];

/** A payload given instead of a call's outcome. */
export const Simulation = Type.Object(
  {
    tool: Type.Optional(Name),
    model: Type.Optional(Name),
    step: Type.Optional(Type.Integer({ minimum: 1, description: "Only this step; else every call of that name." })),
    result: Type.Unknown({ description: "A tool's result, or the text of a model's answer." }),
    is_error: Type.Optional(Type.Boolean()),
  },
  { additionalProperties: false },
);
export type Simulation = Static<typeof Simulation>;

const RunBudgetInput = Type.Object(
  {
    cost_micro_usd: Type.Optional(MicroUsd),
    total_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
    tool_calls: Type.Optional(Type.Integer({ minimum: 0 })),
    model_calls: Type.Optional(Type.Integer({ minimum: 0 })),
    active_ms: Type.Optional(Type.Integer({ minimum: 1 })),
  },
  { additionalProperties: false },
);

const versions = (description: string) =>
  Type.Optional(
    Type.Record(Type.String({ maxLength: LIMITS.name_chars_max }), Type.Integer({ minimum: 1 }), { description }),
  );

/** What a fork changes. Everything that is not named stays as it was in the source. */
export const Overrides = Type.Object(
  {
    instructions: Type.Optional(Type.String({ maxLength: LIMITS.inline_bytes_max, description: "System prompt." })),
    input: Type.Optional(Type.Unknown({ description: "The run's input: the variables of its prompts." })),
    model: Type.Optional(Name),
    max_output_tokens: Type.Optional(Type.Integer({ minimum: 1 })),
    params: Type.Optional(
      Type.Object(
        {
          temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
          top_p: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
          seed: Type.Optional(Type.Integer()),
        },
        { additionalProperties: false },
      ),
    ),
    prompts: versions("Prompt name to version."),
    tools: versions("Tool name to version: another implementation or definition."),
    policies: versions("Policy name to version."),
    arguments: Type.Optional(
      Type.Record(
        Type.String({ maxLength: LIMITS.name_chars_max }),
        Type.Unsafe<Record<string, unknown>>(Type.Object({})),
        {
          description: "Tool name to arguments that replace those of each call: a retriever's top_k or filters, say.",
        },
      ),
    ),
    budget: Type.Optional(RunBudgetInput),
  },
  { additionalProperties: false },
);
export type Overrides = Static<typeof Overrides>;

const reuseFields = {
  reuse: Type.Optional(
    Type.Union([Type.Literal("matching"), Type.Literal("none")], {
      description: "`matching` (the default): a call whose signature equals a recorded one gets its outcome.",
    }),
  ),
  otherwise: Type.Optional(
    Type.Union([Type.Literal("live"), Type.Literal("stop")], {
      description: "What becomes of a call that nothing was recorded for: it is made, or the session stops.",
    }),
  ),
  simulate: Type.Optional(Type.Array(Simulation, { maxItems: LIMITS.simulations_max })),
  live_writes: Type.Optional(
    Type.Boolean({
      description: "Lets calls with effects be made; a policy rule must say `replay_live` too, and a person is asked.",
    }),
  ),
};

export const StartFork = Type.Object(
  {
    step: Type.Integer({ minimum: 1, description: "The first step that is decided anew." }),
    overrides: Type.Optional(Overrides),
    ...reuseFields,
  },
  { additionalProperties: false },
);
export type StartFork = Static<typeof StartFork>;

export const StartReplay = Type.Object(
  {
    run_id: RunId,
    mode: Type.Unsafe<ReplayMode>(Type.Union(REPLAY_MODES.map((mode) => Type.Literal(mode)))),
    simulate: Type.Optional(Type.Array(Simulation, { maxItems: LIMITS.simulations_max })),
    live_writes: reuseFields.live_writes,
  },
  { additionalProperties: false },
);
export type StartReplay = Static<typeof StartReplay>;

/** In `run.started` of a replay or fork: where it comes from. The source is never changed. */
export interface Lineage {
  readonly source_run_id: string;
  /** Last event of the source that is this run's past; 0: it begins anew with the source's input. */
  readonly source_seq: number;
  /** Chain value of the source there (hex): the past cannot be exchanged. */
  readonly source_chain: string;
  /** First step that is decided anew. */
  readonly step: number;
  readonly mode: ReplayMode;
  readonly reuse: "matching" | "none";
  readonly otherwise: "live" | "stop";
  readonly live_writes: boolean;
  readonly simulate: readonly Simulation[];
  readonly overrides: Overrides;
}

/** Everything again, as it was: nothing is changed, nothing leaves. */
export const EXACT = {
  step: 1,
  mode: "exact",
  reuse: "matching",
  otherwise: "stop",
  live_writes: false,
  simulate: [],
  overrides: {},
} as const satisfies Partial<Lineage>;

/** Label of an event whose outcome did not come from the world. */
export interface Determinism {
  readonly mode: Exclude<ReplayMode, "live">;
  readonly reason: ReuseReason;
  /** The recorded outcome. */
  readonly source?: { readonly run_id: string; readonly seq: number };
}

const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

/** One place where a replay was not as recorded. */
export const Mismatch = Type.Object({
  step: Type.Integer(),
  seq: Type.Integer(),
  /** JSON pointers into the event or request. */
  paths: Type.Array(Type.String()),
  recorded: Type.Optional(Type.Unknown()),
  produced: Type.Optional(Type.Unknown()),
});
export type Mismatch = Static<typeof Mismatch>;

export const ReplaySession = Type.Object(
  {
    replay_id: Type.String({ description: "The run that the replay made." }),
    source_run_id: RunId,
    mode: Type.String(),
    state: Type.Unsafe<SessionState>(Type.Union(SESSION_STATES.map((state) => Type.Literal(state)))),
    /** Why it failed, or null. */
    reason: nullable(Type.String()),
    message: nullable(Type.String()),
    fork_step: nullable(Type.Integer()),
    failed_step: nullable(Type.Integer()),
    run_state: Type.String(),
    steps: Type.Object({
      exact: Type.Integer(),
      cached: Type.Integer(),
      simulated: Type.Integer(),
      live: Type.Integer(),
    }),
    events: Type.Integer(),
    mismatch: nullable(Mismatch),
  },
  { $id: "ReplaySession" },
);
export type ReplaySession = Static<typeof ReplaySession>;
