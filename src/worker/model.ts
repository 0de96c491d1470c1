// The model port over the AI SDK's providers (OpenAI, Anthropic, Google, any OpenAI-compatible endpoint). Streams, so
// that a call can be cut when it passes its reservation; never retries by itself: retries are decided and recorded by
// the orchestrator. SDKs load at the first live call.
import type { FinishReason, JSONSchema7, LanguageModel, ModelMessage, ToolSet } from "ai";
import type { Clock } from "../kit/clock.ts";
import { isObject, parseJson } from "../kit/json.ts";
import { LIMITS } from "../contract/limits.ts";
import { messageOf } from "../contract/errors.ts";
import { NetRefused } from "../contract/ports.ts";
import type { BlobStore, Net, Secrets } from "../contract/ports.ts";
import type {
  ContentPart,
  JobFailure,
  JobOutcome,
  Message,
  ModelJob,
  ModelRoute,
  ToolCall,
  Usage,
} from "../contract/jobs.ts";
import { scrubText } from "../kit/scrub.ts";
import { JobError } from "./pool.ts";
import type { JobContext } from "./pool.ts";

export interface ModelDeps {
  readonly net: Pick<Net, "fetch">;
  readonly secrets: Secrets;
  readonly blobs: Pick<BlobStore, "get">;
  readonly clock: Clock;
  readonly private_origins: readonly string[];
}

/** Names in a provider's request may hold letters, digits, _ and -; ours hold dots too. */
const wireName = (name: string) => name.replaceAll(".", "__");

async function languageModel(route: ModelRoute, deps: ModelDeps): Promise<LanguageModel> {
  const apiKey = route.api_key === null ? "unused" : await deps.secrets.resolve(route.api_key);
  const policy = { private_origins: deps.private_origins, response_bytes_max: LIMITS.artifact_bytes_max };
  const fetch = ((input: string | URL | Request, init?: RequestInit) =>
    deps.net.fetch(
      input instanceof Request ? input.url : String(input),
      init ?? {},
      policy,
    )) as typeof globalThis.fetch;
  const base = route.base_url === null ? {} : { baseURL: route.base_url };
  switch (route.provider) {
    case "openai":
      return (await import("@ai-sdk/openai")).createOpenAI({ apiKey, fetch, ...base }).chat(route.model);
    case "anthropic":
      return (await import("@ai-sdk/anthropic")).createAnthropic({ apiKey, fetch, ...base })(route.model);
    case "google":
      return (await import("@ai-sdk/google")).createGoogleGenerativeAI({ apiKey, fetch, ...base })(route.model);
    case "openai-compatible": {
      const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
      return createOpenAICompatible({
        name: route.name,
        apiKey,
        fetch,
        baseURL: route.base_url ?? "",
        includeUsage: true,
      })(route.model);
    }
    case "recorded":
      throw new JobError({ class: "permanent", code: "not_live", message: "A recorded model is not called live." });
  }
}

async function mediaPart(
  part: Exclude<ContentPart, { type: "text" }>,
  tenant_id: string,
  blobs: Pick<BlobStore, "get">,
) {
  const data = await blobs.get(tenant_id, part.artifact);
  return part.type === "image"
    ? { type: "image" as const, image: data, mediaType: part.media_type }
    : {
        type: "file" as const,
        data,
        mediaType: part.media_type,
        ...(part.filename === undefined ? {} : { filename: part.filename }),
      };
}

function parsedInput(text: string): unknown {
  try {
    return text.trim() === "" ? {} : parseJson(text);
  } catch {
    // What the model wrote was no JSON; the provider gets it back in a form that its wire can hold.
    return { invalid_json: text };
  }
}

async function toModelMessage(
  message: Message,
  tenant_id: string,
  blobs: Pick<BlobStore, "get">,
): Promise<ModelMessage> {
  switch (message.role) {
    case "system":
      return { role: "system", content: message.content };
    case "user": {
      if (typeof message.content === "string") return { role: "user", content: message.content };
      const parts = message.content.map(async (part) =>
        part.type === "text" ? part : mediaPart(part, tenant_id, blobs),
      );
      return { role: "user", content: await Promise.all(parts) };
    }
    case "assistant": {
      const text =
        message.content === null || message.content === "" ? [] : [{ type: "text" as const, text: message.content }];
      const calls = (message.tool_calls ?? []).map((call) => ({
        type: "tool-call" as const,
        toolCallId: call.id,
        toolName: wireName(call.name),
        input: parsedInput(call.arguments),
      }));
      return { role: "assistant", content: [...text, ...calls] };
    }
    case "tool": {
      const output = message.is_error
        ? { type: "error-text" as const, value: message.content }
        : { type: "text" as const, value: message.content };
      return {
        role: "tool",
        content: [{ type: "tool-result", toolCallId: message.call_id, toolName: wireName(message.name), output }],
      };
    }
  }
}

async function toolSet(job: ModelJob): Promise<ToolSet> {
  const { jsonSchema, tool } = await import("ai");
  const entries = job.tools.map((definition) => [
    wireName(definition.name),
    tool({ description: definition.description, inputSchema: jsonSchema(definition.input_schema as JSONSchema7) }),
  ]);
  return Object.fromEntries(entries) as ToolSet;
}

/** Output far above what was reserved, by any measure of a token: the provider ignores its limit. */
function passesReservation(deltas: number, bytes: number, reserved_tokens: number): boolean {
  return deltas > reserved_tokens + 256 || bytes > (reserved_tokens + 256) * 24;
}

