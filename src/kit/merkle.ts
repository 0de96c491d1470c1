// Merkle tree of RFC 6962 section 2.1: leaf = H(0x00 || data), node = H(0x01 || left || right), the split at the
// largest power of two below n. Root, inclusion proof and its check (RFC 9162 section 2.1.3.2).
import { sha256 } from "./hash.ts";

const LEAF = Buffer.from([0]);
const NODE = Buffer.from([1]);
const HASH_BYTES = 32;

export function leafHash(data: Uint8Array): Buffer {
  return sha256(Buffer.concat([LEAF, data]));
}

function nodeHash(left: Uint8Array, right: Uint8Array): Buffer {
  return sha256(Buffer.concat([NODE, left, right]));
}

/** The level above: an odd last node rises unchanged, which equals the recursive definition. */
function above(level: readonly Uint8Array[]): Uint8Array[] {
  const next: Uint8Array[] = [];
  for (let i = 0; i < level.length; i += 2) {
    const left = level[i] as Uint8Array;
    const right = level[i + 1];
    next.push(right ? nodeHash(left, right) : left);
  }
  return next;
}

/** Root over leaf hashes. The empty tree is SHA-256 of nothing. */
export function merkleRoot(leaves: readonly Uint8Array[]): Buffer {
  if (leaves.length === 0) return sha256("");
  let level = leaves.slice();
  while (level.length > 1) level = above(level);
  return Buffer.from(level[0] as Uint8Array);
}

/** The same root leaf by leaf, for as many as there are: it keeps one hash for each full subtree, the largest first. */
export class MerkleTree {
  private readonly full: Uint8Array[] = [];
  private count = 0;

  get size(): number {
    return this.count;
  }

  add(leaf_hash: Uint8Array): void {
    let hash = leaf_hash;
    // As in binary addition: each trailing one of the count is a subtree of the size of the one that rises.
    for (let rest = this.count; rest % 2 === 1; rest = (rest - 1) / 2)
      hash = nodeHash(this.full.pop() as Uint8Array, hash);
    this.full.push(hash);
    this.count += 1;
  }

  root(): Buffer {
    if (this.count === 0) return sha256("");
    return Buffer.from(this.full.reduceRight((right, left) => nodeHash(left, right)));
  }
}

/** Audit paths of some leaves, from the leaf to the root; the tree is built once. */
export function inclusionProofs(leaves: readonly Uint8Array[], indexes: readonly number[]): Buffer[][] {
  const paths = indexes.map((): Buffer[] => []);
  for (let level = leaves.slice(), depth = 0; level.length > 1; level = above(level), depth++) {
    for (const [i, index] of indexes.entries()) {
      const sibling = level[Math.floor(index / 2 ** depth) ^ 1];
      if (sibling) paths[i]?.push(Buffer.from(sibling));
    }
  }
  return paths;
}

export function verifyInclusion(options: {
  leaf_hash: Uint8Array;
  index: number;
  size: number;
  proof: readonly Uint8Array[];
  root: Uint8Array;
}): boolean {
  const { index, size, proof } = options;
  if (options.leaf_hash.length !== HASH_BYTES || options.root.length !== HASH_BYTES) return false;
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(size) || index < 0 || index >= size) return false;
  let fn = BigInt(index);
  let sn = BigInt(size) - 1n;
  let hash: Uint8Array = options.leaf_hash;
  for (const sibling of proof) {
    if (sn === 0n) return false;
    if ((fn & 1n) === 1n || fn === sn) {
      hash = nodeHash(sibling, hash);
      while ((fn & 1n) === 0n && fn !== 0n) {
        fn >>= 1n;
        sn >>= 1n;
      }
    } else hash = nodeHash(hash, sibling);
    fn >>= 1n;
    sn >>= 1n;
  }
  return sn === 0n && Buffer.compare(Buffer.from(hash), Buffer.from(options.root)) === 0;
}
