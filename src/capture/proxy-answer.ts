// What the proxy answers, where it does not pass a provider's bytes on, and what it makes of failures.
import { messageOf } from "../contract/errors.ts";
import type { EventDraft } from "../contract/events.ts";
import type { JobFailure } from "../contract/jobs.ts";
import { NetRefused } from "../contract/ports.ts";
import { passedOnly } from "../contract/wire/headers.ts";
import type { BlobStore, NetAnswer } from "../contract/ports.ts";
import type { WireApi } from "../contract/wire/wire.ts";
import type { Clock } from "../kit/clock.ts";
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { scrubText } from "../kit/scrub.ts";
import type { StopSignal } from "../kit/stop.ts";
import { before } from "./wait.ts";

/** In place of a status: the connection ends without an answer. */
export const NO_ANSWER = 0;

export interface ProxyAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | AsyncIterable<string>;
}

export type WholeAnswer = ProxyAnswer & { readonly body: string };

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
  return { "content-type": type, ...passedOnly(Object.entries(answer.headers)) };
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

/** Whose recorded call is answered, and for how long they wait. */
interface Asking {
  readonly api: WireApi;
  readonly caller: { readonly tenant_id: string };
  readonly gone: StopSignal;
}

/** The answer of a recorded call, byte for byte; where it ended before it was whole, or never came, it does so again. */
export async function recordedAnswer(
  options: { blobs: Pick<BlobStore, "get">; clock: Clock },
  asking: Asking,
  { ended, completed }: { ended: string; completed: JsonObject },
): Promise<ProxyAnswer> {
  const { raw_ref: ref, raw, headers, content_type, broken_by } = completed;
  const status = statusIn(completed);
  if (status === null && ended === "model.failed") return unanswered(options.clock, asking, completed);
  const isApart = isObject(ref) && typeof ref["digest"] === "string";
  const text = isApart
    ? (await options.blobs.get(asking.caller.tenant_id, String(ref["digest"]))).toString("utf8")
    : String(raw ?? "");
  const isType = typeof content_type === "string" && HEADER_VALUE.test(content_type);
  return {
    status: status ?? 200,
    headers: {
      ...passedOnly(Object.entries(isObject(headers) ? headers : {}).filter(([, value]) => isHeaderValue(value))),
      "content-type": isType ? content_type : "application/json",
    },
    body:
      broken_by === undefined ? text : brokenOff(text, broken_by === "client" ? hungUp(options.clock, asking) : null),
  };
}

/** A header that others told us of may hold what none may. */
const HEADER_VALUE = /^[\t\x20-\x7e]{1,1000}$/;

function isHeaderValue(value: unknown): boolean {
  return typeof value === "string" && HEADER_VALUE.test(value);
}

function statusIn({ status }: JsonObject): number | null {
  return typeof status === "number" && Number.isSafeInteger(status) && status >= 200 && status <= 599 ? status : null;
}

/** What was observed elsewhere and had no answer: refused in words that were not kept, given up, or never reached anybody. */
async function unanswered(
  clock: Clock,
  asking: Asking,
  { code, message, broken_by }: JsonObject,
): Promise<ProxyAnswer> {
  const refused = /^http_([45]\d\d)$/.exec(String(code))?.[1];
  if (refused !== undefined) {
    const body = JSON.stringify(asking.api.refusal(Number(refused), String(code), String(message ?? "")));
    return { status: Number(refused), headers: { "content-type": "application/json" }, body };
  }
  if (broken_by === "client") await hungUp(clock, asking);
  return { status: NO_ANSWER, headers: {}, body: "" };
}

function hungUp(clock: Clock, { gone }: Asking): Promise<null> {
  return before(new Promise<never>(() => undefined), clock, { wait_ms: HANG_UP_MS, gone });
}

async function* brokenOff(text: string, end: Promise<null> | null): AsyncIterable<string> {
  if (text !== "") yield text;
  await end;
  throw new Error("The recorded answer ends here");
}
