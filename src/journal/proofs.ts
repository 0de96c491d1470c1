// What ties an exported run to signed checkpoints: for each of its appends the path from its leaf to a checkpoint's root
// (RFC 9162 section 2.1.3), the checkpoint, and the key that signed it. Who trusts the key needs neither the server nor any
// other run to see that these appends stood in the journal when the checkpoint was signed.
import { createPublicKey, verify } from "node:crypto";
import { inclusionProofs, verifyInclusion } from "../kit/merkle.ts";
import { sha256Hex } from "../kit/hash.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { AppendRow, CommittedRow, JournalStore } from "../contract/journal.ts";
import { appendLeaf, checkpointText } from "./checkpoint.ts";
import type { Checkpoint, Signer } from "./checkpoint.ts";

const PAGE_ROWS = 5_000;

/** Lines of an export that prove its rows; rows after the last checkpoint have no proof yet. */
export async function* proofLines(
  options: { store: JournalStore; checkpoints: readonly Checkpoint[]; signer: Pick<Signer, "key_id" | "public_key"> },
  rows: readonly CommittedRow[],
): AsyncIterable<JsonObject> {
  const { store, checkpoints, signer } = options;
  const due = checkpoints.map((checkpoint) => ({
    checkpoint,
    rows: rows.filter((row) => row.group === checkpoint.group && isWithin(row, checkpoint)),
  }));
  yield { type: "key", key_id: signer.key_id, public_key: signer.public_key };
  for (const { checkpoint, rows: covered } of due) {
    if (covered.length === 0) continue;
    yield { type: "checkpoint", checkpoint: JSON.parse(JSON.stringify(checkpoint)) as Json };
    const leaves: Buffer[] = [];
    const places = new Map<number, number>();
    for await (const row of between(store, checkpoint)) {
      if (row.tenant_id !== checkpoint.tenant_id) continue;
      places.set(row.offset, leaves.length);
      leaves.push(appendLeaf(row));
    }
    const indexes = covered.map((row) => places.get(row.offset) ?? -1);
    const paths = inclusionProofs(leaves, indexes);
    for (const [i, row] of covered.entries()) {
      const path = (paths[i] ?? []).map((hash) => hash.toString("hex"));
      const { run_id, last_seq } = row;
      yield { type: "proof", checkpoint: checkpoint.n, index: indexes[i] ?? -1, last_seq, path, run_id };
    }
  }
}

const isWithin = (row: CommittedRow, { from_off, to_off }: Checkpoint): boolean =>
  row.offset > from_off && row.offset <= to_off;

async function* between(store: JournalStore, { group, from_off, to_off }: Checkpoint): AsyncIterable<CommittedRow> {
  for (let after = from_off; after < to_off;) {
    const rows = await store.readGroup(group, after, Math.min(PAGE_ROWS, to_off - after));
    yield* rows;
    const last = rows.at(-1);
    if (!last) return;
    after = last.offset;
  }
}

/** What proofs say of a file: which key signed, and how many appends it vouches for. Null where there are none. */
export interface Proven {
  readonly key_id: string;
  readonly appends: number;
}

export interface ProofFault {
  /** Index of the line. */
  readonly at: number;
  readonly fault: string;
}

/** Checks every proof of a file against its rows. */
export function checkProofs(
  lines: readonly JsonObject[],
  rows: ReadonlyMap<string, readonly AppendRow[]>,
): Proven | ProofFault | null {
  const key = lines.find((line) => line["type"] === "key");
  const public_key = String(key?.["public_key"] ?? "");
  const key_id = `ed25519:${sha256Hex(public_key).slice(0, 16)}`;
  const checkpoints = new Map<number, Checkpoint>();
  let appends = 0;
  for (const [at, line] of lines.entries()) {
    if (line["type"] === "checkpoint" && key) {
      const checkpoint = line["checkpoint"] as unknown as Checkpoint;
      const fault = signatureFault(checkpoint, public_key, key_id);
      if (fault) return { at, fault };
      checkpoints.set(checkpoint.n, checkpoint);
    }
    if (line["type"] !== "proof") continue;
    const fault = proofFault(line, checkpoints, rows);
    if (fault) return { at, fault };
    appends += 1;
  }
  return key && appends > 0 ? { key_id, appends } : null;
}

function signatureFault(checkpoint: Checkpoint, public_key: string, key_id: string): string | null {
  if (checkpoint.key_id !== key_id)
    return `checkpoint ${checkpoint.n} was signed by another key (${checkpoint.key_id})`;
  try {
    const signature = Buffer.from(checkpoint.signature, "hex");
    if (verify(null, checkpointText(checkpoint), createPublicKey(public_key), signature)) return null;
  } catch {
    return "the public key cannot be read";
  }
  return `checkpoint ${checkpoint.n}: the signature is wrong`;
}

function proofFault(
  line: JsonObject,
  checkpoints: ReadonlyMap<number, Checkpoint>,
  rows: ReadonlyMap<string, readonly AppendRow[]>,
): string | null {
  const { run_id, last_seq, path, index } = line;
  const name = `the proof of ${String(run_id)} at seq ${String(last_seq)}`;
  const checkpoint = checkpoints.get(Number(line["checkpoint"]));
  if (!checkpoint) return `${name} names checkpoint ${String(line["checkpoint"])}, which is not in the file`;
  const row = rows.get(String(run_id))?.find((one) => one.last_seq === last_seq);
  if (!row) return `${name} is of an append that is not in the file`;
  const holds = verifyInclusion({
    leaf_hash: appendLeaf(row),
    index: Number(index),
    size: checkpoint.leaves,
    proof: (Array.isArray(path) ? path : []).map((hash) => Buffer.from(String(hash), "hex")),
    root: Buffer.from(checkpoint.root, "hex"),
  });
  return holds ? null : `${name} does not lead to the root of checkpoint ${checkpoint.n}`;
}
