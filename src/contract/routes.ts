// The route table: method, path, permission, schemas and errors of every operation. The router, the OpenAPI document and
// the client derive from it. A route without a permission cannot be written down.
import { Type, type TSchema } from "typebox";
import { COMMON_ERRORS } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { Event, EventOrder } from "./events.ts";
import { Name } from "./ids.ts";
import { LIMITS } from "./limits.ts";
import { Applied } from "./manifests.ts";
import { CAPTURE_ROUTES } from "./capture-routes.ts";
import { JOURNAL_ROUTES } from "./journal-routes.ts";
import { REPLAY_ROUTES } from "./replay-routes.ts";
import { TOOL_ROUTES } from "./tool-reviews.ts";
import { TASK_ROUTES } from "./tasks.ts";
import { TRIGGER_ROUTES } from "./triggers.ts";
import { WORKER_ROUTES } from "./worker-routes.ts";
import {
  AckStream,
  Approval,
  Explanation,
  AmendRun,
  OverridePrivacy,
  QuarantinedPayload,
  ResolveStep,
  Run,
  RunInput,
  StartRun,
} from "./runs.ts";

/** `public` is for probes alone: they say nothing about anybody's data. */
export const PERMISSIONS = [
  "public",
  "runs:read",
  "runs:execute",
  "runs:replay",
  "proxy:call",
  "events:write",
  "approvals:read",
  "approvals:resolve",
  "privacy:override",
  "runs:amend",
  "registry:read",
  "registry:write",
  "triggers:write",
  "journal:verify",
  "journal:export",
  "journal:import",
  "admin:read",
  "workers:read",
  "workers:write",
  "workers:execute",
  "metrics:read",
] as const;
export type Permission = (typeof PERMISSIONS)[number];

export interface Route {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly permission: Permission;
  readonly summary: string;
  readonly params?: TSchema;
  readonly query?: TSchema;
  readonly body?: TSchema;
  /** Content type of the request body; JSON unless said. */
  readonly accepts?: "application/yaml" | "application/x-ndjson" | "application/octet-stream";
  readonly status: 200 | 201;
  readonly response: TSchema;
  /** Content type of the answer; JSON unless said. */
  readonly produces?: "text/event-stream" | "application/x-ndjson" | "application/octet-stream" | "text/plain";
  readonly errors: readonly ErrorCode[];
  /** Takes an Idempotency-Key. */
  readonly idempotent?: true;
  /** Which node answers, where it is not the owner of the run in the path: each for itself, or the one that signs checkpoints. */
  readonly node?: "each" | "signer";
  /** The answer may take long: the handler is told when the caller has gone. */
  readonly waits?: true;
  /** It only reads: MCP clients ask for it by a tool of this name (mcp/observer.ts). */
  readonly tool?: string;
}

const IdParam = Type.Object({ id: Type.String({ maxLength: 64 }) }, { additionalProperties: false });
const page = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.page_size_max })),
  cursor: Type.Optional(Type.String({ maxLength: 64 })),
};
const Page = <T extends TSchema>(item: T) =>
  Type.Object({ items: Type.Array(item), next_cursor: Type.Union([Type.String(), Type.Null()]) });
const Note = Type.Optional(Type.String({ maxLength: LIMITS.note_chars_max }));
const NoteBody = Type.Object({ note: Note }, { additionalProperties: false });
const Text = Type.String();
const Health = Type.Object({ status: Type.String(), checks: Type.Optional(Type.Record(Type.String(), Type.String())) });
const onRun: readonly ErrorCode[] = [...COMMON_ERRORS, "NOT_FOUND", "RUN_TERMINAL", "SHUTTING_DOWN"];

