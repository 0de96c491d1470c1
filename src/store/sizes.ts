// SQL of sizes and growth, for operators.
import type { DbTx } from "../contract/ports.ts";

export async function serverVersion(tx: DbTx): Promise<string> {
  const { rows } = await tx.query<{ v: string }>({ text: "select current_setting('server_version') as v" });
  return rows[0]?.v ?? "?";
}

export interface Growth {
  readonly bytes: number;
  readonly appends: number;
  readonly appends_last_hour: number;
}

/** Size of the journal with its indexes, and how fast it grows. */
export async function journalGrowth(tx: DbTx): Promise<Growth> {
  const { rows } = await tx.query<Growth>({
    text: `select
      (select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint from pg_partition_tree('qd.journal')) as bytes,
      (select sum(head)::bigint from qd.groups) as appends,
      (select count(*)::bigint from qd.journal where at > now() - interval '1 hour') as appends_last_hour`,
  });
  return rows[0] ?? { bytes: 0, appends: 0, appends_last_hour: 0 };
}
