// The Postgres journal: design section 4. One statement per flush does all: fence, append, run summaries, approvals,
// budgets. The fence is `update groups ... where shard_epoch = e and head = old`: no row there, nothing is written.
import { decodeId, encodeId, uuidBytes, uuidText } from "../kit/ids.ts";
import { present } from "../kit/assert.ts";
import { FencedError, JOURNAL_LEVEL, NewerJournalError, UnknownCommitError } from "../contract/journal.ts";
import type {
  AppendRow,
  ApprovalRow,
  BudgetUse,
  CommittedRow,
  Flush,
  FlushResult,
  GroupLease,
  JournalStore,
  RunSummary,
} from "../contract/journal.ts";
import { DbError } from "../contract/ports.ts";
import type { Db, DbSession } from "../contract/ports.ts";
import { FLUSH_MANY, FLUSH_ONE } from "./flush-sql.ts";
import { byteaArray, int4Array, int8Array, textArray, uuidArray } from "./binary.ts";

/** The row-level check reads the writer's list of tenants for each row. */
const TENANTS_AT_HAND = 32;

const uuids = new Map<string, Buffer>();
/** Tenants are few and come in every row. */
function tenantBytes(tenant_id: string): Buffer {
  let bytes = uuids.get(tenant_id);
  if (!bytes) {
    bytes = present(decodeId("ten", tenant_id), "a tenant id is well formed");
    uuids.set(tenant_id, bytes);
  }
  return bytes;
}

function runBytes(run_id: string): Buffer {
  return present(decodeId("run", run_id), "a run id is well formed");
}

const runJson = (run: RunSummary) => ({
  ...run,
  tenant_id: uuidText(tenantBytes(run.tenant_id)),
  run_id: uuidText(runBytes(run.run_id)),
});
const approvalJson = (row: ApprovalRow) => ({
  ...row,
  tenant_id: uuidText(tenantBytes(row.tenant_id)),
  run_id: uuidText(runBytes(row.run_id)),
});
const budgetArrays = (uses: readonly (BudgetUse & { readonly group: number })[]): Buffer[] => [
  uuidArray(uses.map((use) => tenantBytes(use.tenant_id))),
  textArray(uses.map((use) => use.budget)),
  int8Array(uses.map((use) => use.period_start_us)),
  int8Array(uses.map((use) => use.spent_micro_usd)),
  int8Array(uses.map((use) => use.reserved_micro_usd)),
  int8Array(uses.map((use) => use.spent_tokens)),
  int8Array(uses.map((use) => use.reserved_tokens)),
  int4Array(uses.map((use) => use.group)),
];

/** A flush of one group. */
export interface GroupFlush {
  readonly lease: GroupLease;
  readonly flush: Flush;
}

type Statement = { name: string; text: string; values: unknown[] };

const rowArrays = (rows: readonly AppendRow[]): Buffer[] => [
  uuidArray(rows.map((row) => row.run_bytes ?? runBytes(row.run_id))),
  uuidArray(rows.map((row) => tenantBytes(row.tenant_id))),
  int4Array(rows.map((row) => row.first_seq)),
  int4Array(rows.map((row) => row.last_seq)),
  byteaArray(rows.map((row) => row.body)),
  byteaArray(rows.map((row) => row.chain)),
];

function oneStatement(lease: GroupLease, flush: Flush): Statement {
  const { rows, at_us } = flush;
  const { group, shard_epoch, head } = lease;
  const at = new Date(Math.floor(at_us / 1000));
  const ordinals = int4Array(rows.map((_row, index) => index + 1));
  return withChanges(
    FLUSH_ONE,
    [group, shard_epoch, at, head, rows.length, ...rowArrays(rows), ordinals],
    [{ lease, flush }],
  );
}

