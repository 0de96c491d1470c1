// SQL of control nodes and of the leases of shard groups. All times are the database's own, so no node's clock matters.
import { JOURNAL_LEVEL, NewerJournalError } from "../contract/journal.ts";
import type { GroupLease, GroupLeases, GroupPlace, Membership, NodeAddress } from "../contract/journal.ts";
import type { Db, DbTx } from "../contract/ports.ts";
import { wantedSlices } from "./budget-slices.ts";

type Held = Pick<GroupLease, "group" | "shard_epoch">;
type Beat = Parameters<GroupLeases["beat"]>[0];

export class PostgresLeases implements GroupLeases {
  private readonly db: Db;

  constructor(db: Db) {
    this.db = db;
  }

  beat(given: Beat): Promise<Membership> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      await (given.counts ? keepNode(tx, given) : dropNode(tx, given.by.node));
      const renewed = given.held.length === 0 ? [] : await renew(tx, given);
      const nodes = await liveNodes(tx);
      const wanted = renewed.length === 0 ? [] : await wantedSlices(tx, renewed);
      return { renewed, nodes, groups: await places(tx), version: await settingsVersion(tx), wanted };
    });
  }

  claim(group: number, by: NodeAddress, ttl_ms: number): Promise<GroupLease | null> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<{ shard_epoch: number; head: number }>({
        text: `update qd.groups set shard_epoch = shard_epoch + 1, owner = $2, owner_url = $3, acquired_at = clock_timestamp(),
            lease_until = clock_timestamp() + $4 * interval '1 millisecond',
            journal_level = $5
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

  async release(lease: Held): Promise<void> {
    await this.db.transaction({ role: "qd_system" }, (tx) =>
      tx.query({
        text: "update qd.groups set lease_until = clock_timestamp() where grp = $1 and shard_epoch = $2",
        values: [lease.group, lease.shard_epoch],
      }),
    );
  }

  leave(node: string): Promise<void> {
    return this.db.transaction({ role: "qd_system" }, (tx) => dropNode(tx, node));
  }
}

/** With it go nodes that have not been heard of for long. */
async function keepNode(tx: DbTx, { by, seen, ttl_ms }: Beat): Promise<void> {
  await tx.query({
    name: "keep_node",
    text: `with gone as (delete from qd.nodes where alive_until < clock_timestamp() - interval '1 hour' and node <> $1)
      insert into qd.nodes (node, url, alive_until, seen)
      values ($1, $2, clock_timestamp() + $3 * interval '1 millisecond', $4)
      on conflict (node) do update set url = excluded.url, alive_until = excluded.alive_until, seen = excluded.seen`,
    values: [by.node, by.url, ttl_ms, seen],
  });
}

async function dropNode(tx: DbTx, node: string): Promise<void> {
  await tx.query({ text: "delete from qd.nodes where node = $1", values: [node] });
}

async function renew(tx: DbTx, { held, ttl_ms }: Beat): Promise<number[]> {
  const { rows } = await tx.query<{ grp: number }>({
    name: "renew_leases",
    text: `update qd.groups g set lease_until = clock_timestamp() + $4 * interval '1 millisecond', open_runs = h.open_runs
      from unnest($1::int[], $2::bigint[], $3::int[]) as h(grp, shard_epoch, open_runs)
      where g.grp = h.grp and g.shard_epoch = h.shard_epoch and g.lease_until > clock_timestamp() returning g.grp`,
    values: [
      held.map((one) => one.group),
      held.map((one) => one.shard_epoch),
      held.map((one) => one.open_runs),
      ttl_ms,
    ],
  });
  return rows.map((row) => row.grp);
}

async function liveNodes(tx: DbTx): Promise<NodeAddress[]> {
  const { rows } = await tx.query<NodeAddress>({
    name: "live_nodes",
    text: "select node, url from qd.nodes where alive_until > clock_timestamp() order by started_at, node",
  });
  return rows;
}

async function places(tx: DbTx): Promise<GroupPlace[]> {
  const { rows } = await tx.query<GroupPlace>({
    name: "group_places",
    text: `select grp as "group", owner as node, owner_url as url, shard_epoch,
        case when lease_until > clock_timestamp() then null
          when isfinite(lease_until) then (extract(epoch from clock_timestamp() - lease_until) * 1000)::bigint
          else 0 end as free_ms
      from qd.groups order by grp`,
  });
  return rows;
}

/** Of what every node keeps at hand: registry, aliases, workers' credentials. */
export async function settingsVersion(tx: DbTx): Promise<number> {
  const { rows } = await tx.query<{ version: number }>({
    name: "settings_version",
    text: "select version from qd.settings",
  });
  return rows[0]?.version ?? 0;
}

/** How many living nodes, besides this one, use older settings than these. */
export async function nodesBehind(tx: DbTx, node: string, version: number): Promise<number> {
  const { rows } = await tx.query<{ behind: number }>({
    name: "nodes_behind",
    text: "select count(*)::int as behind from qd.nodes where node <> $1 and alive_until > clock_timestamp() and seen < $2",
    values: [node, version],
  });
  return rows[0]?.behind ?? 0;
}

/** How many groups runs are placed in: fixed when the database was set up. */
export async function countGroups(tx: DbTx): Promise<number> {
  const { rows } = await tx.query<{ groups: number }>({ text: "select count(*)::int as groups from qd.groups" });
  return rows[0]?.groups ?? 1;
}

/** A group's row; `lease_ms` is negative when the lease has run out. */
export interface GroupRow {
  readonly group: number;
  readonly node: string;
  readonly url: string;
  readonly shard_epoch: number;
  readonly head: number;
  readonly open_runs: number;
  readonly lease_ms: number | null;
}

export async function listGroups(tx: DbTx): Promise<GroupRow[]> {
  const { rows } = await tx.query<GroupRow>({
    text: `select grp as "group", owner as node, owner_url as url, shard_epoch, head, open_runs,
        case when isfinite(lease_until)
          then (extract(epoch from lease_until - clock_timestamp()) * 1000)::bigint end as lease_ms
      from qd.groups order by grp`,
  });
  return rows;
}
