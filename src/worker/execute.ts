// Executes any job: picks the executor, keeps a provider's concurrency, checks outputs, moves what is large into
// artifacts (written before the event that names them).
import { BOX_KEY_BYTES, boxed } from "../kit/box.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import { LIMITS } from "../contract/limits.ts";
import type { ArtifactRef, JobOutcome, Message, ModelJob, ToolJob } from "../contract/jobs.ts";
import type { BlobStore, Net, Secrets } from "../contract/ports.ts";
import type { McpTools } from "../contract/tools.ts";
import { preview } from "../core/artifacts.ts";
import { ARGS_LOST } from "../core/gate.ts";
import { faultText, schemaFaults } from "../core/schema.ts";
import { executeBuiltin } from "./builtin-tool.ts";
import { executeHttp } from "./http-tool.ts";
import { executeMcp } from "./mcp-tool.ts";
import { executeLiveModel } from "./model.ts";
import { JobError } from "./pool.ts";
import type { Execute, JobContext } from "./pool.ts";
import { recordedAnswer } from "./recorded-model.ts";
import type { RecordedAnswers } from "./recorded-model.ts";
import { Semaphore } from "./semaphore.ts";

export interface ExecuteDeps {
  readonly net: Pick<Net, "fetch">;
  readonly secrets: Secrets;
  readonly blobs: Pick<BlobStore, "get" | "put">;
  readonly clock: Clock;
  readonly random: Random;
  readonly mcp: McpTools;
  readonly private_origins: readonly string[];
  /** Answers of a recorded model by the name of its recording. */
  readonly recording: (name: string) => Promise<RecordedAnswers>;
}

export function createExecutor(deps: ExecuteDeps): Execute {
  const slots = new Map<string, Semaphore>();
  return (job, context) => (job.kind === "tool" ? runTool(job, context, deps) : runModel(job, context, deps, slots));
}

async function runTool(job: ToolJob, context: JobContext, deps: ExecuteDeps): Promise<JobOutcome> {
  if (job.args_lost) throw new JobError({ class: "permanent", code: "args_lost", message: ARGS_LOST });
  const outcome = await toolOutcome(job, context, deps);
  if (!outcome.ok || outcome.kind !== "tool") return outcome;
  const { output_schema } = job.tool;
  if (output_schema && !outcome.is_error) {
    const faults = schemaFaults(output_schema, outcome.result);
    // The effect has happened; only its answer is not what was promised.
    if (faults.length > 0)
      throw new JobError({
        class: "permanent",
        code: "schema_mismatch",
        message: `The output of ${job.tool.name} does not fit its schema: ${faultText(faults)}`,
      });
  }
  return storeLarge(job, outcome, deps);
}

function toolOutcome(job: ToolJob, context: JobContext, deps: ExecuteDeps): Promise<JobOutcome> {
  switch (job.tool.kind) {
    case "builtin":
      return executeBuiltin(job, deps.clock, context);
    case "http":
      return executeHttp(job, deps, context.signal);
    case "mcp":
      return executeMcp(job, deps.mcp, context);
  }
}

/** Text above the inline limit goes to an artifact; the event keeps its beginning and the digest. */
async function storeLarge(
  job: ToolJob,
  outcome: Extract<JobOutcome, { ok: true; kind: "tool" }>,
  { blobs, random }: Pick<ExecuteDeps, "blobs" | "random">,
): Promise<JobOutcome> {
  const text = typeof outcome.result === "string" ? outcome.result : canonicalJson(outcome.result);
  const bytes = Buffer.byteLength(text);
  if (bytes <= LIMITS.inline_bytes_max) return outcome;
  if (!job.boxes_result)
    return { ...outcome, result: preview(text), result_ref: await stored(job.tenant_id, text, blobs) };
  const key = random.bytes(BOX_KEY_BYTES);
  const digest = await blobs.put(job.tenant_id, boxed(key, random, Buffer.from(text)));
  return { ...outcome, result: null, result_box: { bytes, digest, key: Buffer.from(key).toString("base64") } };
}

async function stored(tenant_id: string, text: string, blobs: ExecuteDeps["blobs"]): Promise<ArtifactRef> {
  return { digest: await blobs.put(tenant_id, Buffer.from(text)), bytes: Buffer.byteLength(text) };
}

async function runModel(
  job: ModelJob,
  context: JobContext,
  deps: ExecuteDeps,
  slots: Map<string, Semaphore>,
): Promise<JobOutcome> {
  const { route } = job;
  if (route.provider === "recorded") return recordedAnswer(job, await deps.recording(route.recording ?? ""));
  const key = `${job.tenant_id}/${route.name}@${route.version}`;
  let slot = slots.get(key);
  if (!slot) slots.set(key, (slot = new Semaphore(route.concurrency_max)));
  const release = await slot.acquire();
  try {
    const outcome = await executeLiveModel(await withArtifacts(job, deps.blobs), deps, context);
    if (outcome.ok && outcome.kind === "model" && Buffer.byteLength(outcome.content ?? "") > LIMITS.inline_bytes_max) {
      const text = outcome.content ?? "";
      return { ...outcome, content: preview(text), content_ref: await stored(job.tenant_id, text, deps.blobs) };
    }
    return outcome;
  } finally {
    release();
  }
}

/** The model reads whole texts, not the previews that events hold. */
async function withArtifacts(job: ModelJob, blobs: ExecuteDeps["blobs"]): Promise<ModelJob> {
  const whole = async (message: Message): Promise<Message> => {
    if ((message.role !== "tool" && message.role !== "assistant") || !message.ref) return message;
    return { ...message, content: (await blobs.get(job.tenant_id, message.ref.digest)).toString("utf8") };
  };
  return { ...job, messages: await Promise.all(job.messages.map(whole)) };
}
