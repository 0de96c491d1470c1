// Makes an observed event ready to be recorded: read in its version, checked against its schemas, redacted, and large payloads
// put where artifacts are. What is wrong with an event is said by field, and costs that event alone.
import { Compile } from "typebox/compile";
import { parseRfc3339 } from "../kit/clock.ts";
import { hmacHex, sha256Hex } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { ErrorCode } from "../contract/errors.ts";
import { faults } from "../contract/faults.ts";
import type { Validator } from "../contract/faults.ts";
import { IngestEvent, isReserved, OBSERVED } from "../contract/ingest.ts";
import { LIMITS } from "../contract/limits.ts";
import type { BlobStore } from "../contract/ports.ts";
import type { IngestFault, ObservedEvent } from "../core/ingest.ts";
import type { CaptureCaller, Captures } from "./captures.ts";
import type { Place, Quarantine } from "./quarantine.ts";
import type { Keep, Redactor } from "./redact.ts";
import { upcast } from "./upcast.ts";
import { canonicalRequest } from "../contract/wire/wire.ts";

export interface PrepareOptions {
  readonly captures: Pick<Captures, "signature">;
  readonly redactor: Redactor;
  readonly quarantine: Quarantine;
  readonly blobs: Pick<BlobStore, "put">;
  readonly tenantKey: (tenant_id: string) => Uint8Array;
}

/** An event with its number; without one it cannot even be refused by its number. */
export interface Prepared {
  readonly no: number | null;
  readonly event: ObservedEvent;
  /** Characters of it as JSON, about. */
  readonly size: number;
}

const MAC_CHARS = 16;
const UTF8_BYTES_MAX = 3;
const envelope = Compile(IngestEvent);
const validators = new Map<string, Validator>();

function validatorOf(type: string): Validator | null {
  const schema = OBSERVED[type];
  if (!schema) return null;
  let validator = validators.get(type);
  if (!validator) validators.set(type, (validator = Compile(schema)));
  return validator;
}

function broken(no: number | null, code: ErrorCode, message: string, pointer: string, type = ""): Prepared {
  const fault: IngestFault = { code, message, pointer };
  return { no, event: { no, type, data: {}, fault }, size: 0 };
}

/** Prepares the events of a batch, each by itself. `run_id` is the run that the request names. */
export async function prepareEvents(
  options: PrepareOptions,
  given: { caller: CaptureCaller; run_id: string; events: readonly unknown[] },
): Promise<Prepared[]> {
  const { caller } = given;
  const key = hmacHex(options.tenantKey(caller.tenant_id), "ingest");
  const checked = given.events.map((event) => checkEvent(event, given, key));
  for (const one of checked) {
    if (one.event.fault || one.event.type !== "model.requested") continue;
    const { request } = one.event.data;
    if (isObject(request)) one.event.data["signature"] = signatureOf(options, caller, one.event.data, request);
  }
  return settleEvents(options, { tenant_id: caller.tenant_id, run_id: given.run_id }, checked);
}

function signatureOf(
  { captures }: PrepareOptions,
  { tenant_id }: CaptureCaller,
  data: JsonObject,
  request: Json,
): string {
  const api = String(data["api"] ?? "other");
  return captures.signature(tenant_id, { api, model: String(data["model"]), request: canonicalRequest(request) });
}

/** Events in parts that one append can hold, in their order. */
export function* appendable(events: readonly ObservedEvent[]): Iterable<ObservedEvent[]> {
  // Nearly always they fit as they are.
  if (events.length * LIMITS.event_bytes_max <= LIMITS.append_bytes_max) return void (yield [...events]);
  let part: ObservedEvent[] = [];
  let bytes = 0;
  for (const event of events) {
    const size = JSON.stringify(event).length * UTF8_BYTES_MAX;
    if (part.length > 0 && (bytes + size > LIMITS.append_bytes_max || part.length >= LIMITS.ingest_events_max)) {
      yield part;
      part = [];
      bytes = 0;
    }
    part.push(event);
    bytes += size;
  }
  if (part.length > 0) yield part;
}

/** Characters that data has as JSON, at most: most of it is small, and small is all that has to be known. */
export function sizeOf(data: JsonObject): number {
  const bound = charsAtMost(data);
  return bound * UTF8_BYTES_MAX <= LIMITS.inline_bytes_max ? bound : JSON.stringify(data).length;
}

