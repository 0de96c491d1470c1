// Middleware for the Vercel AI SDK (language model specification v2 and v3): a model that it wraps is captured, whatever its
// provider. Types are structural: this imports nothing of the SDK.
import type { Json, JsonObject } from "../../kit/json.ts";
import { observeStream } from "./observe.ts";
import type { CaptureRun, OpenCall } from "./run.ts";
import type { Settings } from "./settings.ts";

type Part = { readonly type: string } & Record<string, unknown>;

interface Generated {
  readonly content: readonly Part[];
  readonly finishReason: unknown;
  readonly usage: unknown;
  readonly response?: { readonly modelId?: string } | undefined;
}

interface Streamed {
  readonly stream: ReadableStream<Part>;
}

interface Model {
  readonly modelId: string;
  readonly provider: string;
}

/** What `wrapLanguageModel({ model, middleware })` takes. */
export interface AiSdkMiddleware {
  readonly specificationVersion: "v3";
  // The SDK's own types say more than is needed here; what is passed through keeps them.
  wrapGenerate<T>(options: { doGenerate: () => PromiseLike<T>; params: object; model: Model }): Promise<T>;
  wrapStream<T>(options: { doStream: () => PromiseLike<T>; params: object; model: Model }): Promise<T>;
}

const API = "ai-sdk";

export function aiSdkMiddleware(settings: Settings, run: () => CaptureRun): AiSdkMiddleware {
  const requestOf = ({ params, model }: { params: object; model: Model }): JsonObject => {
    const {
      abortSignal: _signal,
      headers: _headers,
      includeRawChunks: _raw,
      ...request
    } = params as Record<string, unknown>;
    return { api: API, model: model.modelId, provider: model.provider, request: request as JsonObject };
  };
  const recorded = async (asked: JsonObject): Promise<Generated> => {
    const { model, request } = asked;
    const data = await run().recorded({ kind: "model", api: API, model: model ?? "", request: request ?? null });
    return data["generated"] as unknown as Generated;
  };
  return {
    specificationVersion: "v3",
    async wrapGenerate(options) {
      if (!settings.enabled) return options.doGenerate();
      const asked = requestOf(options);
      if (settings.replay) return { warnings: [], ...(await recorded(asked)) } as never;
      const call = await run().open("model", asked);
      try {
        const result = await options.doGenerate();
        call.completed(completed(result as unknown as Generated));
        return result;
      } catch (error) {
        call.failed(error);
        throw error;
      }
    },
    async wrapStream(options) {
      if (!settings.enabled) return options.doStream();
      const asked = requestOf(options);
      if (settings.replay) return { stream: replayed(await recorded(asked)) } as never;
      const call = await run().open("model", asked);
      try {
        const result = await options.doStream();
        const { stream } = result as unknown as Streamed;
        return { ...result, stream: observing(stream, call) };
      } catch (error) {
        call.failed(error);
        throw error;
      }
    },
  };
}

function count(value: unknown): number {
  if (typeof value === "number") return value;
  const total = typeof value === "object" && value !== null && "total" in value ? value.total : 0;
  return typeof total === "number" ? total : 0;
}

function reasonOf(value: unknown): string {
  return typeof value === "object" && value !== null && "unified" in value ? String(value.unified) : String(value);
}

/** An answer as it is recorded: in our terms, and as the SDK has it, for replays. */
function completed(generated: Generated): JsonObject {
  const { content, finishReason, usage, response } = generated;
  const text = content.filter((part) => part.type === "text").map((part) => String(part["text"] ?? ""));
  const calls = content.filter((part) => part.type === "tool-call");
  const counts = (usage ?? {}) as Record<string, unknown>;
  return {
    content: text.length > 0 ? text.join("") : null,
    finish_reasons: [reasonOf(finishReason)],
    generated: { content, finishReason, usage } as unknown as Json,
    ...(response?.modelId === undefined ? {} : { response_model: response.modelId }),
    tool_calls: calls.map((part): JsonObject => {
      const { toolCallId, toolName, input } = part;
      const args = typeof input === "string" ? input : JSON.stringify(input ?? {});
      return { arguments: args, id: String(toolCallId), name: String(toolName) };
    }),
    usage: { input_tokens: count(counts["inputTokens"]), output_tokens: count(counts["outputTokens"]) },
  };
}

/** Parts of a stream put together again. */
class Collected {
  private readonly texts = new Map<string, { type: string; text: string }>();
  private readonly content: Part[] = [];
  private finish: { finishReason: unknown; usage: unknown } = { finishReason: "unknown", usage: {} };
  private modelId: string | undefined;
  hasContent = false;

  add(part: Part): void {
    const id = String(part["id"] ?? "");
    switch (part.type) {
      case "text-start":
      case "reasoning-start": {
        const begun = { type: part.type.replace("-start", ""), text: "" };
        this.texts.set(id, begun);
        this.content.push(begun);
        return;
      }
      case "text-delta":
      case "reasoning-delta": {
        const known = this.texts.get(id);
        if (known) known.text += String(part["delta"] ?? "");
        this.hasContent = true;
        return;
      }
      case "tool-call":
      case "tool-result":
      case "file":
      case "source":
        this.hasContent = true;
        this.content.push(part);
        return;
      case "response-metadata":
        if (typeof part["modelId"] === "string") this.modelId = part["modelId"];
        return;
      case "finish":
        this.finish = { finishReason: part["finishReason"], usage: part["usage"] };
        return;
      default:
        return;
    }
  }

  get generated(): Generated {
    const response = this.modelId === undefined ? {} : { response: { modelId: this.modelId } };
    return { content: this.content, ...this.finish, ...response };
  }
}

function observing(stream: ReadableStream<Part>, call: OpenCall): ReadableStream<Part> {
  const collected = new Collected();
  let broken: unknown;
  let told = false;
  return observeStream(stream, {
    chunk: (part) => {
      collected.add(part);
      if (part.type === "error") broken = part["error"];
      if (collected.hasContent && !told) call.event("model.first_token", {});
      told ||= collected.hasContent;
    },
    ended: (failure) => {
      const said = completed(collected.generated);
      if (failure ?? broken) call.failed(failure ?? broken, { content: said["content"] ?? null });
      else call.completed(said);
    },
  });
}

/** A recorded answer as a stream. */
function replayed({ content, finishReason, usage }: Generated): ReadableStream<Part> {
  const parts: Part[] = [{ type: "stream-start", warnings: [] }];
  for (const [index, part] of content.entries()) {
    if (part.type !== "text" && part.type !== "reasoning") {
      parts.push(part);
      continue;
    }
    const id = String(index);
    parts.push({ type: `${part.type}-start`, id });
    parts.push({ type: `${part.type}-delta`, id, delta: part["text"] });
    parts.push({ type: `${part.type}-end`, id });
  }
  parts.push({ type: "finish", finishReason, usage });
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(part);
      controller.close();
    },
  });
}
