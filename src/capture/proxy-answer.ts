// What the proxy answers, where it does not pass a provider's bytes on, and what it makes of failures.
import { messageOf } from "../contract/errors.ts";
import type { EventDraft } from "../contract/events.ts";
import type { JobFailure } from "../contract/jobs.ts";
import { NetRefused } from "../contract/ports.ts";
import type { BlobStore, NetAnswer } from "../contract/ports.ts";
import type { WireApi } from "../contract/wire/wire.ts";
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { scrubText } from "../kit/scrub.ts";

export interface ProxyAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | AsyncIterable<string>;
}

export type WholeAnswer = ProxyAnswer & { readonly body: string };

/** What clients read of an answer besides its body. */
const PASSED_HEADERS =
  /^(x-request-id|request-id|retry-after|openai-[a-z-]+|x-ratelimit-[a-z-]+|anthropic-ratelimit-[a-z-]+)$/;
/** A call that was decided against, in the provider's own form. */
export function denied(api: WireApi, draft: Pick<EventDraft, "data"> | undefined): ProxyAnswer {
  const reason = String(draft?.data["reason"] ?? "denied");
  const status = reason === "budget_exceeded" ? 429 : 403;
  return refusal(api, status, reason, `This call was not allowed: ${reason}. The run's journal has the decision`);
}

/** An error in the provider's own form. */
export function refusal(api: WireApi, status: number, code: string, message: string, retry = "false"): WholeAnswer {
  return {
    status,
    // Asking again mostly gives the same answer; SDKs retry by themselves unless they are told.
    headers: { "content-type": "application/json", "x-should-retry": retry },
    body: JSON.stringify(api.refusal(status, code, message)),
  };
}

/** Headers of a provider's answer that its SDK reads. */
export function passedHeaders(answer: NetAnswer, type: string): Record<string, string> {
  const headers: Record<string, string> = { "content-type": type };
  for (const [name, value] of Object.entries(answer.headers)) if (PASSED_HEADERS.test(name)) headers[name] = value;
  return headers;
}

/** What an error status of a provider means for the step. */
export function statusFailure(status: number, text: string): JobFailure {
  const message = text.slice(0, 1_000);
  if (status === 429) return { class: "rate_limited", code: "provider_429", message };
  return { class: status >= 500 ? "transient" : "permanent", code: `provider_${status}`, message };
}

/** What it means that there was no answer. Scrubbed of the key. */
export function networkFailure(error: unknown, gone: boolean, key: string): JobFailure {
  const message = scrubText(messageOf(error), key === "" ? [] : [key]).slice(0, 1_000);
  if (gone) return { class: "cancelled", code: "client_gone", message: "The client hung up." };
  if (error instanceof NetRefused) return { class: "permanent", code: "egress_refused", message };
  const timeout = error instanceof Error && error.name === "TimeoutError";
  return { class: "transient", code: timeout ? "timeout" : "provider_unreachable", message };
}

/** The answer of a recorded call, byte for byte. */
export async function recordedAnswer(
  blobs: Pick<BlobStore, "get">,
  tenant_id: string,
  completed: JsonObject,
): Promise<ProxyAnswer> {
  const { raw_ref: ref, raw, headers, status, content_type } = completed;
  const isApart = isObject(ref) && typeof ref["digest"] === "string";
  return {
    status: Number(status ?? 200),
    headers: {
      ...(isObject(headers) ? (headers as Record<string, string>) : {}),
      "content-type": String(content_type ?? "application/json"),
    },
    body: isApart ? (await blobs.get(tenant_id, String(ref["digest"]))).toString("utf8") : String(raw ?? ""),
  };
}
