// SQL of places under limits. One transaction at a time per key; places of a node that does not live any more are free.
import type { Db, DbTx } from "../contract/ports.ts";
import type { Places } from "../contract/places.ts";

interface PlaceRow {
  node: string;
  granted: number;
}

export class PostgresPlaces implements Places {
  private readonly db: Db;
  private readonly node: string;

  constructor(db: Db, node: string) {
    this.db = db;
    this.node = node;
  }

  ask(key: string, max: number): Promise<number> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      await lockKey(tx, key);
      const { rows, nodes } = await livePlaces(tx, key);
      const own = rows.find((row) => row.node === this.node)?.granted ?? 0;
      const free = max - rows.reduce((sum, row) => sum + row.granted, 0);
      if (free <= 0) {
        await wantPlaces(tx, key, this.node);
        return own;
      }
      // Alone it has all of them; else something is left for who asks next.
      const granted = own + (nodes === 1 ? free : Math.ceil(free / 2));
      await keepPlaces(tx, key, this.node, granted);
      return granted;
    });
  }

  keep(key: string, granted: number): Promise<void> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      await lockKey(tx, key);
      await keepPlaces(tx, key, this.node, granted);
    });
  }

  wanted(): Promise<readonly string[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<{ key: string }>({
        name: "wanted_places",
        text: "select key from qd.limit_places where node = $1 and wanted",
        values: [this.node],
      });
      return rows.map((row) => row.key);
    });
  }
}

async function lockKey(tx: DbTx, key: string): Promise<void> {
  await tx.query({
    name: "lock_places",
    text: "select pg_advisory_xact_lock(hashtextextended($1, 0))",
    values: [`places/${key}`],
  });
}

async function livePlaces(tx: DbTx, key: string): Promise<{ rows: PlaceRow[]; nodes: number }> {
  const { rows } = await tx.query<PlaceRow>({
    name: "live_places",
    text: `select n.node, coalesce(p.granted, 0) as granted from qd.nodes n left join qd.limit_places p on p.node = n.node and p.key = $1
      where n.alive_until > clock_timestamp()`,
    values: [key],
  });
  return { rows, nodes: rows.length };
}

/** A node that is not known to live gets none. */
async function keepPlaces(tx: DbTx, key: string, node: string, granted: number): Promise<void> {
  await tx.query({
    name: "keep_places",
    text: `insert into qd.limit_places (key, node, granted) select $1, node, $3 from qd.nodes where node = $2
      on conflict (key, node) do update set granted = excluded.granted, wanted = false`,
    values: [key, node, granted],
  });
}

async function wantPlaces(tx: DbTx, key: string, node: string): Promise<void> {
  await tx.query({
    name: "want_places",
    text: "update qd.limit_places set wanted = true where key = $1 and node <> $2 and granted > 0 and not wanted",
    values: [key, node],
  });
}
