// The byte form of events and the hash chain over them (event-schema section 5).
//   content_n = SHA-256(canonical bytes of event n)
//   chain_n   = SHA-256(PREFIX || chain_{n-1} || seq (8 bytes, big endian) || content_n)
//   chain_0   = SHA-256(PREFIX || tenant || run_id)
// Invariant: what is hashed are the stored bytes themselves, so verifying never re-serialises.
import { assert } from "../kit/assert.ts";
import { sha256, sha256Latin1 } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { EventDraft, StoredEvent } from "../contract/events.ts";
import type { AppendRow } from "../contract/journal.ts";

const PREFIX = Buffer.from("quarterdeck/journal/v1\n");

export function chainStart(tenant_id: string, run_id: string): Buffer {
  return sha256(Buffer.concat([PREFIX, Buffer.from(tenant_id + run_id)]));
}

export function chainNext(previous: Buffer, seq: number, content: Buffer): Buffer {
  previous.copy(link, PREVIOUS_AT);
  content.copy(link, CONTENT_AT);
  return sha256(linkOf(seq));
}

/** One input of the chain's hash, filled anew for each event: allocating it costs as much as hashing it. */
const PREVIOUS_AT = PREFIX.length;
const SEQ_AT = PREVIOUS_AT + 32;
const CONTENT_AT = SEQ_AT + 8;
const link = Buffer.alloc(CONTENT_AT + 32);
PREFIX.copy(link);

function linkOf(seq: number): Buffer {
  link.writeUInt32BE(Math.floor(seq / 2 ** 32), SEQ_AT);
  link.writeUInt32BE(seq >>> 0, SEQ_AT + 4);
  return link;
}

/** Canonical text of one stored event. Envelope keys are written in JCS order by hand: it is the hottest line we have. */
export function encodeEvent(draft: EventDraft, seq: number, at_us: number): string {
  let text = draft.actor ? `{"actor":${canonicalJson(draft.actor)},"at":${at_us}` : `{"at":${at_us}`;
  if (draft.attempt !== undefined && draft.attempt > 1) text += `,"attempt":${draft.attempt}`;
  if (draft.call !== undefined) text += `,"call":${canonicalJson(draft.call)}`;
  if (draft.cause !== undefined) text += `,"cause":${draft.cause}`;
  text += `,"data":${canonicalJson(draft.data)}`;
  if (draft.occurred !== undefined) text += `,"occurred":${draft.occurred}`;
  if (draft.origin !== undefined) text += `,"origin":${canonicalJson(draft.origin)}`;
  if (draft.parent !== undefined) text += `,"parent":${draft.parent}`;
  text += `,"seq":${seq}`;
  if (draft.step !== undefined) text += `,"step":${draft.step}`;
  return `${text},"type":"${draft.type}"}`;
}

/** Encodes drafts that follow (seq, chain): the body of one append and the chain after it. */
export function encodeAppend(options: { drafts: readonly EventDraft[]; seq: number; chain: Buffer; at_us: number }): {
  body: Buffer;
  chain: Buffer;
  last_seq: number;
} {
  assert(options.drafts.length > 0, "an append holds at least one event");
  let { seq } = options;
  let chain = options.chain.toString("latin1");
  const lines: string[] = [];
  for (const draft of options.drafts) {
    seq += 1;
    const line = encodeEvent(draft, seq, options.at_us);
    link.write(chain, PREVIOUS_AT, "latin1");
    link.write(sha256Latin1(line), CONTENT_AT, "latin1");
    chain = sha256Latin1(linkOf(seq));
    lines.push(line);
  }
  return { body: Buffer.from(lines.join("\n")), chain: Buffer.from(chain, "latin1"), last_seq: seq };
}

/** Lines of an append's body. Canonical JSON has no raw line break, so splitting is exact. */
export function bodyLines(body: Buffer): string[] {
  return body.toString("utf8").split("\n");
}

export function decodeBody(body: Buffer): StoredEvent[] {
  return bodyLines(body).map((line) => JSON.parse(line) as StoredEvent);
}

const EVENTS_PER_ROW = 200;

/** Events of a whole run as its rows, row by row. */
export function* encodingRows(
  place: { readonly tenant_id: string; readonly run_id: string },
  events: readonly EventDraft[],
  at_us: number,
): Iterator<void, AppendRow[]> {
  const { tenant_id, run_id } = place;
  const rows: AppendRow[] = [];
  let chain = chainStart(tenant_id, run_id);
  for (let seq = 0; seq < events.length; yield) {
    const drafts = events.slice(seq, seq + EVENTS_PER_ROW);
    const { body, last_seq, chain: next } = encodeAppend({ drafts, seq, chain, at_us });
    rows.push({ tenant_id, run_id, first_seq: seq + 1, last_seq, body, chain: next });
    chain = next;
    seq = last_seq;
  }
  return rows;
}

/** Events of a run's rows, row by row. */
export function* decodingRows(rows: readonly Pick<AppendRow, "body">[]): Generator<void, StoredEvent[][]> {
  const appends: StoredEvent[][] = [];
  for (const row of rows) {
    appends.push(decodeBody(row.body));
    yield;
  }
  return appends;
}
