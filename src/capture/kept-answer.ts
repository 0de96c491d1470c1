// What of a provider's answer is recorded: what was said in it, and its bytes, redacted, with what could not be looked at put
// away. Invariant: what was taken out of what was said is not in the bytes either, in pieces or otherwise.
import { LIMITS } from "../contract/limits.ts";
import type { BlobStore } from "../contract/ports.ts";
import type { WireAnswer } from "../contract/wire/wire.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { isOnlyMark } from "../kit/redaction.ts";
import type { Place, Quarantine } from "./quarantine.ts";
import { joined, markJson } from "./redact.ts";
import type { RedactedPayload, Redactor } from "./redact.ts";

export interface KeepOptions {
  readonly redactor: Redactor;
  readonly quarantine: Quarantine;
  readonly blobs: Pick<BlobStore, "put">;
}

/** The bytes of an answer, as far as they came. */
export interface RawAnswer {
  readonly status: number;
  readonly text: string;
  readonly type: string;
}

export interface KeptAnswer {
  /** Why the answer is not whole, where it is not. */
  readonly message: string;
  readonly content: string | null;
  /** Where a long content is whole. */
  readonly content_ref: { readonly bytes: number; readonly digest: string } | null;
  readonly tool_calls: WireAnswer["tool_calls"];
  /** Fields of the event that ends the call. */
  readonly recorded: JsonObject;
}

/** `type` is of the event that ends the call: rules for single fields go by it. */
export async function keptAnswer(
  options: KeepOptions,
  place: Place,
  given: { type: string; answer: WireAnswer; raw: RawAnswer; message?: string },
): Promise<KeptAnswer> {
  const { redactor, quarantine, blobs } = options;
  const { type, answer, raw, message } = given;
  const content_and_calls = {
    content: answer.content,
    ...(message === undefined ? {} : { message }),
    tool_calls: answer.tool_calls.map((one) => ({ ...one })),
  };
  // Together first: most answers hold nothing, and two looks cost more than one.
  const isClean = redactor.isClean([{ type, data: { ...content_and_calls, raw: raw.text } }]);
  const clean = async <T extends Json>(value: T, at: string): Promise<RedactedPayload<T>> =>
    isClean ? { value, mark: null } : quarantine.keep(place, redactor.payload(value, at, type));
  const said = await clean(content_and_calls, "");
  const bytes = await clean(raw.text, "/raw");
  const mark = joined([said.mark, bytes.mark]);
  // A secret in pieces that could not be taken out of them: such a stream was taken out as a whole.
  const isTorn =
    typeof bytes.value !== "string" || isOnlyMark(bytes.value) || (said.mark !== null && bytes.mark === null);
  // What a rule takes out of what was said stands in the bytes too.
  const isRuled = said.mark?.rules.some((rule) => rule.startsWith("field:")) === true;
  const withheld = isTorn || isRuled;
  const { content, hidden } = contentOf(said.value?.content ?? null);
  const text = content ?? "";
  const length = Buffer.byteLength(text);
  const isLarge = length > LIMITS.inline_bytes_max;
  return {
    message: said.value?.message ?? "",
    content: isLarge ? text.slice(0, LIMITS.inline_bytes_max / 4) : content,
    content_ref: isLarge ? { bytes: length, digest: await blobs.put(place.tenant_id, Buffer.from(text)) } : null,
    tool_calls: Array.isArray(said.value?.tool_calls) ? said.value.tool_calls : [],
    recorded: {
      content_type: raw.type,
      ...(withheld ? { raw_withheld: true } : await keptText(blobs, place, "raw", bytes.value ?? "")),
      ...(mark ? { redaction: markJson(mark) } : {}),
      ...hidden,
      status: raw.status,
    },
  };
}

/** A payload as it is recorded: in the event when it is small (as `value`, where that is another form of it), else apart. */
export async function keptText(
  blobs: Pick<BlobStore, "put">,
  { tenant_id }: Pick<Place, "tenant_id">,
  name: string,
  text: string,
  value: JsonObject | string = text,
): Promise<JsonObject> {
  const bytes = Buffer.byteLength(text);
  if (bytes <= LIMITS.inline_bytes_max) return { [name]: value };
  return { [`${name}_ref`]: { bytes, digest: await blobs.put(tenant_id, Buffer.from(text)) } };
}

/** Text of an answer; where a rule keeps only its digest, that stands beside it. */
function contentOf(value: unknown): { content: string | null; hidden: JsonObject } {
  if (typeof value === "string") return { content: value, hidden: {} };
  return { content: null, hidden: isObject(value) ? { content_hmac: String(value["hmac"]) } : {} };
}
