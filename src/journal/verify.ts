// Verification: recomputes the chain of a run from stored bytes and names the first place where it does not hold.
// Works on rows from any source (a store, an export file), needs no key and trusts nothing it reads.
import { Check } from "typebox/schema";
import { sha256 } from "../kit/hash.ts";
import { merkleRoot } from "../kit/merkle.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { parseJson } from "../kit/json.ts";
import { messageOf } from "../contract/errors.ts";
import { StoredEventSchema } from "../contract/events.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { AppendRow } from "../contract/journal.ts";
import { bodyLines, chainNext, chainStart } from "../core/chain.ts";
import { eventLeaf, sealText } from "../core/seal.ts";
import type { Seal } from "../core/seal.ts";
import type { Signer } from "./checkpoint.ts";

/** Where and how a journal fails to verify. */
export interface ChainFault {
  readonly run_id: string;
  readonly seq: number;
  readonly fault: string;
}

export interface ChainProgress {
  readonly seq: number;
  readonly chain: Buffer;
}

export function startOfChain(tenant_id: string, run_id: string): ChainProgress {
  return { seq: 0, chain: chainStart(tenant_id, run_id) };
}

const TERMINAL = /^run\.(succeeded|failed|cancelled|timed_out|budget_exceeded|policy_blocked)$/;
const AFTER_TERMINAL = /^(journal|evaluation)\.|^(human\.feedback|privacy\.overridden|run\.sealed)$/;

/** Checks one row against what came before it. */
export function verifyRow(before: ChainProgress, row: AppendRow): ChainProgress | ChainFault {
  const fault = (seq: number, text: string): ChainFault => ({ run_id: row.run_id, seq, fault: text });
  let { seq, chain } = before;
  if (row.first_seq !== seq + 1) return fault(seq + 1, `expected seq ${seq + 1}, the row starts at ${row.first_seq}`);
  for (const line of bodyLines(row.body)) {
    seq += 1;
    const wrong = eventFault(line, seq);
    if (wrong) return fault(seq, wrong);
    chain = chainNext(chain, seq, sha256(line));
  }
  if (seq !== row.last_seq) return fault(seq, `the row holds events up to ${seq}, it claims ${row.last_seq}`);
  if (!chain.equals(row.chain)) return fault(row.first_seq, "the chain value does not follow from the events");
  return { seq, chain };
}

function eventFault(line: string, seq: number): string | null {
  try {
    const event = parseJson(line);
    if (!Check(StoredEventSchema, event)) return "the event does not fit its schema";
    if ((event as unknown as StoredEvent).seq !== seq) return `the event carries another seq`;
    return canonicalJson(event) === line ? null : "the bytes are not canonical JSON";
  } catch (error) {
    return `the event cannot be read: ${messageOf(error)}`;
  }
}

/** The first place where the chain of a run does not follow from its bytes; their form is not looked at. */
export function chainFault(rows: readonly AppendRow[]): ChainFault | null {
  const [first] = rows;
  if (!first) return null;
  let { seq, chain } = startOfChain(first.tenant_id, first.run_id);
  for (const row of rows) {
    if (row.first_seq !== seq + 1) return { run_id: row.run_id, seq: seq + 1, fault: "events are missing" };
    for (const line of bodyLines(row.body)) chain = chainNext(chain, (seq += 1), sha256(line));
    if (!chain.equals(row.chain))
      return { run_id: row.run_id, seq: row.first_seq, fault: "the chain value does not follow from the events" };
  }
  return null;
}

/** Verifies all rows of one run. */
export function verifyRun(rows: readonly AppendRow[]): { events: number; chain: Buffer } | ChainFault {
  const first = rows[0];
  if (!first) return { run_id: "", seq: 0, fault: "there are no events" };
  let progress = startOfChain(first.tenant_id, first.run_id);
  let ended = false;
  const leaves: Buffer[] = [];
  for (const row of rows) {
    if (row.run_id !== first.run_id || row.tenant_id !== first.tenant_id) {
      return { run_id: row.run_id, seq: row.first_seq, fault: "the row belongs to another run" };
    }
    const next = verifyRow(progress, row);
    if ("fault" in next) return next;
    for (const line of bodyLines(row.body)) {
      const event = JSON.parse(line) as StoredEvent;
      if (event.seq === 1 && event.type !== "run.started")
        return { run_id: row.run_id, seq: 1, fault: "the first event is not run.started" };
      if (ended && !AFTER_TERMINAL.test(event.type))
        return { run_id: row.run_id, seq: event.seq, fault: `${event.type} after the end of the run` };
      if (TERMINAL.test(event.type)) ended = true;
      const wrong = event.type === "run.sealed" ? wrongSeal(event, leaves) : null;
      if (wrong) return { run_id: row.run_id, seq: event.seq, fault: wrong };
      leaves.push(eventLeaf(line));
    }
    progress = next;
  }
  return { events: progress.seq, chain: progress.chain };
}

/** Who may have sealed: of seals by other keys the signature is not looked at. */
export type Sealer = Pick<Signer, "key_id" | "verify">;

/** The first seal of a run that does not follow from its events, or is not signed by the key that it names. */
export function sealFault(rows: readonly AppendRow[], sealer: Sealer): ChainFault | null {
  const leaves: Buffer[] = [];
  for (const row of rows) {
    for (const line of bodyLines(row.body)) {
      const event = line.includes(SEALED) ? (JSON.parse(line) as StoredEvent) : null;
      const wrong = event?.type === "run.sealed" ? (wrongSeal(event, leaves) ?? unsigned(row, event, sealer)) : null;
      if (event && wrong) return { run_id: row.run_id, seq: event.seq, fault: wrong };
      leaves.push(eventLeaf(line));
    }
  }
  return null;
}

/** True where an append holds a seal; words that only look like one make it true too. */
export function mayHoldSeal(row: AppendRow): boolean {
  return row.body.includes(SEALED);
}

const SEALED = '"type":"run.sealed"';

/** A seal is of the events before it, all of them. */
function wrongSeal({ data, seq }: StoredEvent, leaves: readonly Buffer[]): string | null {
  if (data["last_seq"] !== seq - 1) return "the seal is not of the events before it";
  return data["root"] === merkleRoot(leaves).toString("hex")
    ? null
    : "the root of the seal does not follow from the events";
}

function unsigned(row: AppendRow, { data }: StoredEvent, sealer: Sealer): string | null {
  const seal = data as unknown as Seal;
  if (seal.key_id !== sealer.key_id) return null;
  const signature = Buffer.from(seal.signature, "hex");
  return sealer.verify(sealText(row, seal), signature) ? null : "the seal is not signed with the key that it names";
}
