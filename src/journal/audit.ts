// Verifies a whole journal: every chain, every offset, every checkpoint against the appends it covers, every seal against the
// events of its run, and the database's checkpoints against the witness. Reads in pages; memory grows with the number of runs,
// not of events: a run that is sealed is read a second time for its seal.
import { merkleRoot } from "../kit/merkle.ts";
import { isObject } from "../kit/json.ts";
import type { Turn } from "../kit/turn.ts";
import type { CommittedRow, JournalStore } from "../contract/journal.ts";
import { AppError } from "../contract/errors.ts";
import type { Db } from "../contract/ports.ts";
import { appendLeaf, checkpointFault, listCheckpoints } from "./checkpoint.ts";
import type { Checkpoint, Signer, Witness } from "./checkpoint.ts";
import { mayHoldSeal, RunVerifier, SealVerifier, startOfChain, verifyRow } from "./verify.ts";
import type { ChainFault, ChainProgress } from "./verify.ts";

export interface Verified {
  readonly runs: number;
  readonly events: number;
  readonly appends: number;
  readonly checkpoints: number;
  /** What is wrong, in words, with its place; empty when all is well. */
  readonly faults: readonly string[];
}

const PAGE_ROWS = 2_000;
const FAULTS_MAX = 20;
const CHECKPOINTS_MAX = 1_000_000;

type RunReader = Pick<JournalStore, "readRun">;

export async function readWholeRun(store: RunReader, tenant_id: string, run_id: string): Promise<CommittedRow[]> {
  const rows: CommittedRow[] = [];
  for await (const page of readPages(store, tenant_id, run_id)) rows.push(...page);
  return rows;
}

/** The rows of a run in order, page by page. */
async function* readPages(store: RunReader, tenant_id: string, run_id: string): AsyncIterable<CommittedRow[]> {
  for (let from = 1; ;) {
    const page = await store.readRun(tenant_id, run_id, from, PAGE_ROWS);
    if (page.length > 0) yield page;
    if (page.length < PAGE_ROWS) return;
    from = (page.at(-1)?.last_seq ?? 0) + 1;
  }
}

/** Takes the rows of a run one by one until there is a fault. */
function* taken<T>(page: readonly CommittedRow[], take: (row: CommittedRow) => T | null): Iterator<void, T | null> {
  for (const row of page) {
    const fault = take(row);
    if (fault !== null) return fault;
    yield;
  }
  return null;
}

const inWords = ({ run_id, seq, fault }: ChainFault): string => `${run_id} at seq ${seq}: ${fault}`;

export interface VerifyOptions {
  readonly store: JournalStore;
  readonly signer: Signer;
  readonly turn: Turn;
}

/** Verifies one run. Throws NOT_FOUND. */
export async function verifyOne(
  { store, signer, turn }: VerifyOptions,
  tenant_id: string,
  run_id: string,
): Promise<Verified> {
  const verifier = new RunVerifier(signer);
  let appends = 0;
  let fault: ChainFault | null = null;
  for await (const page of readPages(store, tenant_id, run_id)) {
    appends += page.length;
    fault ??= await turn.pieces(taken(page, (row) => verifier.take(row)));
  }
  if (appends === 0) throw new AppError("NOT_FOUND", `There is no run ${run_id}`, { details: { run_id } });
  const result = fault ?? verifier.end();
  const faults = "fault" in result ? [inWords(result)] : [];
  return { runs: 1, events: "events" in result ? result.events : 0, appends, checkpoints: 0, faults };
}

class Auditor {
  readonly faults: string[] = [];
  readonly runs = new Map<string, ChainProgress | null>();
  /** Runs of this group with a seal. */
  sealed: Pick<CommittedRow, "tenant_id" | "run_id">[] = [];
  events = 0;
  appends = 0;
  private leaves = new Map<string, Buffer[]>();
  private due = new Map<string, Checkpoint[]>();
  private offset = 0;

  /** What comes next is a group's order from its first append; these are the checkpoints of it. */
  begin(checkpoints: ReadonlyMap<string, Checkpoint[]>): void {
    this.due = new Map([...checkpoints].map(([tenant, list]) => [tenant, [...list]]));
    this.leaves = new Map();
    this.sealed = [];
    this.offset = 0;
  }

  row(row: CommittedRow): void {
    if (row.offset !== this.offset + 1) this.faults.push(`offset ${this.offset + 1} of group ${row.group} is missing`);
    this.offset = row.offset;
    this.appends += 1;
    this.checkUntil(row.tenant_id, row.offset - 1);
    const list = this.leaves.get(row.tenant_id) ?? [];
    if (list.length === 0) this.leaves.set(row.tenant_id, list);
    list.push(appendLeaf(row));
    const before =
      this.runs.get(row.run_id) ?? (this.runs.has(row.run_id) ? null : startOfChain(row.tenant_id, row.run_id));
    if (before === null) return;
    const next = verifyRow(before, row);
    if ("fault" in next) {
      this.faults.push(inWords(next));
      this.runs.set(row.run_id, null);
      return;
    }
    if (mayHoldSeal(row)) this.sealed.push({ tenant_id: row.tenant_id, run_id: row.run_id });
    this.events += row.last_seq - row.first_seq + 1;
    this.runs.set(row.run_id, next);
  }

