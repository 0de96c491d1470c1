// Makes an observed event ready to be recorded: read in its version, checked against its schemas, redacted, and large payloads
// put where artifacts are. What is wrong with an event is said by field, and costs that event alone.
import { Compile } from "typebox/compile";
import { parseRfc3339 } from "../kit/clock.ts";
import { hmacHex } from "../kit/hash.ts";
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
import type { Redactor } from "./redact.ts";
import { upcast } from "./upcast.ts";
import { canonicalRequest } from "./wire/wire.ts";

export interface PrepareOptions {
  readonly captures: Pick<Captures, "signature">;
  readonly redactor: Redactor;
  readonly blobs: Pick<BlobStore, "put">;
  readonly tenantKey: (tenant_id: string) => Uint8Array;
}

/** An event with its number; without one it cannot even be refused by its number. */
export interface Prepared {
  readonly no: number | null;
  readonly event: ObservedEvent;
}

const MAC_CHARS = 16;
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
  return { no, event: { no, type, data: {}, fault } };
}

/** Prepares the events of a batch, each by itself. `run_id` is the run that the request names. */
export async function prepareEvents(
  options: PrepareOptions,
  given: { caller: CaptureCaller; run_id: string; events: readonly unknown[] },
): Promise<Prepared[]> {
  const { caller } = given;
  const key = options.tenantKey(caller.tenant_id);
  const checked = given.events.map((event) => checkEvent(event, given, key));
  for (const one of checked) {
    if (one.event.fault || one.event.type !== "model.requested") continue;
    const { request } = one.event.data;
    if (isObject(request)) one.event.data["signature"] = signatureOf(options, caller, one.event.data, request);
  }
  return settle(options, caller.tenant_id, checked);
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

/** Redacts and stores what is large. Most batches hold nothing to redact: they are looked at together. */
async function settle(options: PrepareOptions, tenant_id: string, checked: readonly Prepared[]): Promise<Prepared[]> {
  const { redactor } = options;
  const contents = checked.map(({ event }): Json => [event.data, event.said ?? null]);
  const clean = redactor.payload(contents, "").mark === null;
  const done: Prepared[] = [];
  for (const { no, event } of checked) {
    let { data, said } = event;
    if (!clean) {
      data = redactor.data(data);
      if (said) said = redactor.data(said);
    }
    const kept = event.fault ? data : await largeApart(options, tenant_id, data);
    const stored = { ...event, data: kept, ...(said ? { said } : {}) };
    const size = event.fault ? 0 : Buffer.byteLength(canonicalJson([stored.data, stored.said ?? null]));
    if (size > LIMITS.event_bytes_max) {
      const message = `The event has ${size} bytes besides its payloads; ${LIMITS.event_bytes_max} are the limit`;
      done.push(broken(no, "PAYLOAD_TOO_LARGE", message, "", event.type));
    } else done.push({ no, event: stored });
  }
  return done;
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
    out[`${name}_ref`] = { bytes: bytes.length, digest: await blobs.put(tenant_id, bytes) };
    size -= bytes.length;
  }
  return out;
}

function numberOf(value: JsonObject): number | null {
  const no = value["sequence_no"];
  return typeof no === "number" && Number.isSafeInteger(no) && no >= 1 ? no : null;
}

function checkEvent(sent: unknown, given: { caller: CaptureCaller; run_id: string }, key: Uint8Array): Prepared {
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
  return { no, event: observed(event, value, { occurred, caller: given.caller, key }) };
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

function observed(
  event: IngestEvent,
  sent: JsonObject,
  given: { occurred: number | undefined; caller: CaptureCaller; key: Uint8Array },
): ObservedEvent {
  const data: JsonObject =
    event.type === "run.started" ? startedBy(event.data as JsonObject, given.caller) : { ...event.data };
  const { id, causation_id, trace, ext } = event;
  const told = Object.entries({ causation_id, ext, id, trace }).filter(([, value]) => value !== undefined);
  return {
    no: event.sequence_no,
    type: event.type,
    data,
    mac: hmacHex(given.key, canonicalJson(sent)).slice(0, MAC_CHARS),
    ...(event.step_id === undefined ? {} : { step: event.step_id }),
    ...(event.parent_step_id === undefined ? {} : { parent: event.parent_step_id }),
    ...(event.attempt === undefined ? {} : { attempt: event.attempt }),
    ...(event.call === undefined ? {} : { call: event.call.call_id }),
    ...(event.actor === undefined ? {} : { actor: event.actor }),
    ...(given.occurred === undefined ? {} : { occurred: given.occurred }),
    ...(told.length === 0 ? {} : { said: Object.fromEntries(told) as JsonObject }),
  };
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
