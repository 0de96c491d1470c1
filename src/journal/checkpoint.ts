// Checkpoints: per tenant a signed Merkle root over all appends of a stretch of one group's order, each naming the one before;
// one node signs for all groups, so a tenant has one line of them. Written to the database and to a witness outside of it. With
// the witness alone an outsider can tell whether any append was changed, removed, inserted or cut off up to the last one.
import { leafHash, MerkleTree } from "../kit/merkle.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { sha256 } from "../kit/hash.ts";
import { decodeId, encodeId, uuidBytes, uuidText } from "../kit/ids.ts";
import { present } from "../kit/assert.ts";
import type { Clock } from "../kit/clock.ts";
import type { CommittedRow, JournalStore } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, DbTx } from "../contract/ports.ts";

export interface Checkpoint {
  readonly tenant_id: string;
  readonly n: number;
  readonly group: number;
  /** Offsets (from, to] of the group. */
  readonly from_off: number;
  readonly to_off: number;
  readonly leaves: number;
  readonly root: string;
  /** Hash of the checkpoint before; 64 zeros for the first. */
  readonly previous: string;
  readonly key_id: string;
  readonly signature: string;
  readonly at_us: number;
}

/** Signs with a key that is not in the database. */
export interface Signer {
  readonly key_id: string;
  /** PEM. */
  readonly public_key: string;
  sign(bytes: Uint8Array): Buffer;
  verify(bytes: Uint8Array, signature: Uint8Array): boolean;
}

/** A place outside the database that keeps checkpoints: by default a file. */
export interface Witness {
  record(line: string): Promise<void>;
  lines(): Promise<string[]>;
}

const NONE = "0".repeat(64);
const LEAF_BYTES = 32;
/** Between two pages the process does other work: so many leaves take it a few milliseconds. */
const PAGE_ROWS = 2_000;

/** What is signed, and whose hash the next checkpoint names. */
export function checkpointText(checkpoint: Omit<Checkpoint, "signature">): Buffer {
  const { tenant_id, n, group, from_off, to_off, leaves, root, previous, key_id, at_us } = checkpoint;
  const body = { at_us, from_off, group, key_id, leaves, n, previous, root, tenant_id, to_off };
  return Buffer.from(`quarterdeck/checkpoint/v1\n${canonicalJson(body)}`);
}

/** Leaf of one append: the run, where it ends and its chain value, which stands for all events up to there. */
export function appendLeaf(row: Pick<CommittedRow, "run_id" | "last_seq" | "chain">): Buffer {
  const seq = Buffer.alloc(4);
  seq.writeUInt32BE(row.last_seq);
  return leafHash(Buffer.concat([present(decodeId("run", row.run_id), "a run id is well formed"), seq, row.chain]));
}

interface CheckpointRow {
  tenant_id: string;
  n: number;
  grp: number;
  from_off: number;
  to_off: number;
  leaves: number;
  root: Buffer;
  previous: Buffer;
  key_id: string;
  signature: Buffer;
  at_us: number;
}

const fromRow = (row: CheckpointRow): Checkpoint => ({
  tenant_id: encodeId("ten", uuidBytes(row.tenant_id)),
  n: row.n,
  group: row.grp,
  from_off: row.from_off,
  to_off: row.to_off,
  leaves: row.leaves,
  root: row.root.toString("hex"),
  previous: row.previous.toString("hex"),
  key_id: row.key_id,
  signature: row.signature.toString("hex"),
  at_us: row.at_us,
});

export async function listCheckpoints(tx: DbTx, after_n: number, limit: number): Promise<Checkpoint[]> {
  const { rows } = await tx.query<CheckpointRow>({
    text: "select tenant_id, n, grp, from_off, to_off, leaves, root, previous, key_id, signature, at_us from qd.checkpoints where n > $1 order by tenant_id, n limit $2",
    values: [after_n, limit],
  });
  return rows.map(fromRow);
}

/** Of each tenant and group. */
async function lastCheckpoints(tx: DbTx): Promise<Checkpoint[]> {
  const { rows } = await tx.query<CheckpointRow>({
    text: "select distinct on (tenant_id, grp) tenant_id, n, grp, from_off, to_off, leaves, root, previous, key_id, signature, at_us from qd.checkpoints order by tenant_id, grp, n desc",
  });
  return rows.map(fromRow);
}