function manyStatement(parts: readonly GroupFlush[]): Statement {
  const placed = parts.flatMap(({ lease: { group, head }, flush }) =>
    flush.rows.map((row, index) => ({ row, group, off: head + index + 1, at_ms: Math.floor(flush.at_us / 1000) })),
  );
  const values = [
    int4Array(parts.map(({ lease }) => lease.group)),
    int8Array(parts.map(({ lease }) => lease.shard_epoch)),
    int8Array(placed.map((one) => one.at_ms)),
    int8Array(parts.map(({ lease }) => lease.head)),
    int4Array(parts.map(({ flush }) => flush.rows.length)),
    ...rowArrays(placed.map((one) => one.row)),
    int4Array(placed.map((one) => one.group)),
    int8Array(placed.map((one) => one.off)),
  ];
  return withChanges(FLUSH_MANY, values, parts);
}

/** What changes besides the journal decides which form of the statement it is. */
function withChanges(forms: typeof FLUSH_ONE, values: unknown[], parts: readonly GroupFlush[]): Statement {
  const runs = new Map(
    parts.flatMap(({ lease, flush }) => flush.runs.map((run) => [run.run_id, { ...runJson(run), grp: lease.group }])),
  );
  const approvals = new Map(parts.flatMap(({ flush }) => flush.approvals.map((row) => [row.approval_id, row])));
  const budgets = parts.flatMap(({ lease, flush }) => flush.budgets.map((use) => ({ ...use, group: lease.group })));
  if (runs.size === 0 && approvals.size === 0)
    return budgets.length === 0
      ? { ...forms.bare, values }
      : { ...forms.hot, values: [...values, ...budgetArrays(budgets)] };
  const json = [JSON.stringify([...runs.values()]), JSON.stringify([...approvals.values()].map(approvalJson))];
  return { ...forms.full, values: [...values, ...json, ...budgetArrays(budgets)] };
}

interface JournalRow {
  grp: number;
  off: number;
  run_id: string;
  tenant_id: string;
  first_seq: number;
  last_seq: number;
  at_us: number;
  body: Buffer;
  chain: Buffer;
}

/** The largest number that the database has for a seq. */
const SEQ_MAX = 2_147_483_647;
const COLUMNS =
  "grp, off, run_id, tenant_id, first_seq, last_seq, (extract(epoch from at) * 1000000)::bigint as at_us, body, chain";

/** Leaves as `appendLeaf` makes them. Made where the rows are: what comes here is 32 bytes of each append, not its events. */
const READ_LEAVES = `with page as (
    select off, tenant_id, run_id, last_seq, chain from qd.journal where grp = $1 and off > $2 order by off limit $3
  )
  select p.tenant_id, max(p.off) as to_off,
    string_agg(sha256('\\x00'::bytea || uuid_send(p.run_id) || int4send(p.last_seq) || p.chain), ''::bytea order by p.off)
      filter (where p.off > coalesce(e.till, 0)) as leaves
  from page p left join unnest($4::uuid[], $5::bigint[]) as e(tenant_id, till) on e.tenant_id = p.tenant_id
  group by p.tenant_id`;

function committed(row: JournalRow): CommittedRow {
  return {
    group: row.grp,
    offset: row.off,
    at_us: row.at_us,
    tenant_id: encodeId("ten", uuidBytes(row.tenant_id)),
    run_id: encodeId("run", uuidBytes(row.run_id)),
    first_seq: row.first_seq,
    last_seq: row.last_seq,
    body: row.body,
    chain: row.chain,
  };
}

export class PostgresJournalStore implements JournalStore {
  private readonly db: Db;
  private session: DbSession | null = null;
  private tenants = new Set<string>();

  constructor(db: Db) {
    this.db = db;
  }

