// SQL of the registry: immutable versions, and the version that each environment uses.
import type { DbTx } from "../contract/ports.ts";
import type { ManifestKind, RegistryItem } from "../contract/manifests.ts";
import type { AliasMove, AliasState } from "../core/registry-history.ts";

interface ItemRow extends Omit<RegistryItem, "spec"> {
  readonly spec: string;
}

const COLUMNS = "kind, name, version, digest, state, spec, created_by, created_at_us";
const ITEMS_MAX = 50_000;
const MOVES_MAX = 500_000;

const item = (row: ItemRow): RegistryItem => ({ ...row, spec: JSON.parse(row.spec) as unknown });

/** Every version of a project: what the catalog is built from. */
export async function listItems(tx: DbTx, project_id: string): Promise<RegistryItem[]> {
  const { rows } = await tx.query<ItemRow>({
    text: `select ${COLUMNS} from qd.registry where project_id = $1 order by kind, name, version limit $2`,
    values: [project_id, ITEMS_MAX],
  });
  return rows.map(item);
}

export type Alias = AliasState;

export async function listAliases(tx: DbTx, project_id: string): Promise<Alias[]> {
  const { rows } = await tx.query<Alias>({
    text: "select kind, name, env, version from qd.aliases where project_id = $1 order by kind, name, env limit $2",
    values: [project_id, ITEMS_MAX],
  });
  return rows;
}

/** Projects with a registry, for a start. */
export async function listScopes(tx: DbTx): Promise<{ tenant_id: string; project_id: string }[]> {
  const { rows } = await tx.query<{ tenant_id: string; project_id: string }>({
    text: "select distinct tenant_id::text as tenant_id, project_id from qd.registry limit 10000",
  });
  return rows;
}

/** Two applies at once wait for each other, so versions are given out without a hole. */
export async function lockRegistry(tx: DbTx, project_id: string): Promise<void> {
  await tx.query({ text: "select pg_advisory_xact_lock(hashtext(qd.tenant()::text || $1))", values: [project_id] });
}

export async function latestVersion(
  tx: DbTx,
  project_id: string,
  kind: ManifestKind,
  name: string,
): Promise<{ version: number; digest: string } | null> {
  const { rows } = await tx.query<{ version: number; digest: string }>({
    text: "select version, digest from qd.registry where project_id = $1 and kind = $2 and name = $3 order by version desc limit 1",
    values: [project_id, kind, name],
  });
  return rows[0] ?? null;
}

export async function findVersion(
  tx: DbTx,
  project_id: string,
  kind: ManifestKind,
  name: string,
  digest: string,
): Promise<number | null> {
  const { rows } = await tx.query<{ version: number }>({
    text: "select version from qd.registry where project_id = $1 and kind = $2 and name = $3 and digest = $4 order by version desc limit 1",
    values: [project_id, kind, name, digest],
  });
  return rows[0]?.version ?? null;
}

export async function insertItem(tx: DbTx, project_id: string, row: ItemRow): Promise<void> {
  await tx.query({
    text: `insert into qd.registry (tenant_id, project_id, ${COLUMNS}) values (qd.tenant(), $1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    values: [
      project_id,
      row.kind,
      row.name,
      row.version,
      row.digest,
      row.state,
      row.spec,
      row.created_by,
      row.created_at_us,
    ],
  });
}

/** Changes of aliases, in the order in which they were made here. */
export async function listAliasMoves(tx: DbTx, project_id: string): Promise<AliasMove[]> {
  const { rows } = await tx.query<AliasMove>({
    text: "select kind, name, env, version, at_us from qd.alias_moves where project_id = $1 order by n limit $2",
    values: [project_id, MOVES_MAX],
  });
  return rows;
}

export async function keepMove(tx: DbTx, project_id: string, move: AliasMove): Promise<void> {
  await tx.query({
    text: `insert into qd.alias_moves (tenant_id, project_id, kind, name, env, version, at_us)
      values (qd.tenant(), $1, $2, $3, $4, $5, $6)`,
    values: [project_id, move.kind, move.name, move.env, move.version, move.at_us],
  });
}

/** Moves an alias and keeps that it was moved. */
export async function setAlias(tx: DbTx, project_id: string, alias: Alias, at_us: number): Promise<void> {
  await keepMove(tx, project_id, { ...alias, at_us });
  await tx.query({
    text: `insert into qd.aliases (tenant_id, project_id, kind, name, env, version) values (qd.tenant(), $1, $2, $3, $4, $5)
      on conflict (tenant_id, project_id, kind, name, env) do update set version = excluded.version`,
    values: [project_id, alias.kind, alias.name, alias.env, alias.version],
  });
}

export async function currentAlias(
  tx: DbTx,
  project_id: string,
  kind: ManifestKind,
  name: string,
  env: string,
): Promise<number | null> {
  const { rows } = await tx.query<{ version: number }>({
    text: "select version from qd.aliases where project_id = $1 and kind = $2 and name = $3 and env = $4",
    values: [project_id, kind, name, env],
  });
  return rows[0]?.version ?? null;
}