async function insertCheckpoint(tx: DbTx, c: Checkpoint): Promise<void> {
  await tx.query({
    text: `insert into qd.checkpoints (tenant_id, n, grp, from_off, to_off, leaves, root, previous, key_id, signature, at_us)
      values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
    values: [
      uuidText(present(decodeId("ten", c.tenant_id), "a tenant id is well formed")),
      c.n,
      c.group,
      c.from_off,
      c.to_off,
      c.leaves,
      Buffer.from(c.root, "hex"),
      Buffer.from(c.previous, "hex"),
      c.key_id,
      Buffer.from(c.signature, "hex"),
      c.at_us,
    ],
  });
}

/** What was signed so far. */
interface Known {
  /** The last one of each tenant. */
  readonly last: Map<string, Checkpoint>;
  /** Where the last one of each group and tenant ends. */
  readonly ends: Map<string, number>;
  /** For each group: everything up to here is covered for every tenant that wrote. */
  readonly covered: number[];
}

export class Checkpointer {
  private readonly options: {
    store: JournalStore;
    db: Db;
    signer: Signer;
    witness: Witness;
    clock: Clock;
    /** How many groups there are. */
    groups: number;
  };
  /** Null when it has to be read first. */
  private known: Known | null = null;
  private running: Promise<number> | null = null;

  constructor(options: Checkpointer["options"]) {
    this.options = options;
  }

  /** Signs what was committed since the last time. Returns how many checkpoints were made. Calls do not overlap. */
  tick(): Promise<number> {
    this.running ??= this.make()
      .catch((error: unknown) => {
        // It may be in the database and not in the witness, or its commit unknown: what is there is read again.
        this.forget();
        throw error;
      })
      .finally(() => (this.running = null));
    return this.running;
  }

  /** Another node may have signed since: what is known is read again. */
  forget(): void {
    this.known = null;
  }

  /**
   * What one round knows is its own: when it is forgotten in the middle, the round goes on with what it began with. Where
   * another node has signed since, its next number is taken, and the database refuses it.
   */
  private async make(): Promise<number> {
    const known = (this.known ??= await this.load());
    let made = 0;
    for (let group = 0; group < this.options.groups; group++) made += await this.cover(known, group);
    return made;
  }

  private async load(): Promise<Known> {
    const last = new Map<string, Checkpoint>();
    const ends = new Map<string, number>();
    const offsets: number[][] = Array.from({ length: this.options.groups }, () => []);
    for (const c of await this.options.db.transaction({ role: "qd_system" }, lastCheckpoints)) {
      if (c.n > (last.get(c.tenant_id)?.n ?? 0)) last.set(c.tenant_id, c);
      ends.set(endKey(c), c.to_off);
      offsets[c.group]?.push(c.to_off);
    }
    return { last, ends, covered: offsets.map((of) => (of.length === 0 ? 0 : Math.min(...of))) };
  }

  private async cover(known: Known, group: number): Promise<number> {
    const { store } = this.options;
    const { head } = await store.groupHead(group);
    const ends = new Map(
      [...known.last.keys()].map((id) => [id, known.ends.get(endKey({ tenant_id: id, group })) ?? 0]),
    );
    const trees = new Map<string, MerkleTree>();
    let count = 0;
    let at = known.covered[group] ?? 0;
    while (at < head && count < LIMITS.checkpoint_leaves_max) {
      const { to_off, leaves } = await store.readLeaves(group, at, Math.min(PAGE_ROWS, head - at), ends);
      for (const [tenant_id, bytes] of leaves) {
        const tree = trees.get(tenant_id) ?? new MerkleTree();
        trees.set(tenant_id, tree);
        for (let from = 0; from < bytes.length; from += LEAF_BYTES) tree.add(bytes.subarray(from, from + LEAF_BYTES));
        count += bytes.length / LEAF_BYTES;
      }
      at = to_off > at ? to_off : head;
    }
    for (const [tenant_id, tree] of trees) await this.sign(known, { tenant_id, group, to_off: at }, tree);
    known.covered[group] = at;
    return trees.size;
  }

  private async sign(
    known: Known,
    { tenant_id, group, to_off }: { tenant_id: string; group: number; to_off: number },
    tree: MerkleTree,
  ): Promise<void> {
    const { db, signer, witness, clock } = this.options;
    const before = known.last.get(tenant_id);
    const unsigned = {
      tenant_id,
      n: (before?.n ?? 0) + 1,
      group,
      from_off: known.ends.get(endKey({ tenant_id, group })) ?? 0,
      to_off,
      leaves: tree.size,
      root: tree.root().toString("hex"),
      previous: before ? sha256(checkpointText(before)).toString("hex") : NONE,
      key_id: signer.key_id,
      at_us: clock.now_us(),
    };
    const checkpoint = { ...unsigned, signature: signer.sign(checkpointText(unsigned)).toString("hex") };
    await db.transaction({ role: "qd_system" }, (tx) => insertCheckpoint(tx, checkpoint));
    await witness.record(canonicalJson(checkpoint));
    known.last.set(tenant_id, checkpoint);
    known.ends.set(endKey(checkpoint), to_off);
  }
}

const endKey = ({ tenant_id, group }: Pick<Checkpoint, "tenant_id" | "group">): string => `${tenant_id}/${group}`;

/** The first fault in a tenant's line of checkpoints, by themselves: order, links, signatures. */
export function checkpointFault(checkpoints: readonly Checkpoint[], signer: Signer): string | null {
  let previous: Checkpoint | null = null;
  const ends = new Map<number, number>();
  for (const c of checkpoints) {
    const at = `checkpoint ${c.n} of ${c.tenant_id}`;
    if (c.n !== (previous?.n ?? 0) + 1) return `${at}: number ${(previous?.n ?? 0) + 1} is missing`;
    if (c.from_off !== (ends.get(c.group) ?? 0)) return `${at} does not begin where the one before ends`;
    if (c.previous !== (previous ? sha256(checkpointText(previous)).toString("hex") : NONE))
      return `${at} does not name the one before`;
    if (c.key_id !== signer.key_id) return `${at} was signed by another key (${c.key_id})`;
    if (!signer.verify(checkpointText(c), Buffer.from(c.signature, "hex"))) return `${at}: the signature is wrong`;
    previous = c;
    ends.set(c.group, c.to_off);
  }
  return null;
}
