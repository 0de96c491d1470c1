// SQL of run summaries: lists and single rows. The journal is the truth; these rows are written with it.
import { encodeId, uuidBytes, uuidText } from "../kit/ids.ts";
import { idBytes } from "../contract/ids.ts";
import type { RunSummary } from "../contract/journal.ts";
import type { DbTx } from "../contract/ports.ts";

const COLUMNS = `tenant_id, project_id, run_id, kind, target, env, state, reason, requester, created_at_us, updated_at_us,
  steps, cost_micro_usd, tokens, retry_of, source_run_id, external_id, sealed`;

const summary = (row: RunSummary): RunSummary => ({
  ...row,
  tenant_id: encodeId("ten", uuidBytes(row.tenant_id)),
  run_id: encodeId("run", uuidBytes(row.run_id)),
});

export interface RunFilter {
  readonly state?: string;
  readonly kind?: string;
  readonly target?: string;
  /** Newest first; runs older than this one. */
  readonly before?: string;
  readonly limit: number;
}

export async function getRun(tx: DbTx, run_id: string): Promise<RunSummary | null> {
  const { rows } = await tx.query<RunSummary>({
    name: "get_run",
    text: `select ${COLUMNS} from qd.runs where run_id = $1`,
    values: [uuidText(idBytes("run", run_id))],
  });
  return rows[0] ? summary(rows[0]) : null;
}

/**
 * For each name that sources call runs by, the newest such run (index runs_external). Name by name, and planned each time: asked
 * for many at once, or by a plan from when there were few runs, the database reads all runs of the tenant until it has
 * statistics of them.
 */
export async function findExternal(tx: DbTx, external_ids: readonly string[]): Promise<RunSummary[]> {
  const { rows } = await tx.query<RunSummary>({
    text: `select found.* from unnest($1::text[]) as asked(name), lateral (
        select ${COLUMNS} from qd.runs where tenant_id = qd.tenant() and external_id = asked.name order by run_id desc limit 1
      ) as found`,
    values: [[...new Set(external_ids)]],
  });
  return rows.map(summary);
}

/** Newest first, by id (index runs_tenant). */
export async function listRuns(tx: DbTx, filter: RunFilter): Promise<RunSummary[]> {
  const { rows } = await tx.query<RunSummary>({
    text: `select ${COLUMNS} from qd.runs where tenant_id = qd.tenant()
      and ($1::text is null or state = $1) and ($2::text is null or kind = $2)
      and ($3::text is null or target = $3 or target like $3 || '@%') and ($4::uuid is null or run_id < $4::uuid)
      order by run_id desc limit $5`,
    values: [
      filter.state ?? null,
      filter.kind ?? null,
      filter.target ?? null,
      filter.before === undefined ? null : uuidText(idBytes("run", filter.before)),
      filter.limit,
    ],
  });
  return rows.map(summary);
}

export interface RunCounts {
  readonly state: string;
  readonly runs: number;
}

export async function countRuns(tx: DbTx): Promise<RunCounts[]> {
  const { rows } = await tx.query<RunCounts>({
    text: "select state, count(*)::int as runs from qd.runs group by state order by state",
  });
  return rows;
}

/** Open runs that have not moved since an instant: for `doctor`. */
export async function stuckRuns(tx: DbTx, before_us: number, limit: number): Promise<RunSummary[]> {
  const { rows } = await tx.query<RunSummary>({
    text: `select ${COLUMNS} from qd.runs where state in ('queued', 'running') and updated_at_us < $1 order by updated_at_us limit $2`,
    values: [before_us, limit],
  });
  return rows.map(summary);
}

/** Captured runs of these groups that ended before a moment and are not sealed, oldest first (index runs_unsealed). */
export async function listUnsealed(
  tx: DbTx,
  wanted: {
    groups: readonly number[];
    before_us: number;
    after: { updated_at_us: number; run_id: string } | null;
    limit: number;
  },
): Promise<{ tenant_id: string; run_id: string; updated_at_us: number }[]> {
  const { groups, before_us, after, limit } = wanted;
  const { rows } = await tx.query<{ tenant_id: string; run_id: string; updated_at_us: number }>({
    text: `select tenant_id, run_id, updated_at_us from qd.runs where grp = any($1::int[]) and kind = 'captured' and not sealed
      and state in ('succeeded', 'failed', 'cancelled', 'timed_out', 'budget_exceeded', 'policy_blocked')
      and updated_at_us < $2 and ($3::bigint is null or (updated_at_us, run_id) > ($3, $4::uuid))
      order by updated_at_us, run_id limit $5`,
    values: [
      groups,
      before_us,
      after?.updated_at_us ?? null,
      after ? uuidText(idBytes("run", after.run_id)) : null,
      limit,
    ],
  });
  return rows.map((row) => ({
    tenant_id: encodeId("ten", uuidBytes(row.tenant_id)),
    run_id: encodeId("run", uuidBytes(row.run_id)),
    updated_at_us: row.updated_at_us,
  }));
}