  async acquireGroup(group: number, owner: string): Promise<GroupLease> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<{ shard_epoch: number; head: number }>({
        text: `update qd.groups set shard_epoch = shard_epoch + 1, owner = $2, acquired_at = clock_timestamp(),
            journal_level = $3
          where grp = $1 and journal_level <= $3 returning shard_epoch, head`,
        values: [group, owner, JOURNAL_LEVEL],
      });
      const [row] = rows;
      if (!row) {
        const found = await tx.query<{ journal_level: number }>({
          text: "select journal_level from qd.groups where grp = $1",
          values: [group],
        });
        throw new NewerJournalError(present(found.rows[0], "the group exists").journal_level);
      }
      return { group, shard_epoch: row.shard_epoch, head: row.head };
    });
  }

  async flush(lease: GroupLease, flush: Flush): Promise<FlushResult> {
    try {
      const session = await this.writer(flush.rows);
      const { count } = await session.query(oneStatement(lease, flush));
      if (count !== flush.rows.length) throw new FencedError(`group ${lease.group} has another owner or head`);
      return { ok: true };
    } catch (error) {
      if (error instanceof FencedError) throw error;
      if (!(error instanceof DbError)) throw error;
      if (/^2[23]/.test(error.sqlstate)) return { ok: false, rejected: await this.refused(lease, flush) };
      if (!error.connection) throw error;
      await this.forget();
      throw new UnknownCommitError("the database did not answer the flush", { cause: error });
    }
  }

  /** All of several groups' flushes, or nothing: false when a fence did not hold or a row was refused. Throws UnknownCommitError. */
  async flushMany(parts: readonly GroupFlush[]): Promise<boolean> {
    const rows = parts.flatMap(({ flush }) => flush.rows);
    try {
      const session = await this.writer(rows);
      const { count } = await session.query(manyStatement(parts));
      return count === rows.length;
    } catch (error) {
      if (!(error instanceof DbError)) throw error;
      if (!error.connection) return false;
      await this.forget();
      throw new UnknownCommitError("the database did not answer the flush", { cause: error });
    }
  }

  /** The writer's own connection, allowed for the tenants of this flush and a few it has lately written for. */
  private async writer(rows: readonly AppendRow[]): Promise<DbSession> {
    if (this.session?.broken) await this.forget();
    this.session ??= await this.db.session({ role: "qd_append" });
    if (rows.every((row) => this.tenants.has(row.tenant_id))) return this.session;
    const wanted = new Set([...rows.map((row) => row.tenant_id), ...this.tenants]);
    const own = new Set(rows.map((row) => row.tenant_id)).size;
    this.tenants = new Set([...wanted].slice(0, Math.max(own, TENANTS_AT_HAND)));
    const list = [...this.tenants].map((id) => uuidText(tenantBytes(id))).join(",");
    await this.session.query({ text: "select set_config('qd.tenants', $1, false)", values: [list] });
    return this.session;
  }

  private async forget(): Promise<void> {
    const old = this.session;
    this.session = null;
    this.tenants = new Set();
    await old?.close().catch(() => undefined);
  }

  /** Which rows the database refuses: each is tried alone and rolled back. */
  private async refused(lease: GroupLease, flush: Flush): Promise<string[]> {
    const bad: string[] = [];
    for (const row of flush.rows) {
      const alone: Flush = {
        ...flush,
        rows: [row],
        runs: flush.runs.filter((run) => run.run_id === row.run_id),
        approvals: flush.approvals.filter((approval) => approval.run_id === row.run_id),
        budgets: [],
      };
      const session = await this.writer(alone.rows);
      await session.query({ text: "begin" });
      try {
        await session.query(oneStatement(lease, alone));
      } catch (error) {
        if (!(error instanceof DbError) || error.connection) throw error;
        bad.push(row.run_id);
      } finally {
        await session.query({ text: "rollback" });
      }
    }
    // All pass alone and fail together: nothing can be told apart, so the whole batch is refused.
    return bad.length > 0 ? bad : flush.rows.map((row) => row.run_id);
  }

  async groupHead(group: number): Promise<{ shard_epoch: number; head: number }> {
    try {
      return await this.db.transaction({ role: "qd_system" }, async (tx) => {
        const { rows } = await tx.query<{ shard_epoch: number; head: number }>({
          text: "select shard_epoch, head from qd.groups where grp = $1",
          values: [group],
        });
        return present(rows[0], "the group exists");
      });
    } catch (error) {
      throw new UnknownCommitError("the database does not answer", { cause: error });
    }
  }

  readRun(
    tenant_id: string | null,
    run_id: string,
    from_seq: number,
    limit_rows: number,
    to_seq = SEQ_MAX,
  ): Promise<CommittedRow[]> {
    const scope = tenant_id === null ? { role: "qd_system" as const } : { role: "qd_app" as const, tenant_id };
    return this.db.transaction(scope, async (tx) => {
      const { rows } = await tx.query<JournalRow>({
        name: "read_run",
        // Rows of a run join without gaps, so the row that holds a seq is the last that begins at or before it.
        text: `select ${COLUMNS} from qd.journal where run_id = $1 and first_seq >=
            coalesce((select first_seq from qd.journal where run_id = $1 and first_seq <= $2 order by first_seq desc limit 1), 1)
            and last_seq >= $2 and first_seq <= $4 order by first_seq limit $3`,
        values: [uuidText(runBytes(run_id)), from_seq, limit_rows, Math.min(to_seq, SEQ_MAX)],
      });
      return rows.map(committed);
    });
  }

  readRuns(run_ids: readonly string[], limit_rows: number): Promise<CommittedRow[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<JournalRow>({
        name: "read_runs",
        text: `select ${COLUMNS} from qd.journal where run_id = any($1::uuid[]) order by run_id, first_seq limit $2`,
        values: [uuidArray(run_ids.map(runBytes)), limit_rows],
      });
      return rows.map(committed);
    });
  }

  readGroup(group: number, after_offset: number, limit_rows: number): Promise<CommittedRow[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<JournalRow>({
        name: "read_group",
        text: `select ${COLUMNS} from qd.journal where grp = $1 and off > $2 order by off limit $3`,
        values: [group, after_offset, limit_rows],
      });
      return rows.map(committed);
    });
  }

  readLeaves(
    group: number,
    after_offset: number,
    limit_rows: number,
    ends: ReadonlyMap<string, number>,
  ): Promise<{ to_off: number; leaves: Map<string, Uint8Array> }> {
    const later = [...ends].filter(([, end]) => end > after_offset);
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<{ tenant_id: string; to_off: number; leaves: Buffer | null }>({
        name: "read_leaves",
        text: READ_LEAVES,
        values: [
          group,
          after_offset,
          limit_rows,
          uuidArray(later.map(([tenant_id]) => tenantBytes(tenant_id))),
          int8Array(later.map(([, end]) => end)),
        ],
      });
      const leaves = new Map<string, Uint8Array>();
      for (const row of rows) if (row.leaves) leaves.set(encodeId("ten", uuidBytes(row.tenant_id)), row.leaves);
      return { to_off: Math.max(after_offset, ...rows.map((row) => row.to_off)), leaves };
    });
  }

  openRuns(group: number, after_run_id: string | null, limit: number): Promise<string[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<{ run_id: string }>({
        text: `select run_id from qd.runs where grp = $1 and state in ('queued', 'running', 'waiting')
          and ($2::uuid is null or run_id > $2::uuid) order by run_id limit $3`,
        values: [group, after_run_id === null ? null : uuidText(runBytes(after_run_id)), limit],
      });
      return rows.map((row) => encodeId("run", uuidBytes(row.run_id)));
    });
  }

  budgetUse(group: number | null): Promise<BudgetUse[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<BudgetUse>({
        text: `select tenant_id, budget, period_start_us, sum(spent_micro_usd)::bigint as spent_micro_usd,
            sum(reserved_micro_usd)::bigint as reserved_micro_usd, sum(spent_tokens)::bigint as spent_tokens,
            sum(reserved_tokens)::bigint as reserved_tokens
          from qd.budget_use where $1::int is null or grp = $1 group by tenant_id, budget, period_start_us`,
        values: [group],
      });
      return rows.map((row) => ({ ...row, tenant_id: encodeId("ten", uuidBytes(row.tenant_id)) }));
    });
  }

  async close(): Promise<void> {
    await this.forget();
  }
}
