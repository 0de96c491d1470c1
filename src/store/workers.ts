// SQL of workers' credentials.
import type { DbTx } from "../contract/ports.ts";

export interface WorkerRow {
  readonly name: string;
  readonly token_sha256: string;
  readonly labels: readonly string[];
  readonly created_by: string;
  readonly created_at_us: number;
  readonly revoked_at_us: number | null;
}

export async function listWorkers(tx: DbTx): Promise<WorkerRow[]> {
  const { rows } = await tx.query<WorkerRow>({
    name: "list_workers",
    text: "select name, token_sha256, labels, created_by, created_at_us, revoked_at_us from qd.workers order by name",
  });
  return rows;
}

/** False when the name is in use. A revoked name may be minted again, with another token. */
export async function insertWorker(tx: DbTx, row: WorkerRow): Promise<boolean> {
  const { count } = await tx.query({
    text: `insert into qd.workers (name, token_sha256, labels, created_by, created_at_us) values ($1, $2, $3, $4, $5)
      on conflict (name) do update set token_sha256 = excluded.token_sha256, labels = excluded.labels,
        created_by = excluded.created_by, created_at_us = excluded.created_at_us, revoked_by = null, revoked_at_us = null
      where qd.workers.revoked_at_us is not null`,
    values: [row.name, row.token_sha256, [...row.labels], row.created_by, row.created_at_us],
  });
  return count === 1;
}

/** False when there is no such worker, or it is revoked already. */
export async function revokeWorker(tx: DbTx, name: string, by: string, now_us: number): Promise<boolean> {
  const { count } = await tx.query({
    text: "update qd.workers set revoked_by = $2, revoked_at_us = $3 where name = $1 and revoked_at_us is null",
    values: [name, by, now_us],
  });
  return count === 1;
}
