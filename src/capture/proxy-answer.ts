// What the proxy answers, where it does not pass a provider's bytes on, and what it makes of failures.
import { messageOf } from "../contract/errors.ts";
import type { EventDraft } from "../contract/events.ts";
import type { JobFailure } from "../contract/jobs.ts";
import { NetRefused } from "../contract/ports.ts";
import type { BlobStore, NetAnswer } from "../contract/ports.ts";
import type { WireApi } from "../contract/wire/wire.ts";
import type { Clock } from "../kit/clock.ts";
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { scrubText } from "../kit/scrub.ts";
import type { StopSignal } from "../kit/stop.ts";
import { before } from "./wait.ts";

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

/** Of a message that much is recorded. It is cut when it was looked at: half a secret is found by nobody. */
export const MESSAGE_CHARS = 1_000;

/** What an error status of a provider means for the step; the message is all that it said. */
export function statusFailure(status: number, message: string): JobFailure {
  if (status === 429) return { class: "rate_limited", code: "provider_429", message };
  return { class: status >= 500 ? "transient" : "permanent", code: `provider_${status}`, message };
}

/** What it means that there was no answer. Scrubbed of the key. */
export function networkFailure(error: unknown, gone: boolean, key: string): JobFailure {
  const message = scrubText(messageOf(error), key === "" ? [] : [key]);
  if (gone) return { class: "cancelled", code: "client_gone", message: "The client hung up." };
  if (error instanceof NetRefused) return { class: "permanent", code: "egress_refused", message };
  const timeout = error instanceof Error && error.name === "TimeoutError";
  return { class: "transient", code: timeout ? "timeout" : "provider_unreachable", message };
}

/** How long a client may take to hang up again. */
const HANG_UP_MS = 120_000;

/** The answer of a recorded call, byte for byte; where it ended before it was whole, it does so again. */
export async function recordedAnswer(
  { blobs, clock }: { blobs: Pick<BlobStore, "get">; clock: Clock },
  { caller, gone }: { caller: { tenant_id: string }; gone: StopSignal },
  completed: JsonObject,
): Promise<ProxyAnswer> {
  const { raw_ref: ref, raw, headers, status, content_type, broken_by } = completed;
  const isApart = isObject(ref) && typeof ref["digest"] === "string";
  const text = isApart
    ? (await blobs.get(caller.tenant_id, String(ref["digest"]))).toString("utf8")
    : String(raw ?? "");
  return {
    status: Number(status ?? 200),
    headers: {
      ...(isObject(headers) ? (headers as Record<string, string>) : {}),
      "content-type": String(content_type ?? "application/json"),
    },
    body:
      broken_by === undefined
        ? text
        : brokenOff(
            text,
            broken_by === "client"
              ? before(new Promise<never>(() => undefined), clock, { wait_ms: HANG_UP_MS, gone })
              : null,
          ),
  };
}

async function* brokenOff(text: string, end: Promise<null> | null): AsyncIterable<string> {
  if (text !== "") yield text;
  await end;
  throw new Error("The recorded answer ends here");
}