  /** Compares checkpoints that end at or before an offset with the appends seen. */
  private checkUntil(tenant_id: string, offset: number): void {
    const list = this.due.get(tenant_id) ?? [];
    while (list[0] && list[0].to_off <= offset) {
      const checkpoint = list.shift() as Checkpoint;
      const leaves = this.leaves.get(tenant_id) ?? [];
      if (leaves.length !== checkpoint.leaves || merkleRoot(leaves).toString("hex") !== checkpoint.root) {
        this.faults.push(
          `the appends up to offset ${checkpoint.to_off} are not those that checkpoint ${checkpoint.n} of ${tenant_id} signed`,
        );
      }
      this.leaves.set(tenant_id, []);
    }
  }

  /** The group has no more. */
  finish(): void {
    for (const tenant of this.due.keys()) this.checkUntil(tenant, Number.MAX_SAFE_INTEGER);
  }
}

function perTenant(checkpoints: readonly Checkpoint[]): Map<string, Checkpoint[]> {
  const map = new Map<string, Checkpoint[]>();
  for (const c of checkpoints) map.set(c.tenant_id, [...(map.get(c.tenant_id) ?? []), c]);
  return map;
}

/** Checkpoints that the witness saw must be in the database, unchanged. */
async function witnessFaults(witness: Witness, checkpoints: readonly Checkpoint[]): Promise<string[]> {
  const known = new Map(checkpoints.map((c) => [`${c.tenant_id}/${c.n}`, c]));
  const faults: string[] = [];
  let lines = 0;
  for (const line of await witness.lines()) {
    let seen: unknown;
    try {
      seen = JSON.parse(line);
    } catch {
      // A torn line: the process died, or the disk was full, while it was written.
      continue;
    }
    if (!isObject(seen)) continue;
    lines += 1;
    const found = known.get(`${String(seen["tenant_id"])}/${String(seen["n"])}`);
    if (!found)
      faults.push(
        `checkpoint ${String(seen["n"])} of ${String(seen["tenant_id"])} is in the witness and not in the database`,
      );
    else if (found.root !== seen["root"] || found.signature !== seen["signature"]) {
      faults.push(`checkpoint ${found.n} of ${found.tenant_id} is not the one the witness saw`);
    }
  }
  // The last one may have been on its way when the process died.
  if (lines === 0 && checkpoints.length > 1)
    faults.push(
      `the witness has none of ${checkpoints.length} checkpoints: it was lost, emptied or is another one; nothing outside the database tells whether they were changed`,
    );
  return faults;
}

async function auditGroup({ store, signer, turn }: VerifyOptions, group: number, auditor: Auditor): Promise<void> {
  const { head } = await store.groupHead(group);
  for (let after = 0; after < head;) {
    const rows = await store.readGroup(group, after, PAGE_ROWS);
    // What is wrong is kept, and ends nothing.
    await turn.pieces(taken(rows, (row) => (auditor.row(row), null)));
    if (rows.length === 0) {
      auditor.faults.push(`the appends after offset ${after} of group ${group} are missing; its head is ${head}`);
      break;
    }
    after = rows.at(-1)?.offset ?? head;
  }
  auditor.finish();
  for (const { tenant_id, run_id } of auditor.sealed) {
    const seals = new SealVerifier(signer);
    let fault: ChainFault | null = null;
    for await (const page of readPages(store, tenant_id, run_id))
      fault ??= await turn.pieces(taken(page, (row) => seals.take(row)));
    if (fault) auditor.faults.push(inWords(fault));
  }
}

/** Verifies everything. */
export async function verifyAll(
  options: VerifyOptions & { readonly db: Db; readonly witness: Witness; readonly groups: number },
): Promise<Verified> {
  const { db, signer, witness, groups } = options;
  const checkpoints = await db.transaction({ role: "qd_system" }, (tx) => listCheckpoints(tx, 0, CHECKPOINTS_MAX));
  const auditor = new Auditor();
  for (const list of perTenant(checkpoints).values()) {
    const fault = checkpointFault(list, signer);
    if (fault) auditor.faults.push(fault);
  }
  auditor.faults.push(...(await witnessFaults(witness, checkpoints)));
  for (let group = 0; group < groups; group++) {
    auditor.begin(perTenant(checkpoints.filter((c) => c.group === group)));
    await auditGroup(options, group, auditor);
  }
  return {
    runs: auditor.runs.size,
    events: auditor.events,
    appends: auditor.appends,
    checkpoints: checkpoints.length,
    faults: auditor.faults.slice(0, FAULTS_MAX),
  };
}