interface Streamed {
  content: string;
  calls: ToolCall[];
  usage: Usage;
  finish: FinishReason | "cut_off";
  model: string;
  cut_off: boolean;
}

async function stream(job: ModelJob, deps: ModelDeps, context: JobContext): Promise<Streamed> {
  const { signal } = context;
  const { streamText } = await import("ai");
  const cut = new AbortController();
  const names = new Map(job.tools.map((definition) => [wireName(definition.name), definition.name]));
  const messages = await Promise.all(job.messages.map((message) => toModelMessage(message, job.tenant_id, deps.blobs)));
  const result = streamText({
    model: await languageModel(job.route, deps),
    messages,
    tools: await toolSet(job),
    maxOutputTokens: job.max_output_tokens,
    maxRetries: 0,
    allowSystemInMessages: true,
    abortSignal: AbortSignal.any([signal, cut.signal, AbortSignal.timeout(job.route.timeout_ms)]),
    onError: () => undefined,
    ...job.params,
  });
  const out: Streamed = {
    content: "",
    calls: [],
    usage: { input_tokens: 0, output_tokens: 0 },
    finish: "stop",
    model: job.route.model,
    cut_off: false,
  };
  let deltas = 0;
  let bytes = 0;
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "abort") throw new DOMException("aborted", signal.aborted ? "AbortError" : "TimeoutError");
    if (part.type === "text-delta") {
      out.content += part.text;
      context.say("tokens", part.text);
    }
    if (part.type === "text-delta" || part.type === "tool-input-delta" || part.type === "reasoning-delta") {
      deltas += 1;
      bytes += Buffer.byteLength(part.type === "tool-input-delta" ? part.delta : part.text);
    }
    if (part.type === "tool-call") {
      const name = names.get(part.toolName) ?? part.toolName;
      out.calls.push({
        id: part.toolCallId,
        name,
        arguments: typeof part.input === "string" ? part.input : JSON.stringify(part.input ?? {}),
      });
    }
    if (part.type === "finish-step") {
      out.model = part.response.modelId;
      out.finish = part.finishReason;
      out.usage = usageOf(part.usage);
    }
    if (passesReservation(deltas, bytes, job.reserved_output_tokens)) {
      cut.abort();
      // The provider will not tell usage any more: what was reserved is what is charged.
      return {
        ...out,
        calls: [],
        finish: "cut_off",
        cut_off: true,
        usage: { input_tokens: 0, output_tokens: job.reserved_output_tokens },
      };
    }
  }
  return out;
}

function usageOf(usage: {
  inputTokens?: number | undefined;
  outputTokens?: number | undefined;
  cachedInputTokens?: number | undefined;
}): Usage {
  const cached = usage.cachedInputTokens ?? 0;
  return {
    input_tokens: usage.inputTokens ?? 0,
    output_tokens: usage.outputTokens ?? 0,
    ...(cached > 0 ? { cached_input_tokens: cached } : {}),
  };
}

function retryAfterMs(headers: unknown): number | undefined {
  const value = isObject(headers) ? headers["retry-after"] : undefined;
  if (typeof value !== "string") return undefined;
  const seconds = Number(value);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
}

/** A model call may be repeated: it has no effect but its cost. So every failure that may pass is transient. */
export function modelFailure(error: unknown): JobFailure {
  if (error instanceof JobError) return error.failure;
  if (error instanceof NetRefused) return { class: "permanent", code: "egress_refused", message: error.message };
  const cause = isObject(error) && isObject(error["lastError"]) ? error["lastError"] : error;
  const status = isObject(cause) && typeof cause["statusCode"] === "number" ? cause["statusCode"] : 0;
  const message = messageOf(cause).slice(0, 1_000);
  if (status === 429) {
    const after = isObject(cause) ? retryAfterMs(cause["responseHeaders"]) : undefined;
    return {
      class: "rate_limited",
      code: "provider_429",
      message,
      ...(after === undefined ? {} : { retry_after_ms: after }),
    };
  }
  if (status >= 500 || status === 408 || status === 409)
    return { class: "transient", code: `provider_${status}`, message };
  if (status >= 400) return { class: "permanent", code: `provider_${status}`, message };
  if (error instanceof Error && error.name === "TimeoutError")
    return { class: "transient", code: "timeout", message: "The model did not answer in time." };
  if (error instanceof Error && error.name === "AbortError")
    return { class: "cancelled", code: "cancelled", message: "The call was cut off." };
  return { class: "transient", code: "provider_unreachable", message };
}

export async function executeLiveModel(job: ModelJob, deps: ModelDeps, context: JobContext): Promise<JobOutcome> {
  try {
    const out = await stream(job, deps, context);
    return {
      ok: true,
      kind: "model",
      content: out.content === "" && out.calls.length > 0 ? null : out.content,
      tool_calls: out.calls,
      finish_reason: out.finish,
      usage: out.usage,
      response_model: out.model,
      ...(out.cut_off ? { cut_off: true } : {}),
    };
  } catch (error) {
    const failure = modelFailure(error);
    const key = job.route.api_key === null ? "" : await deps.secrets.resolve(job.route.api_key).catch(() => "");
    throw new JobError({ ...failure, message: scrubText(failure.message, [key]) }, error);
  }
}
