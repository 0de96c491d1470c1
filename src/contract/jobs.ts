// What a worker gets and what it answers. The in-process pool and remote workers share it: a job is data only, it can
// cross a process border, and carries the token that fences it (step, attempt).
import type { JsonObject, Json } from "../kit/json.ts";
import type { KeyLimit } from "../kit/keyed-limit.ts";
import type { Capability } from "./capabilities.ts";
import type { EffectClass } from "./events.ts";
import type { Engine, Tier } from "./tasks.ts";

/** A message of a conversation, in a form of our own that no provider's change can break. */
export type Message =
  | { role: "system"; content: string }
  | { role: "user"; content: string | ContentPart[] }
  | { role: "assistant"; content: string | null; tool_calls?: ToolCall[]; ref?: ArtifactRef }
  | { role: "tool"; call_id: string; name: string; content: string; is_error?: boolean; ref?: ArtifactRef };

/** A text that is an artifact: `content` holds its beginning, the model gets the whole. */
export interface ArtifactRef {
  digest: string;
  bytes: number;
}

export type ContentPart =
  | { type: "text"; text: string }
  | { type: "image" | "file"; artifact: string; media_type: string; filename?: string };

/** A model's request for a tool. `arguments` is the text as the model wrote it: it may be no JSON at all. */
export interface ToolCall {
  id: string;
  name: string;
  arguments: string;
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  cached_input_tokens?: number;
}

/** A tool's definition as the model sees it and as the worker runs it. */
export interface ToolDefinition {
  readonly name: string;
  readonly version: number;
  readonly digest: string;
  readonly kind: "mcp" | "http" | "builtin";
  readonly description: string;
  readonly input_schema: JsonObject;
  readonly output_schema: JsonObject | null;
  readonly effect_class: EffectClass;
  readonly idempotent: boolean;
  readonly timeout_ms: number;
  readonly attempts_max: number;
  readonly cost_micro_usd: number;
  readonly config: JsonObject;
  /** Calls of it at a time, over all workers; absent: as many as there are. */
  readonly concurrency_max?: number;
  /** Labels that a worker must have to run it, sorted; none: every worker can. */
  readonly runs_on?: readonly string[];
  /** What it needs of the machine that it runs on; absent: nothing. */
  readonly requires?: readonly Capability[];
}

export interface ModelRoute {
  readonly name: string;
  readonly version: number;
  readonly provider: "openai" | "anthropic" | "google" | "openai-compatible" | "recorded";
  readonly model: string;
  readonly base_url: string | null;
  /** Reference to the key (`env:NAME` or `file:PATH`), never the key. */
  readonly api_key: string | null;
  readonly recording: string | null;
  readonly concurrency_max: number;
  readonly timeout_ms: number;
  readonly attempts_max: number;
  readonly runs_on?: readonly string[];
  /** Names of models that a proxied call goes to while this one does not answer. */
  readonly fallback?: readonly string[];
  /** Whose it is, how dear, and how slow: for tasks, which are routed by it. */
  readonly engine?: Engine;
  readonly tier?: Tier;
  readonly p95_ms?: number;
}

interface JobBase {
  readonly tenant_id: string;
  readonly run_id: string;
  readonly step: number;
  readonly attempt: number;
}

/** The agent whose call it is, where that limits how many of its calls run at a time. */
interface OfAgent {
  readonly agent?: { readonly name: string; readonly concurrency_max: number };
}

/** How urgent a run's jobs are: 0 (last) to 9 (first). */
export const PRIORITY_DEFAULT = 5;

export interface ToolJob extends JobBase, OfAgent {
  readonly kind: "tool";
  readonly tool: ToolDefinition;
  readonly args: JsonObject;
  readonly idempotency_key: string;
  /** What it gives is redacted before it is kept: a large result goes into a box instead of an artifact. */
  readonly boxes_result?: true;
  /** Its arguments were put away and cannot be opened any more: it must not be made. */
  readonly args_lost?: true;
}

/** A large result in a box with a key of its own: without the key nobody can read what was stored. */
export interface ResultBox extends ArtifactRef {
  readonly key: string;
}

export interface ModelJob extends JobBase, OfAgent {
  readonly kind: "model";
  readonly route: ModelRoute;
  readonly messages: readonly Message[];
  readonly tools: readonly Pick<ToolDefinition, "name" | "description" | "input_schema">[];
  readonly max_output_tokens: number;
  readonly params: { temperature?: number; top_p?: number; seed?: number };
  readonly output_schema: JsonObject | null;
  /** The stream is cut when it passes this. */
  readonly reserved_output_tokens: number;
}

export type Job = ToolJob | ModelJob;

/**
 * How a failure is to be treated. `transient` and `rate_limited`: nothing happened, try again. `permanent`: trying again
 * gives the same. `unknown_outcome`: the effect may have happened.
 */
export type FailureClass = "transient" | "rate_limited" | "permanent" | "unknown_outcome" | "cancelled";

export interface JobFailure {
  readonly class: FailureClass;
  readonly code: string;
  readonly message: string;
  readonly retry_after_ms?: number;
}

export type JobOutcome =
  | {
      ok: true;
      kind: "tool";
      result: Json;
      result_ref?: ArtifactRef;
      result_box?: ResultBox;
      is_error?: boolean;
      /** What was taken out of it, where it was looked at. */
      recorded?: JsonObject;
    }
  | {
      ok: true;
      kind: "model";
      content: string | null;
      content_ref?: ArtifactRef;
      tool_calls: ToolCall[];
      finish_reason: string;
      usage: Usage;
      response_model: string;
      cut_off?: boolean;
      /** What else a captured answer is recorded with: its raw bytes. */
      recorded?: JsonObject;
    }
  | {
      ok: false;
      failure: JobFailure;
      usage?: Usage;
      /** What a captured client was answered. */
      recorded?: JsonObject;
    };

export interface JobResult extends JobBase {
  readonly kind: "tool" | "model";
  readonly duration_ms: number;
  readonly outcome: JobOutcome;
}

/** Where jobs go: the pool in this process, or the dispatcher that hands them to remote workers. */
export interface JobQueue {
  dispatch(jobs: readonly Job[], priority: number): void;
  /** Tells whoever executes jobs of this run to stop. Results still come. */
  abort(run_id: string): void;
}

/** What this job counts against, where its tool or its agent limits how many run at a time. */
export function limitsOf(job: Job): readonly KeyLimit[] {
  const limits: KeyLimit[] = [];
  if (job.agent) limits.push({ key: `${job.tenant_id}/agent/${job.agent.name}`, max: job.agent.concurrency_max });
  if (job.kind === "tool" && job.tool.concurrency_max !== undefined)
    limits.push({ key: `${job.tenant_id}/tool/${job.tool.name}`, max: job.tool.concurrency_max });
  return limits;
}

/** Labels that a worker must have to run this job. */
export function needsOf(job: Job): readonly string[] {
  return (job.kind === "tool" ? job.tool.runs_on : job.route.runs_on) ?? [];
}
