// The worker protocol: what remote workers and the control plane say to each other, and the views of workers. A worker has a
// credential of its own and no way to the database. Every job carries the token of its lease; a result without the right
// token is refused.
import { Type, type Static } from "typebox";
import { Name } from "./ids.ts";
import type { Job, JobResult } from "./jobs.ts";
import { LIMITS } from "./limits.ts";
import { Progress } from "./progress.ts";
import type { JobProgress } from "./progress.ts";

/** Tells a worker's token from an operator's at a glance, and to scanners that look for leaked ones. */
export const WORKER_TOKEN_PREFIX = "qdw_";

const closed = { additionalProperties: false };
export const Label = Type.String({ pattern: "^[a-z0-9][a-z0-9._=-]{0,63}$" });
const Labels = Type.Array(Label, { maxItems: LIMITS.labels_max, uniqueItems: true });
const Ref = {
  tenant_id: Type.String({ maxLength: 64 }),
  run_id: Type.String({ maxLength: 64 }),
  step: Type.Integer({ minimum: 1 }),
  attempt: Type.Integer({ minimum: 1 }),
};

/** One job on a worker: the attempt, and the proof that this worker was given it. */
export const LeaseRef = Type.Object(
  { ...Ref, attempt_epoch: Type.Integer({ minimum: 0 }), token: Type.String({ maxLength: 128 }) },
  closed,
);
export type LeaseRef = Static<typeof LeaseRef>;

export const LeaseRequest = Type.Object(
  {
    instance: Type.String({ minLength: 1, maxLength: 64, description: "Names the process; a restart is another one." }),
    labels: Labels,
    max: Type.Integer({ minimum: 1, maximum: LIMITS.worker_batch_max }),
    wait_ms: Type.Integer({ minimum: 0, maximum: LIMITS.worker_wait_ms_max }),
  },
  closed,
);
export type LeaseRequest = Static<typeof LeaseRequest>;

export interface LeasedJob {
  readonly job: Job;
  readonly attempt_epoch: number;
  readonly token: string;
}

const Leased = Type.Object({ job: Type.Unknown(), attempt_epoch: Type.Integer(), token: Type.String() });
export const LeaseAnswer = Type.Object({
  jobs: Type.Array(Leased),
  drain: Type.Boolean({ description: "Take no more jobs and end when those at hand are done." }),
});

export const HeartbeatRequest = Type.Object(
  {
    instance: Type.String({ minLength: 1, maxLength: 64 }),
    labels: Labels,
    running: Type.Array(LeaseRef, { maxItems: 10_000 }),
    draining: Type.Optional(Type.Boolean()),
  },
  closed,
);
export type HeartbeatRequest = Static<typeof HeartbeatRequest>;

/** Where the owner of a group of runs answers; empty while it has none. */
export const OwnedGroup = Type.Object({
  group: Type.Integer(),
  url: Type.String(),
  shard_epoch: Type.Integer({ description: "Raised by each take-over: the higher one is right." }),
});
export type OwnedGroup = Static<typeof OwnedGroup>;

export const HeartbeatAnswer = Type.Object({
  stop: Type.Array(LeaseRef, { description: "Jobs to stop: their run was stopped, or they are somebody else's now." }),
  drain: Type.Boolean(),
  groups: Type.Array(OwnedGroup, {
    description: "Every group of runs, where several control nodes share them out; a worker talks to each owner.",
  }),
});
export type HeartbeatAnswer = Static<typeof HeartbeatAnswer>;

