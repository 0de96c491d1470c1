// Reads what producers of other versions send as envelope 1.0: the names of the version before (0.x, flat and in the words of
// its time), and aliases of types. Pure; what is sent is never changed where it is kept, only how it is read.
import type { JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";
import { ENVELOPE_MAJOR } from "../contract/ingest.ts";

const ALIASES: Readonly<Record<string, string>> = {
  "run.completed": "run.succeeded",
  "run.canceled": "run.cancelled",
  "agent.delegated": "agent.started",
  "agent.returned": "agent.ended",
};

/** Types of version 0, with how their data reads now. */
const TYPES_V0: Readonly<Record<string, (data: JsonObject) => [type: string, data: JsonObject]>> = {
  run_started: (data) => [
    "run.started",
    { ...data, agent: data["app_id"] ?? "", env: data["environment"] ?? "dev", input: data["input_summary"] ?? null },
  ],
  input_received: (data) => ["run.input", { ...data, content: data["input"] ?? data["input_hash"] ?? null }],
  prompt_rendered: (data) => [
    "prompt.rendered",
    {
      ...data,
      rendered: data["rendered_prompt_ref"] ?? null,
      template: data["template_id"] ?? "",
      version: data["template_version"] ?? null,
    },
  ],
  retrieval_executed: (data) => [
    "retrieval.completed",
    { ...data, documents: data["candidate_list"] ?? [], query: data["query_text_ref"] ?? null },
  ],
  tool_called: (data) => ["tool.requested", { ...data, args: data["args"] ?? {}, tool: data["name"] ?? "" }],
  tool_result: (data) =>
    data["status"] === "timeout" || data["status"] === "error"
      ? ["tool.failed", { ...data, code: data["error_class"] ?? "error", message: data["error_message_ref"] ?? "" }]
      : ["tool.completed", { ...data, result: data["result"] ?? data["result_ref"] ?? null }],
  model_called: (data) => ["model.requested", { ...data, model: data["model_id"] ?? "" }],
  model_result: (data) => ["model.completed", { ...data, content: data["response"] ?? null, ...usageV0(data) }],
  validator_decision: (data) => ["validation.decided", { ...data, validator: data["validator"] ?? "unnamed" }],
  safety_decision: (data) => ["safety.decided", { ...data, category: data["category"] ?? "unnamed" }],
  final_output: (data) => ["run.output", { ...data, content: data["output"] ?? data["output_ref"] ?? null }],
  run_completed: (data) => ["run.succeeded", data],
  run_failed: (data) => [
    "run.failed",
    { ...data, code: data["error_class"] ?? "error", message: data["error_message_ref"] ?? "" },
  ],
};

function usageV0(data: JsonObject): JsonObject {
  const given = data["token_usage"];
  if (!isObject(given)) return {};
  return {
    usage: {
      input_tokens: given["prompt_tokens"] ?? given["input_tokens"] ?? 0,
      output_tokens: given["completion_tokens"] ?? given["output_tokens"] ?? 0,
    },
  };
}

/** Major version that an event says it has; null when it says none that can be read. */
export function majorOf(event: JsonObject): number | null {
  const said = event["v"] ?? event["schema_version"] ?? `${ENVELOPE_MAJOR}.0`;
  const match = typeof said === "string" ? /^(\d{1,4})\.\d{1,4}$/.exec(said) : null;
  return match ? Number(match[1]) : null;
}

/** An event of any version that is read, as one of version 1; null when its version is not read. */
export function upcast(event: JsonObject): JsonObject | null {
  const major = majorOf(event);
  if (major === ENVELOPE_MAJOR - 1) return fromV0(event);
  if (major !== ENVELOPE_MAJOR) return null;
  const alias = typeof event["type"] === "string" ? ALIASES[event["type"]] : undefined;
  return alias === undefined ? event : { ...event, type: alias };
}

function fromV0(event: JsonObject): JsonObject {
  const payload: JsonObject = isObject(event["payload"]) ? event["payload"] : {};
  const named = TYPES_V0[String(event["event_type"])];
  const [type, data] = named ? named(payload) : [String(event["event_type"]).replace("_", "."), payload];
  const out: JsonObject = { data, type, v: "1.0" };
  const { sequence_no, step_id, parent_step_id, timestamp_utc, attempt } = event;
  for (const [key, value] of Object.entries({ sequence_no, step_id, parent_step_id, attempt }))
    if (value !== undefined && value !== null) out[key] = value;
  if (typeof timestamp_utc === "string") out["occurred_at"] = timestamp_utc;
  return out;
}