/** A character is written as six at most (`\u0000`), a number as 24. */
function charsAtMost(value: Json): number {
  if (typeof value === "string") return value.length * 6 + 2;
  if (typeof value !== "object" || value === null) return 24;
  let sum = 2;
  if (Array.isArray(value)) for (const item of value) sum += 1 + charsAtMost(item);
  else for (const key in value) sum += key.length * 6 + 4 + charsAtMost(value[key] ?? null);
  return sum;
}

/**
 * Redacts and stores what is large. Most batches hold nothing to redact: they are looked at together. `names`: how the names of
 * steps and calls came to be; those that a program made (ids of spans) tell nothing, and are what their sender knows them by.
 */
export async function settleEvents(
  options: PrepareOptions,
  place: Place,
  checked: readonly Prepared[],
  names: "given" | "made" = "given",
): Promise<Prepared[]> {
  const { redactor } = options;
  const looked = checked.map(({ event }) => (names === "given" ? event : unnamed(event)));
  const clean = redactor.isClean(looked);
  const done: Prepared[] = [];
  for (const one of checked) {
    const { event } = one;
    // A character is three bytes at most: what is short is not measured.
    if (event.fault || (clean && one.size * UTF8_BYTES_MAX <= LIMITS.inline_bytes_max)) done.push(one);
    else {
      const event = clean || names === "made" ? one.event : redactor.names(one.event);
      done.push(await settleOne(options, place, { ...one, event }, clean));
    }
  }
  return done;
}

function unnamed({ type, data, said }: ObservedEvent): Pick<ObservedEvent, "type" | "data" | "said"> {
  return said ? { type, data, said } : { type, data };
}

async function settleOne(options: PrepareOptions, place: Place, one: Prepared, clean: boolean): Promise<Prepared> {
  const { redactor, quarantine } = options;
  const { no, event } = one;
  const keep: Keep = (payload) => quarantine.keep(place, payload);
  const said = event.said && !clean ? await redactor.data(event.said, "", keep) : event.said;
  const seen = clean ? event.data : await redactor.data(event.data, event.type, keep);
  const data = await largeApart(options, place.tenant_id, seen);
  const size = Buffer.byteLength(canonicalJson([data, said ?? null]));
  if (size <= LIMITS.event_bytes_max) return { no, event: { ...event, data, ...(said ? { said } : {}) }, size };
  const message = `The event has ${size} bytes besides its payloads; ${LIMITS.event_bytes_max} are the limit`;
  return broken(no, "PAYLOAD_TOO_LARGE", message, "", event.type);
}

/** Payloads that make an event large go out of it, the largest first; a reference stands for each. */
async function largeApart({ blobs }: PrepareOptions, tenant_id: string, data: JsonObject): Promise<JsonObject> {
  let size = Buffer.byteLength(canonicalJson(data));
  if (size <= LIMITS.inline_bytes_max) return data;
  const out = { ...data };
  const parts = Object.entries(data)
    .map(([name, value]) => ({ name, text: typeof value === "string" ? value : canonicalJson(value) }))
    .sort((a, b) => b.text.length - a.text.length);
  for (const { name, text } of parts) {
    if (size <= LIMITS.inline_bytes_max || text.length < 256 || name === "redaction") break;
    const bytes = Buffer.from(text);
    delete out[name];
    const json = typeof data[name] === "string" ? {} : { json: true };
    out[`${name}_ref`] = { bytes: bytes.length, digest: await blobs.put(tenant_id, bytes), ...json };
    size -= bytes.length;
  }
  return out;
}

function numberOf(value: JsonObject): number | null {
  const no = value["sequence_no"];
  return typeof no === "number" && Number.isSafeInteger(no) && no >= 1 ? no : null;
}

