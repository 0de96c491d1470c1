// Tasks: work that is asked for by intent. An Intent manifest says which agent does it, on which models, and what it may cost;
// the task says what it minds (engine, privacy, latency, budget), and one route is chosen by both, the same for the same.
import { Type, type Static } from "typebox";
import { either } from "./either.ts";
import { COMMON_ERRORS } from "./errors.ts";
import { Name, RunId } from "./ids.ts";
import { LIMITS } from "./limits.ts";
import { MicroUsd, Usd } from "./money.ts";
import type { Route } from "./routes.ts";

const closed = { additionalProperties: false };

export const ENGINES = ["local", "api"] as const;
export type Engine = (typeof ENGINES)[number];
/** tier0 local, tier1 cloud, tier2 premium. */
export const TIERS = ["tier0", "tier1", "tier2"] as const;
export type Tier = (typeof TIERS)[number];
/** From the strictest on: nothing leaves; api only when no local model answers; anything. */
export const PRIVACY = ["local-only", "hybrid", "allow-api"] as const;
export type Privacy = (typeof PRIVACY)[number];
export const PREFERENCES = ["auto", "local", "api", "hybrid"] as const;
export type Preference = (typeof PREFERENCES)[number];
const Privacy = either(PRIVACY, "local-only: no model that is somebody else's is asked, whatever happens.");

export const IntentSpecInput = Type.Object(
  {
    agent: Name,
    routes: Type.Array(Name, {
      minItems: 1,
      maxItems: 10,
      uniqueItems: true,
      description: "Models: the first is asked, the next ones in their order while those before fail.",
    }),
    tiers: Type.Optional(
      Type.Array(either(TIERS), { minItems: 1, uniqueItems: true, description: "All unless said." }),
    ),
    privacy: Type.Optional(Privacy),
    p95_ms: Type.Optional(Type.Integer({ minimum: 1, description: "Of tasks that say none." })),
    budget_usd: Type.Optional(Usd),
    budget_cap_usd: Type.Optional(Usd),
    input: Type.Optional(Type.Unknown({ description: "Of the run; may refer to ${input...}, the task's params." })),
  },
  closed,
);
export type IntentManifest = Static<typeof IntentSpecInput>;

export const TaskRequest = Type.Object(
  {
    schema_version: Type.Optional(Type.String({ maxLength: 16 })),
    intent: Name,
    params: Type.Optional(Type.Unknown()),
    preferred_engine: Type.Optional(either(PREFERENCES, "Which models are asked first; hybrid: local ones.")),
    priority: Type.Optional(either(["low", "normal", "high"])),
    sla: Type.Optional(
      Type.Object(
        {
          budget_usd: Type.Optional(Usd),
          p95_ms: Type.Optional(Type.Integer({ minimum: 1 })),
          privacy: Type.Optional(Privacy),
        },
        closed,
      ),
    ),
    env: Type.Optional(Name),
    metadata: Type.Optional(
      Type.Record(Type.String({ maxLength: 128 }), Type.String({ maxLength: 512 }), {
        maxProperties: LIMITS.labels_max,
        description: "Labels of the run.",
      }),
    ),
  },
  closed,
);
export type TaskRequest = Static<typeof TaskRequest>;

/** A model that a task may be done with. */
export interface Candidate {
  readonly model: string;
  readonly engine: Engine;
  readonly tier: Tier;
}

/** In `run.started` of a task: how it was routed, and what holds for all of its model calls. */
export interface Routing {
  readonly intent: string;
  readonly privacy: Privacy;
  readonly order: readonly Candidate[];
  /** Models of the intent that the task cannot be done with, and why. */
  readonly left_out: readonly { readonly model: string; readonly why: string }[];
  readonly chosen_by: "intent" | "task";
  readonly reason: string;
}

/** Where a task is on its way: which of its models is asked, and why that one. */
export interface RoutingState extends Omit<Routing, "chosen_by"> {
  readonly at: number;
  readonly chosen_by: "intent" | "task" | "fallback";
}

export const TASK_STATES = ["PENDING", "RUNNING", "OK", "ERROR", "TIMEOUT", "CANCELED"] as const;
const nullable = <T extends ReturnType<typeof Type.String>>(schema: T) => Type.Union([schema, Type.Null()]);

export const Task = Type.Object(
  {
    task_id: RunId,
    intent: Type.String(),
    status: either(TASK_STATES),
    engine: Type.Object({
      route: either(["local", "api", "hybrid"], "Which kinds of models it may be done with."),
      model: Type.String({ description: "The one that is asked now, or was last." }),
      tier: either(TIERS),
      chosen_by: either(["intent", "task", "fallback"]),
      reason: Type.String(),
    }),
    result: Type.Unknown(),
    usage: Type.Object({ latency_ms: Type.Integer(), tokens: Type.Integer(), cost_micro_usd: MicroUsd }),
    error: Type.Union([Type.Object({ code: Type.String(), message: Type.String() }), Type.Null()]),
    run_state: Type.String(),
    waits_for: nullable(Type.String({ description: "Of a run that waits: for what." })),
  },
  { $id: "Task" },
);
export type Task = Static<typeof Task>;

export const TASK_ROUTES = {
  submitTask: {
    method: "POST",
    path: "/tasks",
    permission: "runs:execute",
    summary:
      "Has work done that is asked for by intent; which agent does it, and on which model, is worked out from both.",
    body: TaskRequest,
    status: 201,
    response: Task,
    idempotent: true,
    errors: [...COMMON_ERRORS, "RUN_REFUSED", "IDEMPOTENCY_MISMATCH", "CONFLICT", "OVERLOADED", "SHUTTING_DOWN"],
  },
  getTask: {
    method: "GET",
    path: "/tasks/:id",
    permission: "runs:read",
    tool: "get_task",
    summary: "A task: how it was routed, what came of it, what it cost. Its id is that of its run.",
    params: Type.Object({ id: Type.String({ maxLength: 64 }) }, closed),
    status: 200,
    response: Task,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
} as const satisfies Record<string, Route>;
