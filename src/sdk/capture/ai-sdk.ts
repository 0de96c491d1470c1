// Middleware for the Vercel AI SDK (language model specification v2 and v3): a model that it wraps is captured, whatever its
// provider. Types are structural: this imports nothing of the SDK.
import type { JsonObject } from "../../kit/json.ts";
import { brokenOff, Collected, completed, failure, givenUp, isByClient, replayed, revived } from "./ai-sdk-answer.ts";
import type { Generated, Hold, Part } from "./ai-sdk-answer.ts";
import { observeStream } from "./observe.ts";
import type { CaptureRun, OpenCall } from "./run.ts";
import type { Settings } from "./settings.ts";

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

export function aiSdkMiddleware(settings: Settings, run: () => CaptureRun, hold: Hold): AiSdkMiddleware {
  return {
    specificationVersion: "v3",
    async wrapGenerate(options) {
      if (!settings.enabled) return options.doGenerate();
      const { asked, signal } = requestOf(options);
      if (settings.replay) {
        const { ended, data } = await again(run(), asked);
        if (ended === "model.completed") return { warnings: [], ...(data["generated"] as object) } as never;
        throw isByClient(data) ? await givenUp(data, signal, hold) : revived(data);
      }
      const call = await run().open("model", asked);
      try {
        const result = await options.doGenerate();
        call.completed(completed(result as unknown as Generated));
        return result;
      } catch (error) {
        call.failed(error, ending(error, signal));
        throw error;
      }
    },
    async wrapStream(options) {
      if (!settings.enabled) return options.doStream();
      const { asked, signal } = requestOf(options);
      if (settings.replay) {
        const { ended, data } = await again(run(), asked);
        if (ended === "model.completed")
          return { stream: replayed(data["generated"] as unknown as Generated) } as never;
        if (data["generated"] !== undefined) return { stream: brokenOff(data, signal, hold) } as never;
        throw isByClient(data) ? await givenUp(data, signal, hold) : revived(data);
      }
      const call = await run().open("model", asked);
      try {
        const result = await options.doStream();
        const { stream } = result as unknown as Streamed;
        return { ...result, stream: observing(stream, call, signal) };
      } catch (error) {
        call.failed(error, ending(error, signal));
        throw error;
      }
    },
  };
}

/** What is asked for, and how the program gives up waiting for it. */
function requestOf({ params, model }: { params: object; model: Model }): { asked: JsonObject; signal?: AbortSignal } {
  const { abortSignal, headers: _headers, includeRawChunks: _raw, ...request } = params as Record<string, unknown>;
  const asked = { api: API, model: model.modelId, provider: model.provider, request: request as JsonObject };
  return abortSignal instanceof AbortSignal ? { asked, signal: abortSignal } : { asked };
}

function again(run: CaptureRun, { model, request }: JsonObject): Promise<{ ended: string; data: JsonObject }> {
  return run.answered({ kind: "model", api: API, model: model ?? "", request: request ?? null });
}

/** How a call ended that has no answer. */
function ending(error: unknown, signal: AbortSignal | undefined): JsonObject {
  return { ...failure(error), ...(signal?.aborted ? { broken_by: "client" } : {}) };
}

function observing(
  stream: ReadableStream<Part>,
  call: OpenCall,
  signal: AbortSignal | undefined,
): ReadableStream<Part> {
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
    ended: (failed, by = "provider") => {
      const said = completed(collected.generated);
      const error = failed ?? broken;
      if (!error) return call.completed(said);
      const { content = null, generated = null } = said;
      const how: JsonObject = failed ? { broken_by: signal?.aborted ? "client" : by } : { is_part: true };
      call.failed(error, { content, generated, ...failure(error), ...how });
    },
  });
}