const Failure = Type.Object(
  {
    class: Type.Union(
      ["transient", "rate_limited", "permanent", "unknown_outcome", "cancelled"].map((value) => Type.Literal(value)),
    ),
    code: Type.String({ maxLength: 128 }),
    message: Type.String({ maxLength: 20_000 }),
    retry_after_ms: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  closed,
);
const Usage = Type.Object(
  {
    input_tokens: Type.Integer({ minimum: 0 }),
    output_tokens: Type.Integer({ minimum: 0 }),
    cached_input_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  closed,
);
const Artifact = Type.Object({ digest: Type.String({ maxLength: 80 }), bytes: Type.Integer({ minimum: 0 }) }, closed);
const Box = Type.Object({ ...Artifact.properties, key: Type.String({ maxLength: 64 }) }, closed);
const Outcome = Type.Union([
  Type.Object(
    {
      ok: Type.Literal(true),
      kind: Type.Literal("tool"),
      result: Type.Unknown(),
      result_ref: Type.Optional(Artifact),
      result_box: Type.Optional(Box),
      is_error: Type.Optional(Type.Boolean()),
    },
    closed,
  ),
  Type.Object(
    {
      ok: Type.Literal(true),
      kind: Type.Literal("model"),
      content: Type.Union([Type.String(), Type.Null()]),
      content_ref: Type.Optional(Artifact),
      tool_calls: Type.Array(Type.Object({ id: Type.String(), name: Type.String(), arguments: Type.String() }, closed)),
      finish_reason: Type.String({ maxLength: 64 }),
      usage: Usage,
      response_model: Type.String({ maxLength: 256 }),
      cut_off: Type.Optional(Type.Boolean()),
    },
    closed,
  ),
  Type.Object({ ok: Type.Literal(false), failure: Failure, usage: Type.Optional(Usage) }, closed),
]);

export const ResultsRequest = Type.Object(
  {
    instance: Type.String({ minLength: 1, maxLength: 64 }),
    labels: Labels,
    max: Type.Integer({
      minimum: 0,
      maximum: LIMITS.worker_batch_max,
      description: "Room for jobs that follow from these results; they come with the answer.",
    }),
    results: Type.Array(
      Type.Object(
        {
          ...Ref,
          attempt_epoch: Type.Integer({ minimum: 0 }),
          token: Type.String({ maxLength: 128 }),
          kind: Type.Union([Type.Literal("tool"), Type.Literal("model")]),
          duration_ms: Type.Integer({ minimum: 0 }),
          outcome: Outcome,
        },
        closed,
      ),
      { maxItems: LIMITS.worker_batch_max },
    ),
  },
  closed,
);
/** A result with the proof of its lease. */
export type LeasedResult = JobResult & { readonly attempt_epoch: number; readonly token: string };

/** Why a result was not taken: nothing in flight (late), settled before (duplicate), another worker's (foreign). */
export const RESULT_CODES = ["STALE_RESULT", "DUPLICATE_RESULT", "FOREIGN_RESULT"] as const;
export const Verdict = Type.Object({
  accepted: Type.Boolean(),
  code: Type.Optional(Type.Union(RESULT_CODES.map((value) => Type.Literal(value)))),
});
export interface Verdict {
  readonly accepted: boolean;
  readonly code?: (typeof RESULT_CODES)[number];
}
export const ResultsAnswer = Type.Object({ items: Type.Array(Verdict), jobs: Type.Array(Leased) });
export interface ResultsAnswer {
  readonly items: readonly Verdict[];
  readonly jobs: readonly LeasedJob[];
}
export interface ResultsRequest {
  readonly instance: string;
  readonly labels: readonly string[];
  readonly max: number;
  readonly results: readonly LeasedResult[];
}

export const ProgressRequest = Type.Object(
  {
    instance: Type.String({ minLength: 1, maxLength: 64 }),
    items: Type.Array(Type.Object({ ...Progress.properties, tenant_id: Type.String({ maxLength: 64 }) }, closed), {
      maxItems: LIMITS.worker_batch_max,
    }),
  },
  closed,
);
export interface ProgressRequest {
  readonly instance: string;
  readonly items: readonly JobProgress[];
}
export const ProgressAnswer = Type.Object({ taken: Type.Integer() });

export const MintWorker = Type.Object({ name: Name, labels: Type.Optional(Labels) }, closed);
export const MintedWorker = Type.Object({
  name: Type.String(),
  labels: Type.Array(Type.String()),
  token: Type.String({ description: "Shown once; only its hash is kept." }),
});
export type MintedWorker = Static<typeof MintedWorker>;

export const WorkerView = Type.Object({
  name: Type.String(),
  labels: Type.Array(Type.String()),
  created_by: Type.String(),
  created_at: Type.String(),
  revoked_at: Type.Union([Type.String(), Type.Null()]),
  instances: Type.Array(
    Type.Object({
      instance: Type.String(),
      labels: Type.Array(Type.String()),
      state: Type.Union([Type.Literal("ready"), Type.Literal("draining"), Type.Literal("lost")]),
      running: Type.Integer(),
      completed: Type.Integer(),
      refused: Type.Integer(),
      seen_ms_ago: Type.Integer(),
    }),
  ),
});
export type WorkerView = Static<typeof WorkerView>;

export const QueueView = Type.Object({
  driver: Type.String(),
  waiting: Type.Integer(),
  running: Type.Integer(),
  oldest_ms: Type.Integer(),
  arrived_per_s: Type.Number({ description: "Jobs that came, over the last minute." }),
  done_per_s: Type.Number({ description: "Results that were taken, over the last minute." }),
  lanes: Type.Array(
    Type.Object({
      tenant_id: Type.String(),
      priority: Type.Integer(),
      needs: Type.Array(Type.String()),
      waiting: Type.Integer(),
      served_by: Type.Integer({ description: "Workers that have the labels." }),
    }),
  ),
  dead: Type.Array(
    Type.Object({ run_id: Type.String(), step: Type.Integer(), target: Type.String(), attempt: Type.Integer() }),
  ),
});
export type QueueView = Static<typeof QueueView>;

export const ShardView = Type.Object({
  group: Type.Integer(),
  node: Type.String(),
  url: Type.String(),
  shard_epoch: Type.Integer(),
  head: Type.Integer(),
  open_runs: Type.Integer(),
  lease_ms: Type.Union([Type.Integer(), Type.Null()], {
    description: "What is left of the owner's lease; null where a data folder's lock stands for it.",
  }),
});
export type ShardView = Static<typeof ShardView>;
