// Seals: when nothing can be added to a run any more, its journal says so, with the Merkle root over the content of its events
// up to there (RFC 9162; a leaf is an event's content digest), signed. With it one event can be shown to stand in the run while
// the others stay private. Invariant: a seal is of exactly the events before it.
import { AppError } from "../contract/errors.ts";
import { isTerminal } from "../contract/events.ts";
import { LIMITS } from "../contract/limits.ts";
import { sha256 } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { leafHash } from "../kit/merkle.ts";
import type { Decision } from "./decide-context.ts";

/** What the data of `run.sealed` says. */
export interface Seal {
  readonly key_id: string;
  readonly last_seq: number;
  /** Hex. */
  readonly root: string;
  readonly signature: string;
}

export interface SealCommand {
  readonly type: "seal";
  readonly seal: Seal;
}

/** What is signed. */
export function sealText(place: { tenant_id: string; run_id: string }, seal: Omit<Seal, "signature">): Buffer {
  const { key_id, last_seq, root } = seal;
  const body = { key_id, last_seq, root, run_id: place.run_id, tenant_id: place.tenant_id };
  return Buffer.from(`quarterdeck/seal/v1\n${canonicalJson(body)}`);
}

/** Leaf of one event, of its stored bytes. */
export function eventLeaf(line: string): Buffer {
  return leafHash(sha256(line));
}

/** True when a run that ended takes nothing more; what others observed may come late for a while. */
export function isOver({ run, ctx }: Decision): boolean {
  const { program, sealed, updated_us } = run;
  const grace_ms = program === null ? (ctx.seal_after_ms ?? LIMITS.seal_after_ms) : 0;
  return sealed || updated_us + grace_ms * 1000 <= ctx.now_us;
}

/** Sealing twice changes nothing. Throws CONFLICT where events came that the seal does not know. */
export function onSeal(decision: Decision, { seal }: SealCommand): void {
  const { run } = decision;
  const { run_id, state } = run;
  if (run.sealed) return;
  if (!isTerminal(state) || !isOver(decision)) {
    const when = isTerminal(state) ? "its grace for what comes late (seal_after_ms) is over" : "it has ended";
    throw new AppError("CONFLICT", `Run ${run_id} is ${state} and may still be added to; ask again when ${when}`);
  }
  if (seal.last_seq !== run.seq)
    throw new AppError("CONFLICT", `Run ${run_id} has ${run.seq} events, its seal is of ${seal.last_seq}`);
  decision.push({ type: "run.sealed", data: { ...seal } });
}
