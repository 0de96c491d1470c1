// Verification: recomputes the chain of a run from stored bytes and names the first place where it does not hold.
// Works on rows from any source (a store, an export file), needs no key and trusts nothing it reads.
import { Check } from "typebox/schema";
import { sha256 } from "../kit/hash.ts";
import { merkleRoot } from "../kit/merkle.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { parseJson } from "../kit/json.ts";
import { atOnce } from "../kit/turn.ts";
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
export function* chainFault(rows: readonly AppendRow[]): Generator<void, ChainFault | null> {
  const [first] = rows;
  if (!first) return null;
  let { seq, chain } = startOfChain(first.tenant_id, first.run_id);
  for (const row of rows) {
    if (row.first_seq !== seq + 1) return { run_id: row.run_id, seq: seq + 1, fault: "events are missing" };
    for (const line of bodyLines(row.body)) chain = chainNext(chain, (seq += 1), sha256(line));
    if (!chain.equals(row.chain))
      return { run_id: row.run_id, seq: row.first_seq, fault: "the chain value does not follow from the events" };
    yield;
  }
  return null;
}

export type RunVerdict = { readonly events: number; readonly chain: Buffer } | ChainFault;

/** Verifies all rows of one run. */
export function verifyRun(rows: readonly AppendRow[]): RunVerdict {
  return atOnce(verifying(rows));
}

/** The same, row by row. */
export function* verifying(rows: readonly AppendRow[]): Generator<void, RunVerdict> {
  const verifier = new RunVerifier(null);
  for (const row of rows) {
    const fault = verifier.take(row);
    if (fault) return fault;
    yield;
  }
  return verifier.end();
}

/** Verifies a run row by row, as they are read: its chain, what may follow what, and its seals. */
export class RunVerifier {
  private readonly sealer: Sealer | null;
  private readonly leaves: Buffer[] = [];
  private first: AppendRow | null = null;
  private progress: ChainProgress | null = null;
  private ended = false;

  /** `sealer`: whose signatures are looked at; null: of no seal. */
  constructor(sealer: Sealer | null) {
    this.sealer = sealer;
  }

  /** Takes the next row; what is wrong with it, or null. */
  take(row: AppendRow): ChainFault | null {
    const first = (this.first ??= row);
    if (row.run_id !== first.run_id || row.tenant_id !== first.tenant_id)
      return { run_id: row.run_id, seq: row.first_seq, fault: "the row belongs to another run" };
    const next = verifyRow(this.progress ?? startOfChain(first.tenant_id, first.run_id), row);
    if ("fault" in next) return next;
    this.progress = next;
    for (const line of bodyLines(row.body)) {
      const event = JSON.parse(line) as StoredEvent;
      const fault = this.wrong(row, event);
      if (fault !== null) return { run_id: row.run_id, seq: event.seq, fault };
      this.leaves.push(eventLeaf(line));
    }
    return null;
  }

  end(): RunVerdict {
    const { progress } = this;
    return progress
      ? { events: progress.seq, chain: progress.chain }
      : { run_id: "", seq: 0, fault: "there are no events" };
  }

  private wrong(row: AppendRow, event: StoredEvent): string | null {
    const { seq, type } = event;
    if (seq === 1 && type !== "run.started") return "the first event is not run.started";
    if (this.ended && !AFTER_TERMINAL.test(type)) return `${type} after the end of the run`;
    if (TERMINAL.test(type)) this.ended = true;
    if (type !== "run.sealed") return null;
    return wrongSeal(event, this.leaves) ?? (this.sealer && unsigned(row, event, this.sealer));
  }
}

/** Who may have sealed: of seals by other keys the signature is not looked at. */
export type Sealer = Pick<Signer, "key_id" | "verify">;

/** Looks at the seals of a run whose chain was verified, row by row. */
export class SealVerifier {
  private readonly sealer: Sealer;
  private readonly leaves: Buffer[] = [];

  constructor(sealer: Sealer) {
    this.sealer = sealer;
  }

  /** Takes the next row; a seal in it that does not follow from the events, or is not signed by the key that it names. */
  take(row: AppendRow): ChainFault | null {
    for (const line of bodyLines(row.body)) {
      const event = line.includes(SEALED) ? (JSON.parse(line) as StoredEvent) : null;
      const isSeal = event?.type === "run.sealed";
      const wrong = isSeal ? (wrongSeal(event, this.leaves) ?? unsigned(row, event, this.sealer)) : null;
      if (event && wrong) return { run_id: row.run_id, seq: event.seq, fault: wrong };
      this.leaves.push(eventLeaf(line));
    }
    return null;
  }
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