function checkEvent(sent: unknown, given: { caller: CaptureCaller; run_id: string }, key: string): Prepared {
  if (!isObject(sent)) return broken(null, "VALIDATION_ERROR", "An event is an object", "");
  const raw = sent as JsonObject;
  const value = upcast(raw);
  const no = numberOf(value ?? raw);
  if (!value) {
    const said = String(sent["v"] ?? sent["schema_version"]);
    return broken(no, "VERSION_UNSUPPORTED", `Envelope version ${said} is not read; 1.0 and 0.x are`, "/v");
  }
  const [wrong] = faults(envelope, value, "");
  const type = String(value["type"]);
  if (wrong) return broken(no, "VALIDATION_ERROR", `${wrong.pointer || "/"} ${wrong.message}`, wrong.pointer, type);
  const event = value as unknown as IngestEvent;
  const foreign = mismatch(event, given);
  if (foreign) return broken(no, foreign[0], foreign[1], foreign[2], type);
  if (isReserved(type)) return broken(no, "EVENT_TYPE_RESERVED", `${type} is decided by the server`, "/type", type);
  const validator = validatorOf(type);
  const [field] = validator ? faults(validator, event.data, "/data") : [];
  if (field) return broken(no, "VALIDATION_ERROR", `${field.pointer} ${field.message}`, field.pointer, type);
  const occurred = event.occurred_at === undefined ? undefined : Math.floor(parseRfc3339(event.occurred_at));
  if (occurred !== undefined && !(occurred >= 0))
    return broken(
      no,
      "VALIDATION_ERROR",
      `/occurred_at is ${event.occurred_at}, which is no RFC 3339 time`,
      "/occurred_at",
      type,
    );
  const text = JSON.stringify(value);
  // A keyed digest that tells equal from other, and nothing of the content to who has no key; nobody trusts it for more.
  const mac = sha256Hex(key + text).slice(0, MAC_CHARS);
  return { no, event: observed(event, { occurred, caller: given.caller, mac }), size: text.length };
}

function mismatch(
  event: IngestEvent,
  { caller, run_id }: { caller: CaptureCaller; run_id: string },
): [ErrorCode, string, string] | null {
  if (event.tenant_id !== undefined && event.tenant_id !== caller.tenant_id)
    return ["TENANT_MISMATCH", `/tenant_id is ${event.tenant_id}; the credential is of another tenant`, "/tenant_id"];
  if (event.project_id !== undefined && event.project_id !== caller.project)
    return [
      "TENANT_MISMATCH",
      `/project_id is ${event.project_id}; the credential is of another project`,
      "/project_id",
    ];
  if (event.run_id !== undefined && event.run_id !== run_id)
    return ["VALIDATION_ERROR", `/run_id is ${event.run_id}; the request is about ${run_id}`, "/run_id"];
  return null;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

function observed(
  sent: IngestEvent,
  given: { occurred: number | undefined; caller: CaptureCaller; mac: string },
): ObservedEvent {
  const { type, id, causation_id, trace, ext } = sent;
  const data: JsonObject = type === "run.started" ? startedBy(sent.data as JsonObject, given.caller) : { ...sent.data };
  const event: Mutable<ObservedEvent> = { no: sent.sequence_no, type, data, mac: given.mac };
  if (sent.step_id !== undefined) event.step = sent.step_id;
  if (sent.parent_step_id !== undefined) event.parent = sent.parent_step_id;
  if (sent.attempt !== undefined) event.attempt = sent.attempt;
  if (sent.call !== undefined) event.call = sent.call.call_id;
  if (sent.actor !== undefined) event.actor = sent.actor;
  if (given.occurred !== undefined) event.occurred = given.occurred;
  const told = Object.entries({ causation_id, ext, id, trace }).filter(([, value]) => value !== undefined);
  if (told.length > 0) event.said = Object.fromEntries(told) as JsonObject;
  return event;
}

/** What `run.started` of an observed run holds: whose it is comes from the credential, the rest is the producer's word. */
function startedBy(sent: JsonObject, caller: CaptureCaller): JsonObject {
  const { agent, env, input, labels, correlation, ...about } = sent;
  return {
    ...(Object.keys(about).length > 0 ? { about } : {}),
    ...(correlation === undefined ? {} : { correlation }),
    env: env ?? "dev",
    fidelity: "events",
    input: input ?? null,
    kind: "captured",
    ...(labels === undefined ? {} : { labels }),
    project: caller.project,
    requester: caller.principal,
    target: { kind: "captured", name: String(agent), version: 1 },
  };
}
