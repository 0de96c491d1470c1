// The Postgres journal: design section 4. One statement per flush does all: fence, append, run summaries, approvals,
// budgets. The fence is `update groups ... where shard_epoch = e and head = old`: no row there, nothing is written.
import { decodeId, encodeId, uuidBytes, uuidText } from "../kit/ids.ts";
import { present } from "../kit/assert.ts";
import { FencedError, JOURNAL_LEVEL, NewerJournalError, UnknownCommitError } from "../contract/journal.ts";
import type {
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
import { byteaArray, int4Array, int8Array, textArray, uuidArray } from "./binary.ts";

/** A batch without state changes is the hot path: it has a statement of its own, with nothing to plan but the insert. */
const FENCE = `with fence as (
    update qd.groups set head = $4::bigint + $5::int where grp = $1 and shard_epoch = $2 and head = $4 returning 1
  )`;
const RUNS = `, summaries as (
    insert into qd.runs as r (tenant_id, run_id, project_id, grp, kind, target, env, state, reason, requester,
      created_at_us, updated_at_us, steps, cost_micro_usd, tokens, retry_of, source_run_id, external_id)
    select tenant_id, run_id, project_id, $1::int, kind, target, env, state, reason, requester,
      created_at_us, updated_at_us, steps, cost_micro_usd, tokens, retry_of, source_run_id, external_id
    from json_to_recordset($13::json) as j(tenant_id uuid, run_id uuid, project_id text, kind text, target text, env text,
      state text, reason text, requester text, created_at_us bigint, updated_at_us bigint, steps int, cost_micro_usd bigint,
      tokens bigint, retry_of text, source_run_id text, external_id text)
    where exists (select 1 from fence)
    on conflict (run_id) do update set state = excluded.state, reason = excluded.reason,
      updated_at_us = excluded.updated_at_us, steps = excluded.steps, cost_micro_usd = excluded.cost_micro_usd, tokens = excluded.tokens
  ), asked as (
    insert into qd.approvals (tenant_id, approval_id, run_id, step, state, tool, shown, binding, requester, approvers_min,
      created_at_us, expires_at_us, resolved_by, resolved_at_us, note)
    select j.* from json_to_recordset($14::json) as j(tenant_id uuid, approval_id text, run_id uuid, step int, state text,
      tool text, shown text, binding text, requester text, approvers_min int, created_at_us bigint, expires_at_us bigint,
      resolved_by text, resolved_at_us bigint, note text)
    where exists (select 1 from fence)
    on conflict (tenant_id, approval_id) do update set state = excluded.state, resolved_by = excluded.resolved_by,
      resolved_at_us = excluded.resolved_at_us, note = excluded.note
  )`;
/** Parameters from the given number on: tenant, budget, period, spent, reserved, spent tokens, reserved tokens. */
const BUDGETS = (first: number) => `, budgets as (
    insert into qd.budget_use (tenant_id, budget, period_start_us, spent_micro_usd, reserved_micro_usd, spent_tokens, reserved_tokens)
    select t.* from unnest($${first}::uuid[], ${["text", "int8", "int8", "int8", "int8", "int8"]
      .map((type, i) => `$${first + 1 + i}::${type}[]`)
      .join(", ")}) as t where exists (select 1 from fence)
    on conflict (tenant_id, budget, period_start_us) do update set spent_micro_usd = excluded.spent_micro_usd,
      reserved_micro_usd = excluded.reserved_micro_usd, spent_tokens = excluded.spent_tokens, reserved_tokens = excluded.reserved_tokens
  )`;
/** The rows written are the answer: as many as were sent, or none when the fence did not hold. */
const APPEND = `
  insert into qd.journal (grp, off, run_id, tenant_id, first_seq, last_seq, at, body, chain)
  select $1::int, $4::bigint + t.ord, t.run_id, t.tenant_id, t.first_seq, t.last_seq, $3, t.body, t.chain
  from fence, unnest($6::uuid[], $7::uuid[], $8::int4[], $9::int4[], $10::bytea[], $11::bytea[], $12::int4[])
    as t(run_id, tenant_id, first_seq, last_seq, body, chain, ord)`;

const STATEMENTS = {
  bare: { name: "append_bare", text: FENCE + APPEND },
  hot: { name: "append_hot", text: FENCE + BUDGETS(13) + APPEND },
  full: { name: "append_full", text: FENCE + RUNS + BUDGETS(15) + APPEND },
};

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
const budgetArrays = (uses: readonly BudgetUse[]): Buffer[] => [
  uuidArray(uses.map((use) => tenantBytes(use.tenant_id))),
  textArray(uses.map((use) => use.budget)),
  int8Array(uses.map((use) => use.period_start_us)),
  int8Array(uses.map((use) => use.spent_micro_usd)),
  int8Array(uses.map((use) => use.reserved_micro_usd)),
  int8Array(uses.map((use) => use.spent_tokens)),
  int8Array(uses.map((use) => use.reserved_tokens)),
];

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

const COLUMNS =
  "grp, off, run_id, tenant_id, first_seq, last_seq, (extract(epoch from at) * 1000000)::bigint as at_us, body, chain";

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
        text: `update qd.groups set shard_epoch = shard_epoch + 1, owner = $2, acquired_at = clock_timestamp(), journal_level = $3
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
      const session = await this.writer(flush);
      const { count } = await session.query(this.statement(lease, flush));
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

  private statement(lease: GroupLease, flush: Flush): { name: string; text: string; values: unknown[] } {
    const { rows } = flush;
    const values: unknown[] = [
      lease.group,
      lease.shard_epoch,
      new Date(Math.floor(flush.at_us / 1000)),
      lease.head,
      rows.length,
      uuidArray(rows.map((row) => row.run_bytes ?? runBytes(row.run_id))),
      uuidArray(rows.map((row) => tenantBytes(row.tenant_id))),
      int4Array(rows.map((row) => row.first_seq)),
      int4Array(rows.map((row) => row.last_seq)),
      byteaArray(rows.map((row) => row.body)),
      byteaArray(rows.map((row) => row.chain)),
      int4Array(rows.map((_row, index) => index + 1)),
    ];
    if (flush.runs.length === 0 && flush.approvals.length === 0 && flush.budgets.length === 0)
      return { ...STATEMENTS.bare, values };
    if (flush.runs.length === 0 && flush.approvals.length === 0)
      return { ...STATEMENTS.hot, values: [...values, ...budgetArrays(flush.budgets)] };
    const runs = new Map(flush.runs.map((run) => [run.run_id, run]));
    const approvals = new Map(flush.approvals.map((row) => [row.approval_id, row]));
    return {
      ...STATEMENTS.full,
      values: [
        ...values,
        JSON.stringify([...runs.values()].map(runJson)),
        JSON.stringify([...approvals.values()].map(approvalJson)),
        ...budgetArrays(flush.budgets),
      ],
    };
  }

  /** The writer's own connection, allowed for the tenants of this flush and a few it has lately written for. */
  private async writer(flush: Flush): Promise<DbSession> {
    if (this.session?.broken) await this.forget();
    this.session ??= await this.db.session({ role: "qd_append" });
    if (flush.rows.every((row) => this.tenants.has(row.tenant_id))) return this.session;
    const wanted = new Set([...flush.rows.map((row) => row.tenant_id), ...this.tenants]);
    const own = new Set(flush.rows.map((row) => row.tenant_id)).size;
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
      const session = await this.writer(alone);
      await session.query({ text: "begin" });
      try {
        await session.query(this.statement(lease, alone));
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

  readRun(tenant_id: string | null, run_id: string, from_seq: number, limit_rows: number): Promise<CommittedRow[]> {
    const scope = tenant_id === null ? { role: "qd_system" as const } : { role: "qd_app" as const, tenant_id };
    return this.db.transaction(scope, async (tx) => {
      const { rows } = await tx.query<JournalRow>({
        name: "read_run",
        // Rows of a run join without gaps, so the row that holds a seq is the last that begins at or before it.
        text: `select ${COLUMNS} from qd.journal where run_id = $1 and first_seq >=
            coalesce((select first_seq from qd.journal where run_id = $1 and first_seq <= $2 order by first_seq desc limit 1), 1)
            and last_seq >= $2 order by first_seq limit $3`,
        values: [uuidText(runBytes(run_id)), from_seq, limit_rows],
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

  budgetUse(): Promise<BudgetUse[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<BudgetUse>({ text: "select * from qd.budget_use" });
      return rows.map((row) => ({ ...row, tenant_id: encodeId("ten", uuidBytes(row.tenant_id)) }));
    });
  }

  async close(): Promise<void> {
    await this.forget();
  }
}
