// Answers of the Vercel AI SDK's models as they are recorded, and as they are given again: whole, broken off, refused, given up.
// Types are structural: this imports nothing of the SDK.
import { passedOnly } from "../../contract/wire/headers.ts";
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";

export type Part = { readonly type: string } & Record<string, unknown>;

export interface Generated {
  readonly content: readonly Part[];
  readonly finishReason: unknown;
  readonly usage: unknown;
  readonly response?: { readonly modelId?: string } | undefined;
}

/** How long a program may take to give up again. */
const GIVE_UP_MS = 120_000;

function count(value: unknown): number {
  if (typeof value === "number") return value;
  const total = typeof value === "object" && value !== null && "total" in value ? value.total : 0;
  return typeof total === "number" ? total : 0;
}

function reasonOf(value: unknown): string {
  return typeof value === "object" && value !== null && "unified" in value ? String(value.unified) : String(value);
}

/** An answer as it is recorded: in our terms, and as the SDK has it, for replays. */
export function completed(generated: Generated): JsonObject {
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
export class Collected {
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

/** What of an error tells the SDK what to do next: whether to ask again, and when. */
export function failure(error: unknown): JsonObject {
  if (!(error instanceof Error)) return {};
  const { statusCode, isRetryable, responseHeaders, responseBody, url } = error as unknown as Record<string, unknown>;
  const headers = passedOnly(Object.entries(isObject(responseHeaders) ? responseHeaders : {}));
  const thrown: JsonObject = {
    name: error.name,
    ...(typeof statusCode === "number" ? { status_code: statusCode } : {}),
    ...(typeof isRetryable === "boolean" ? { is_retryable: isRetryable } : {}),
    ...(Object.keys(headers).length > 0 ? { headers } : {}),
    ...(typeof responseBody === "string" ? { body: responseBody } : {}),
    // Some providers are given their key behind the question mark.
    ...(typeof url === "string" ? { url: url.replace(/\?.*$/s, "") } : {}),
  };
  return { thrown };
}

/** The recorded error again, as the SDK knows it. */
export function revived({ thrown, message, code }: JsonObject): Error {
  const said: JsonObject = isObject(thrown) ? thrown : {};
  const name = String(said["name"] ?? code ?? "Error");
  const error = Object.assign(new Error(String(message ?? name)), { name });
  if (!name.startsWith("AI_")) return error;
  // Its errors are known by symbols that all copies of the SDK share.
  return Object.assign(error, {
    [Symbol.for("vercel.ai.error")]: true,
    [Symbol.for(`vercel.ai.error.${name}`)]: true,
    isRetryable: said["is_retryable"] === true,
    responseBody: said["body"],
    responseHeaders: said["headers"],
    statusCode: said["status_code"],
    url: said["url"],
  });
}

function partsOf(content: readonly Part[], isWhole: boolean): Part[] {
  const parts: Part[] = [{ type: "stream-start", warnings: [] }];
  for (const [index, part] of content.entries()) {
    if (part.type !== "text" && part.type !== "reasoning") {
      parts.push(part);
      continue;
    }
    const id = String(index);
    parts.push({ type: `${part.type}-start`, id });
    parts.push({ type: `${part.type}-delta`, id, delta: part["text"] });
    // Where it broke, the last text had not ended.
    if (isWhole || index < content.length - 1) parts.push({ type: `${part.type}-end`, id });
  }
  return parts;
}

/** A recorded answer as a stream. */
export function replayed({ content, finishReason, usage }: Generated): ReadableStream<Part> {
  const parts = [...partsOf(content, true), { type: "finish", finishReason, usage }];
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(part);
      controller.close();
    },
  });
}

/** Waits, at most so long, without letting the process end meanwhile. */
export type Hold = (delay_ms: number, fn: () => void) => { cancel(): void };

/** A stream that ends where the recorded one did: with an error in it, by breaking, or when the program gives up again. */
export function brokenOff(data: JsonObject, signal: AbortSignal | undefined, hold: Hold): ReadableStream<Part> {
  const { content } = data["generated"] as unknown as Generated;
  const parts = partsOf(content, false);
  const cancelled = new AbortController();
  return new ReadableStream({
    async pull(controller) {
      const part = parts.shift();
      if (part) return controller.enqueue(part);
      if (data["is_part"] === true) {
        controller.enqueue({ type: "error", error: revived(data) });
        return controller.close();
      }
      const ends = signal ? AbortSignal.any([signal, cancelled.signal]) : cancelled.signal;
      const error = isByClient(data) ? await givenUp(data, ends, hold) : revived(data);
      if (!cancelled.signal.aborted) controller.error(error);
    },
    cancel: () => cancelled.abort(),
  });
}

/** The program has ended this call itself, by giving up. */
export function isByClient(data: JsonObject): boolean {
  return data["broken_by"] === "client";
}

/** Waits until the program gives up, and resolves with its reason; when it does not, with the recorded error. */
export function givenUp(data: JsonObject, signal: AbortSignal | undefined, hold: Hold): Promise<unknown> {
  return new Promise((resolve) => {
    const timer = hold(GIVE_UP_MS, () => resolve(revived(data)));
    const abort = () => {
      timer.cancel();
      resolve(signal?.reason);
    };
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}
