// SQL of the leases of shard groups. All times are the database's own, so no node's clock matters.
import { JOURNAL_LEVEL, NewerJournalError } from "../contract/journal.ts";
import type { GroupLease, GroupLeases, NodeAddress } from "../contract/journal.ts";
import type { Db, DbTx } from "../contract/ports.ts";

type Held = Pick<GroupLease, "group" | "shard_epoch">;

export class PostgresLeases implements GroupLeases {
  private readonly db: Db;

  constructor(db: Db) {
    this.db = db;
  }

  claim(group: number, by: NodeAddress, ttl_ms: number): Promise<GroupLease | null> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<{ shard_epoch: number; head: number }>({
        text: `update qd.groups set shard_epoch = shard_epoch + 1, owner = $2, owner_url = $3, acquired_at = clock_timestamp(),
            lease_until = clock_timestamp() + $4 * interval '1 millisecond', journal_level = $5
          where grp = $1 and (lease_until <= clock_timestamp() or owner = $2) and journal_level <= $5
          returning shard_epoch, head`,
        values: [group, by.node, by.url, ttl_ms, JOURNAL_LEVEL],
      });
      const [row] = rows;
      if (row) return { group, shard_epoch: row.shard_epoch, head: row.head };
      const found = await tx.query<{ journal_level: number }>({
        text: "select journal_level from qd.groups where grp = $1 and lease_until <= clock_timestamp()",
        values: [group],
      });
      const level = found.rows[0]?.journal_level ?? 0;
      if (level > JOURNAL_LEVEL) throw new NewerJournalError(level);
      return null;
    });
  }

  renew(lease: Held, ttl_ms: number): Promise<boolean> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { count } = await tx.query({
        name: "renew_lease",
        text: `update qd.groups set lease_until = clock_timestamp() + $3 * interval '1 millisecond'
          where grp = $1 and shard_epoch = $2 and lease_until > clock_timestamp()`,
        values: [lease.group, lease.shard_epoch, ttl_ms],
      });
      return count === 1;
    });
  }

  async release(lease: Held): Promise<void> {
    await this.db.transaction({ role: "qd_system" }, (tx) =>
      tx.query({
        text: "update qd.groups set lease_until = clock_timestamp() where grp = $1 and shard_epoch = $2",
        values: [lease.group, lease.shard_epoch],
      }),
    );
  }

  holder(group: number): Promise<NodeAddress | null> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<NodeAddress>({
        name: "lease_holder",
        text: "select owner as node, owner_url as url from qd.groups where grp = $1 and lease_until > clock_timestamp()",
        values: [group],
      });
      return rows[0] ?? null;
    });
  }
}

/** A group's row; `lease_ms` is negative when the lease has run out. */
export interface GroupRow {
  readonly group: number;
  readonly node: string;
  readonly url: string;
  readonly shard_epoch: number;
  readonly head: number;
  readonly lease_ms: number | null;
}

export async function listGroups(tx: DbTx): Promise<GroupRow[]> {
  const { rows } = await tx.query<GroupRow>({
    text: `select grp as "group", owner as node, owner_url as url, shard_epoch, head,
        case when isfinite(lease_until)
          then (extract(epoch from lease_until - clock_timestamp()) * 1000)::bigint end as lease_ms
      from qd.groups order by grp`,
  });
  return rows;
}
