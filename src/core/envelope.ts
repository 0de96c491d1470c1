// Expands the lean stored form to the logical envelope of event-schema section 2. Pure: same bytes, same envelope.
import { assert } from "../kit/assert.ts";
import { derivedId } from "../kit/ids.ts";
import { rfc3339 } from "../kit/clock.ts";
import { sha256 } from "../kit/hash.ts";
import { isObject } from "../kit/json.ts";
import { idBytes, PREFIXES } from "../contract/ids.ts";
import type { Event, StoredEvent } from "../contract/events.ts";
import type { CommittedRow } from "../contract/journal.ts";
import { bodyLines, chainNext, chainStart } from "./chain.ts";

/** What `run.started` says once for the whole run. */
export interface RunHeader {
  readonly tenant_id: string;
  readonly run_id: string;
  readonly project_id: string;
  readonly env: string;
  readonly correlation_id: string;
  readonly trace_id: string;
}

function text(value: unknown, otherwise: string): string {
  return typeof value === "string" ? value : otherwise;
}

export function runHeader(tenant_id: string, run_id: string, started: StoredEvent): RunHeader {
  const data: Record<string, unknown> = started.data;
  return {
    tenant_id,
    run_id,
    project_id: text(data["project"], ""),
    env: text(data["env"], "dev"),
    correlation_id: text(data["correlation"], run_id),
    trace_id: idBytes("run", run_id).toString("hex"),
  };
}

function actorOf(event: StoredEvent): { kind: string; id: string } {
  if (event.actor) return { kind: event.actor.kind, id: event.actor.id };
  // Who told of it, where it does not say who did it.
  if (event.origin)
    return { kind: "sdk", id: event.origin.from === undefined ? "otel" : splitFrom(event.origin.from).producer };
  const family = event.type.slice(0, event.type.indexOf("."));
  const name = text(event.data["tool"] ?? event.data["model"], "quarterdeck");
  if (event.type === "model.completed" || event.type === "model.failed") return { kind: "model", id: name };
  if (event.type === "tool.completed" || event.type === "tool.failed") return { kind: "tool", id: name };
  return { kind: family === "policy" ? "policy" : "system", id: "quarterdeck" };
}

/** Where an expansion stands: what the events so far said once and for all that follow. */
export interface Expansion {
  readonly seq: number;
  readonly chain: Buffer;
  readonly header: RunHeader | null;
  /** Digest of the policy of the last decision; it is stored where it changes. */
  readonly policy: string;
}

export function startOfExpansion(tenant_id: string, run_id: string): Expansion {
  return { seq: 0, chain: chainStart(tenant_id, run_id), header: null, policy: "" };
}

/** Expands one row, which must follow what was expanded before. */
export function expandRow(from: Expansion, row: CommittedRow): { events: Event[]; next: Expansion } {
  assert(row.first_seq === from.seq + 1, "rows are expanded in order", { run_id: row.run_id, seq: from.seq });
  const run = idBytes("run", row.run_id);
  let { chain, header, policy } = from;
  const events = bodyLines(row.body).map((line) => {
    const event = JSON.parse(line) as StoredEvent;
    header ??= runHeader(row.tenant_id, row.run_id, event);
    const content = sha256(line);
    chain = chainNext(chain, event.seq, content);
    const expanded = expandEvent(event, header, run, content, chain);
    if (event.type !== "policy.decided") return expanded;
    policy = text(event.data["policy"], policy);
    return { ...expanded, data: { ...expanded.data, policy } };
  });
  return { events, next: { seq: row.last_seq, chain, header, policy } };
}

/** Expands the rows of one run, which must start at the run's first event. */
export function expandRun(rows: readonly CommittedRow[]): Event[] {
  const [first] = rows;
  if (!first) return [];
  let at = startOfExpansion(first.tenant_id, first.run_id);
  return rows.flatMap((row) => {
    const { events, next } = expandRow(at, row);
    at = next;
    return events;
  });
}

function expandEvent(event: StoredEvent, header: RunHeader, run: Buffer, content: Buffer, chain: Buffer): Event {
  const cause = event.cause ?? (event.seq > 1 ? event.seq - 1 : null);
  return {
    id: derivedId(PREFIXES.event, run, event.seq),
    v: "1.0",
    type: event.type,
    type_v: 1,
    tenant_id: header.tenant_id,
    project_id: header.project_id,
    env: header.env,
    run_id: header.run_id,
    step_id: event.step === undefined ? null : derivedId(PREFIXES.step, run, event.step),
    parent_step_id: event.parent === undefined ? null : derivedId(PREFIXES.step, run, event.parent),
    attempt: event.attempt ?? 1,
    seq: event.seq,
    occurred_at: rfc3339(event.occurred ?? event.at),
    recorded_at: rfc3339(event.at),
    actor: actorOf(event),
    causation_id: cause === null ? null : derivedId(PREFIXES.event, run, cause),
    correlation_id: header.correlation_id,
    trace: { trace_id: header.trace_id },
    call: event.call === undefined ? null : { call_id: event.call },
    ...originOf(event, run),
    ...labels(event),
    data: isObject(event.data) ? event.data : {},
    integrity: { alg: "sha-256/jcs", content: content.toString("hex"), chain: chain.toString("hex") },
  };
}

/** Labels that stand in the data and belong to every reader: where an outcome came from, what was taken out. */
function labels(event: StoredEvent): Pick<Event, "determinism" | "redaction"> {
  const { determinism, redaction } = event.data;
  return {
    ...(isObject(determinism) ? { determinism } : {}),
    ...(isObject(redaction) ? { redaction } : {}),
  };
}

/** The parts of `producer/epoch/sequence_no`. */
export function splitFrom(from: string): { producer: string; epoch: number; no: number } {
  const at = from.lastIndexOf("/");
  const before = from.lastIndexOf("/", at - 1);
  return { producer: from.slice(0, before), epoch: Number(from.slice(before + 1, at)), no: Number(from.slice(at + 1)) };
}

function originOf(event: StoredEvent, run: Buffer): Pick<Event, "origin"> {
  const { origin } = event;
  if (!origin) return {};
  const from = origin.from === undefined ? null : splitFrom(origin.from);
  return {
    origin: {
      ...(from ? { producer_id: from.producer, epoch: from.epoch, sequence_no: from.no } : {}),
      ...(origin.step === undefined ? {} : { step_id: origin.step }),
      ...(origin.late === undefined ? {} : { late_after: derivedId(PREFIXES.event, run, Math.max(1, origin.late)) }),
      ...(origin.said === undefined ? {} : { said: origin.said }),
    },
  };
}
