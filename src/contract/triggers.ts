// Triggers: what starts runs without somebody asking each time. The manifest says when; the rows say what happened; the routes
// are those of people who look, hold up, or start one by hand.
import { Type, type Static } from "typebox";
import { either } from "./either.ts";
import { COMMON_ERRORS } from "./errors.ts";
import { EVENT_TYPES } from "./events.ts";
import { Name } from "./ids.ts";
import { LIMITS } from "./limits.ts";
import type { Route } from "./routes.ts";

const closed = { additionalProperties: false };

export const FIRE_CAUSES = ["schedule", "webhook", "event", "manual"] as const;
export type FireCause = (typeof FIRE_CAUSES)[number];
export const FIRE_STATES = ["pending", "started", "refused", "skipped"] as const;
export type FireState = (typeof FIRE_STATES)[number];

const Schedule = Type.Object(
  {
    cron: Type.String({
      minLength: 1,
      maxLength: 200,
      description: "Five fields, or six with seconds first; `L`, `MON#2` and `@daily` are understood.",
    }),
    timezone: Type.Optional(Type.String({ maxLength: 64, description: "IANA name; UTC unless said." })),
    missed: Type.Optional(
      either(["skip", "once"], "What was due while nobody was there: left out (default), or made up for by one run."),
    ),
    overlap: Type.Optional(either(["allow", "skip"], "skip: not while the run before goes on. allow unless said.")),
  },
  closed,
);

const Webhook = Type.Object(
  {
    secret: Type.String({ pattern: "^(env:[A-Z0-9_]+|file:[a-zA-Z0-9._-]+)$", description: "A reference." }),
    scheme: Type.Optional(either(["standard", "github"], "Standard Webhooks (default), or X-Hub-Signature-256.")),
  },
  closed,
);

const OnEvent = Type.Object(
  {
    types: Type.Array(either(EVENT_TYPES), { minItems: 1, maxItems: 20, uniqueItems: true }),
    targets: Type.Optional(
      Type.Array(Type.String({ minLength: 1, maxLength: 200 }), {
        maxItems: 50,
        description: "Names of agents or workflows, of which `*` matches any text; all unless said.",
      }),
    ),
    when: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: LIMITS.expression_chars_max,
        description: "CEL over `event` (its type), `target`, `run_id` and `data` of the event.",
      }),
    ),
  },
  closed,
);

export const TriggerSpecInput = Type.Object(
  {
    agent: Type.Optional(Name),
    workflow: Type.Optional(Name),
    intent: Type.Optional(Name),
    input: Type.Optional(
      Type.Unknown({
        description:
          "Of the runs, or params of the intent; may refer to what the trigger got: ${input.due} of a schedule, ${input...} of a webhook's body or an event.",
      }),
    ),
    labels: Type.Optional(
      Type.Record(Type.String({ maxLength: 128 }), Type.String({ maxLength: 512 }), {
        maxProperties: LIMITS.labels_max,
      }),
    ),
    priority: Type.Optional(Type.Integer({ minimum: 0, maximum: 9 })),
    schedule: Type.Optional(Schedule),
    webhook: Type.Optional(Webhook),
    event: Type.Optional(OnEvent),
  },
  closed,
);
export type TriggerManifest = Static<typeof TriggerSpecInput>;
export type ScheduleSpec = Static<typeof Schedule>;
export type WebhookSpec = Static<typeof Webhook>;
export type OnEventSpec = Static<typeof OnEvent>;

const nullable = (schema: ReturnType<typeof Type.String>) => Type.Union([schema, Type.Null()]);

export const Fire = Type.Object({
  key: Type.String({
    description: "What makes it this one: the time, the sender's id, the event, or the caller's key.",
  }),
  cause: either(FIRE_CAUSES),
  due_at: Type.String(),
  state: either(FIRE_STATES),
  reason: nullable(Type.String({ description: "Why it was refused or skipped." })),
  run_id: Type.String({ description: "The run that it starts; there is none when it was refused or skipped." }),
});
export type Fire = Static<typeof Fire>;

export const Trigger = Type.Object(
  {
    name: Type.String(),
    env: Type.String({ description: "It is there in each environment that uses a version of it." }),
    version: Type.Integer(),
    on: either(["schedule", "webhook", "event"]),
    target: Type.String({ description: "agent/NAME, workflow/NAME or intent/NAME." }),
    when: Type.String({
      description: "The cron expression and its time zone, the path of the webhook, the event types.",
    }),
    paused: Type.Boolean(),
    paused_by: nullable(Type.String()),
    next_at: nullable(Type.String()),
    last_at: nullable(Type.String()),
    last_run_id: nullable(Type.String()),
  },
  { $id: "Trigger" },
);
export type Trigger = Static<typeof Trigger>;

const params = Type.Object({ name: Name }, closed);
const inEnv = Type.Object({ env: Type.Optional(Name) }, closed);
const errors = [...COMMON_ERRORS, "NOT_FOUND"] as const;

export const TRIGGER_ROUTES = {
  listTriggers: {
    method: "GET",
    path: "/triggers",
    permission: "registry:read",
    tool: "list_triggers",
    summary: "Triggers of every environment: whether they are paused, when they fire next and last did.",
    status: 200,
    response: Type.Object({ items: Type.Array(Trigger) }),
    errors: COMMON_ERRORS,
  },
  listFires: {
    method: "GET",
    path: "/triggers/:name/fires",
    permission: "registry:read",
    tool: "list_fires",
    summary: "What a trigger did, the latest first: which runs it started, what it left out and why.",
    params,
    query: Type.Object(
      {
        env: Type.Optional(Name),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.page_size_max })),
      },
      closed,
    ),
    status: 200,
    response: Type.Object({ items: Type.Array(Fire) }),
    errors,
  },
  fireTrigger: {
    method: "POST",
    path: "/triggers/:name/fire",
    permission: "runs:execute",
    summary: "Starts a run as the trigger would, now; also while it is paused.",
    params,
    body: Type.Object(
      { env: Type.Optional(Name), input: Type.Optional(Type.Unknown({ description: "What a webhook would send." })) },
      closed,
    ),
    status: 201,
    response: Fire,
    idempotent: true,
    errors: [...errors, "RUN_REFUSED", "IDEMPOTENCY_MISMATCH", "CONFLICT"],
  },
  pauseTrigger: {
    method: "POST",
    path: "/triggers/:name/pause",
    permission: "triggers:write",
    summary:
      "Has a trigger start nothing by itself until it is resumed; what would be due meanwhile is not made up for.",
    params,
    body: inEnv,
    status: 200,
    response: Trigger,
    errors,
  },
  resumeTrigger: {
    method: "POST",
    path: "/triggers/:name/resume",
    permission: "triggers:write",
    summary: "Lets a paused trigger go on, from now.",
    params,
    body: inEnv,
    status: 200,
    response: Trigger,
    errors,
  },
} as const satisfies Record<string, Route>;