export const ROUTES = {
  startRun: {
    method: "POST",
    path: "/runs",
    permission: "runs:execute",
    summary: "Starts a run of an agent or a workflow.",
    body: StartRun,
    status: 201,
    response: Run,
    idempotent: true,
    errors: [...COMMON_ERRORS, "RUN_REFUSED", "IDEMPOTENCY_MISMATCH", "CONFLICT", "OVERLOADED", "SHUTTING_DOWN"],
  },
  listRuns: {
    method: "GET",
    path: "/runs",
    permission: "runs:read",
    tool: "list_runs",
    summary: "Lists runs, newest first.",
    query: Type.Object(
      {
        ...page,
        state: Type.Optional(Name),
        kind: Type.Optional(Name),
        target: Type.Optional(Type.String({ maxLength: 200 })),
      },
      { additionalProperties: false },
    ),
    status: 200,
    response: Page(Run),
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  getRun: {
    method: "GET",
    path: "/runs/:id",
    permission: "runs:read",
    tool: "get_run",
    summary: "One run.",
    params: IdParam,
    status: 200,
    response: Run,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  listEvents: {
    method: "GET",
    path: "/runs/:id/events",
    permission: "runs:read",
    tool: "list_events",
    summary:
      "Events of a run, as they were committed or (`order=logical`) as they happened: what came late stands where it belongs. A page ends with the event whose seq is the `after_seq` of the next one.",
    params: IdParam,
    query: Type.Object(
      {
        after_seq: Type.Optional(Type.Integer({ minimum: 0 })),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.events_page_max })),
        order: Type.Optional(EventOrder),
      },
      { additionalProperties: false },
    ),
    status: 200,
    response: Page(Event),
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  streamEvents: {
    method: "GET",
    path: "/runs/:id/stream",
    permission: "runs:read",
    summary:
      "Events of a run as they are committed (server-sent events). The id of an event is its seq; Last-Event-ID resumes. A `consumer` goes on behind what it has acknowledged, wherever it was when it stopped. With `progress=true` what running calls say comes too (`event: progress`, without an id): tokens, and notes of tools.",
    params: IdParam,
    query: Type.Object(
      {
        progress: Type.Optional(Type.Union([Type.Literal("true"), Type.Literal("false")])),
        consumer: Type.Optional(Name),
      },
      { additionalProperties: false },
    ),
    status: 200,
    response: Text,
    produces: "text/event-stream",
    errors: [...COMMON_ERRORS, "NOT_FOUND", "OVERLOADED"],
  },
  ackStream: {
    method: "POST",
    path: "/runs/:id/stream/ack",
    permission: "runs:read",
    summary:
      "Keeps how far a named reader of a run's events has come; it never goes back. Each principal has its own readers.",
    params: IdParam,
    body: AckStream,
    status: 200,
    response: Type.Object({ consumer: Type.String(), acked_seq: Type.Integer() }),
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  cancelRun: {
    method: "POST",
    path: "/runs/:id/cancel",
    permission: "runs:execute",
    summary: "Stops a run; calls in flight are told within 2 s.",
    params: IdParam,
    body: Type.Object({ reason: Note }, { additionalProperties: false }),
    status: 200,
    response: Run,
    errors: onRun,
  },
  pauseRun: {
    method: "POST",
    path: "/runs/:id/pause",
    permission: "runs:execute",
    summary: "Starts no further calls until the run is resumed.",
    params: IdParam,
    status: 200,
    response: Run,
    errors: [...onRun, "RUN_NOT_WAITING"],
  },
  resumeRun: {
    method: "POST",
    path: "/runs/:id/resume",
    permission: "runs:execute",
    summary: "Goes on with a paused run.",
    params: IdParam,
    status: 200,
    response: Run,
    errors: [...onRun, "RUN_NOT_WAITING"],
  },
  retryRun: {
    method: "POST",
    path: "/runs/:id/retry",
    permission: "runs:execute",
    summary: "Starts a new run with the same target, version and input.",
    params: IdParam,
    status: 201,
    response: Run,
    idempotent: true,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "CONFLICT", "RUN_REFUSED", "IDEMPOTENCY_MISMATCH"],
  },
  inputRun: {
    method: "POST",
    path: "/runs/:id/input",
    permission: "runs:execute",
    summary: "Answers a run that waits for input.",
    params: IdParam,
    body: RunInput,
    status: 200,
    response: Run,
    errors: [...onRun, "RUN_NOT_WAITING"],
  },
  resolveStep: {
    method: "POST",
    path: "/runs/:id/steps/:step/resolve",
    permission: "approvals:resolve",
    summary: "Says what became of a step in doubt: completed, failed, or to be tried again.",
    params: Type.Object(
      { id: Type.String({ maxLength: 64 }), step: Type.String({ maxLength: 64 }) },
      { additionalProperties: false },
    ),
    body: ResolveStep,
    status: 200,
    response: Run,
    errors: [...onRun, "RUN_NOT_WAITING"],
  },
  overridePrivacy: {
    method: "POST",
    path: "/runs/:id/privacy-override",
    permission: "privacy:override",
    summary: "Lets a run be replayed and exported although a payload of it could not be redacted; on record.",
    params: IdParam,
    body: OverridePrivacy,
    status: 200,
    response: Run,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "CONFLICT", "SHUTTING_DOWN"],
  },
  amendRun: {
    method: "POST",
    path: "/runs/:id/amendments",
    permission: "runs:amend",
    summary:
      "Puts something right in a run that is over, sealed or not: it is said after what is recorded, which stays.",
    params: IdParam,
    body: AmendRun,
    status: 200,
    response: Run,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "CONFLICT", "SHUTTING_DOWN"],
  },
  listQuarantined: {
    method: "GET",
    path: "/runs/:id/quarantine",
    permission: "privacy:override",
    summary: "Payloads of a run that could not be looked at when they came, once that is overridden.",
    params: IdParam,
    status: 200,
    response: Type.Object({ items: Type.Array(QuarantinedPayload) }),
    errors: [...COMMON_ERRORS, "NOT_FOUND", "PRIVACY_RISK", "ARTIFACT_CORRUPT"],
  },
  explainStep: {
    method: "GET",
    path: "/runs/:id/steps/:step/explain",
    permission: "runs:read",
    tool: "explain_step",
    summary: "Why a step was allowed, denied or held.",
    params: Type.Object(
      { id: Type.String({ maxLength: 64 }), step: Type.String({ maxLength: 64 }) },
      { additionalProperties: false },
    ),
    status: 200,
    response: Explanation,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  listApprovals: {
    method: "GET",
    path: "/approvals",
    permission: "approvals:read",
    tool: "list_approvals",
    summary: "Lists approvals, oldest first.",
    query: Type.Object({ ...page, state: Type.Optional(Name) }, { additionalProperties: false }),
    status: 200,
    response: Page(Approval),
    errors: COMMON_ERRORS,
  },
  getApproval: {
    method: "GET",
    path: "/approvals/:id",
    permission: "approvals:read",
    summary: "One approval, with what will run.",
    params: IdParam,
    status: 200,
    response: Approval,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  approve: {
    method: "POST",
    path: "/approvals/:id/approve",
    permission: "approvals:resolve",
    summary: "Allows exactly the call that is shown, once.",
    params: IdParam,
    body: NoteBody,
    status: 200,
    response: Approval,
    errors: [...onRun, "APPROVAL_RESOLVED", "SELF_APPROVAL", "CONFLICT"],
  },
  reject: {
    method: "POST",
    path: "/approvals/:id/reject",
    permission: "approvals:resolve",
    summary: "Refuses the call; the agent is told and goes on.",
    params: IdParam,
    body: NoteBody,
    status: 200,
    response: Approval,
    errors: [...onRun, "APPROVAL_RESOLVED", "SELF_APPROVAL", "CONFLICT"],
  },
  applyManifests: {
    method: "POST",
    path: "/registry/apply",
    permission: "registry:write",
    summary: "Applies manifests (YAML): all or none, idempotent.",
    body: Text,
    accepts: "application/yaml",
    status: 200,
    response: Type.Object({ items: Type.Array(Applied) }),
    errors: [...COMMON_ERRORS, "MANIFEST_INVALID", "EXPRESSION_INVALID", "PAYLOAD_TOO_LARGE", "DEPENDENCY_UNAVAILABLE"],
  },
  listRegistry: {
    method: "GET",
    path: "/registry",
    permission: "registry:read",
    tool: "list_registry",
    summary: "Every version of every resource.",
    status: 200,
    response: Type.Object({
      items: Type.Array(
        Type.Object({
          kind: Type.String(),
          name: Type.String(),
          version: Type.Integer(),
          digest: Type.String(),
          state: Type.String(),
          envs: Type.Array(Type.String()),
          created_by: Type.String(),
          created_at: Type.String(),
        }),
      ),
    }),
    errors: COMMON_ERRORS,
  },
  getRegistryItem: {
    method: "GET",
    path: "/registry/:kind/:name",
    permission: "registry:read",
    tool: "get_registry_item",
    summary: "The newest version of a resource, with what was applied.",
    params: Type.Object({ kind: Name, name: Name }, { additionalProperties: false }),
    status: 200,
    response: Type.Object({
      kind: Type.String(),
      name: Type.String(),
      version: Type.Integer(),
      digest: Type.String(),
      state: Type.String(),
      spec: Type.Unknown(),
    }),
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  promote: {
    method: "POST",
    path: "/registry/promote",
    permission: "registry:write",
    summary: "Makes an environment use a version.",
    body: Type.Object(
      { kind: Name, name: Name, version: Type.Integer({ minimum: 1 }), env: Name },
      { additionalProperties: false },
    ),
    status: 200,
    response: Type.Object({ kind: Type.String(), name: Type.String(), version: Type.Integer(), env: Type.String() }),
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  ...JOURNAL_ROUTES,
  putArtifact: {
    method: "POST",
    path: "/artifacts",
    permission: "runs:execute",
    summary: "Stores bytes; the answer is their digest. With `digest`, only bytes that have it are taken.",
    query: Type.Object({ digest: Type.Optional(Type.String({ maxLength: 80 })) }, { additionalProperties: false }),
    body: Text,
    accepts: "application/octet-stream",
    status: 201,
    response: Type.Object({ digest: Type.String(), size: Type.Integer() }),
    errors: [...COMMON_ERRORS, "PAYLOAD_TOO_LARGE"],
  },
  getArtifact: {
    method: "GET",
    path: "/artifacts/:digest",
    permission: "runs:read",
    summary: "Bytes of an artifact; the digest is checked.",
    params: Type.Object({ digest: Type.String({ maxLength: 80 }) }, { additionalProperties: false }),
    status: 200,
    response: Text,
    produces: "application/octet-stream",
    errors: [...COMMON_ERRORS, "NOT_FOUND", "ARTIFACT_CORRUPT"],
  },
  ...TOOL_ROUTES,
  ...TASK_ROUTES,
  ...TRIGGER_ROUTES,
  ...WORKER_ROUTES,
  ...REPLAY_ROUTES,
  ...CAPTURE_ROUTES,
  metrics: {
    method: "GET",
    path: "/metrics",
    permission: "metrics:read",
    summary: "Figures of this process in the Prometheus text format.",
    node: "each",
    status: 200,
    response: Text,
    produces: "text/plain",
    errors: COMMON_ERRORS,
  },
  status: {
    method: "GET",
    path: "/status",
    permission: "admin:read",
    summary: "Versions, sizes, open and stuck runs, budgets.",
    status: 200,
    response: Type.Unknown(),
    errors: COMMON_ERRORS,
  },
  live: {
    method: "GET",
    path: "/healthz",
    permission: "public",
    summary: "The process runs.",
    node: "each",
    status: 200,
    response: Health,
    errors: [],
  },
  ready: {
    method: "GET",
    path: "/readyz",
    permission: "public",
    summary: "Requests will be served: the journal can be written.",
    node: "each",
    status: 200,
    response: Health,
    errors: ["DATABASE_UNAVAILABLE"],
  },
  openapi: {
    method: "GET",
    path: "/openapi.json",
    permission: "public",
    summary: "This description.",
    node: "each",
    status: 200,
    response: Type.Unknown(),
    errors: [],
  },
} as const satisfies Record<string, Route>;

export type RouteId = keyof typeof ROUTES;
