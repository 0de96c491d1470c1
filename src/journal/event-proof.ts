// Shows that one event stands in a run, and gives nothing else of the run away: the event's bytes, the path from its leaf to the
// root of the run's seal (RFC 9162 section 2.1.3), the seal, and the key that signed it. Who trusts the key needs no server.
import { createPublicKey, verify } from "node:crypto";
import { AppError, messageOf } from "../contract/errors.ts";
import type { StoredEvent } from "../contract/events.ts";
import { EVENT_PROOF_FORMAT } from "../contract/journal-routes.ts";
import type { EventProof } from "../contract/journal-routes.ts";
import type { AppendRow } from "../contract/journal.ts";
import { bodyLines } from "../core/chain.ts";
import { eventLeaf, sealText } from "../core/seal.ts";
import type { Seal } from "../core/seal.ts";
import { sha256Hex } from "../kit/hash.ts";
import { parseJson } from "../kit/json.ts";
import { inclusionProofs, verifyInclusion } from "../kit/merkle.ts";

/** The seal of a run; null where it has none. */
export function sealOf(rows: readonly AppendRow[]): Seal | null {
  for (const row of rows.toReversed())
    for (const line of bodyLines(row.body).toReversed()) {
      if (!line.includes('"run.sealed"')) continue;
      const event = JSON.parse(line) as StoredEvent;
      if (event.type === "run.sealed") return event.data as unknown as Seal;
    }
  return null;
}

/** Throws NOT_FOUND for an event that the seal does not cover. */
export function proveEvent(rows: readonly AppendRow[], seal: Seal, seq: number, public_key: string): EventProof {
  const [{ run_id, tenant_id }] = rows as [AppendRow];
  const lines = rows.flatMap((row) => bodyLines(row.body));
  const event = lines[seq - 1];
  if (event === undefined || seq > seal.last_seq)
    throw new AppError(
      "NOT_FOUND",
      `Event ${seq} of run ${run_id} is not under its seal, which is of 1 to ${seal.last_seq}`,
    );
  const [path = []] = inclusionProofs(lines.slice(0, seal.last_seq).map(eventLeaf), [seq - 1]);
  const hashes = path.map((hash) => hash.toString("hex"));
  return { format: EVENT_PROOF_FORMAT, tenant_id, run_id, seq, event, path: hashes, seal, public_key };
}

/** What is wrong with a proof, in words; null when the event stood in the run that was sealed with this key. */
export function proofFault(proof: EventProof): string | null {
  const { event, path, public_key, seal, seq } = proof;
  try {
    if (seal.key_id !== `ed25519:${sha256Hex(public_key).slice(0, 16)}`)
      return "the key is not the one that the seal names";
    const signature = Buffer.from(seal.signature, "hex");
    if (!verify(null, sealText(proof, seal), createPublicKey(public_key), signature))
      return "the seal is not signed with that key";
    const isIn = verifyInclusion({
      leaf_hash: eventLeaf(event),
      index: seq - 1,
      size: seal.last_seq,
      proof: path.map((hash) => Buffer.from(hash, "hex")),
      root: Buffer.from(seal.root, "hex"),
    });
    if (!isIn) return "the event does not lead to the root of the seal";
    return (parseJson(event) as unknown as StoredEvent).seq === seq ? null : "the event carries another seq";
  } catch (error) {
    return `the proof cannot be read: ${messageOf(error)}`;
  }
}
