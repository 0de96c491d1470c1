// Roles and migrations. Runs as the owner (embedded: the cluster's superuser; outside: DATABASE_ADMIN_URL), never as the
// login that serves. Forward only: each file in one transaction, its version row inserted first, so that of two
// programs that migrate at once one waits and then finds the work done. Checksums are kept: an edited file is refused.
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { AppError } from "../../contract/errors.ts";
import { LIMITS } from "../../contract/limits.ts";
import type { DbTx } from "../../contract/ports.ts";
import { sha256Hex } from "../../kit/hash.ts";
import { withClient } from "./db.ts";
import type { PostgresOptions } from "./db.ts";

const FOLDER = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../../migrations");
/** Any number; the same in every version of the program. */
const LOCK = 7_130_114_001;
export const SERVER_VERSION_MIN = 150_000;

/** Roles of the program, and the login that may take them. No role has rights beyond what migrations grant. */
async function createRoles(tx: DbTx, login: string): Promise<void> {
  for (const role of ["qd_append", "qd_system", "qd_app"]) {
    await tx.query({
      text: `do $$ begin if not exists (select from pg_roles where rolname = '${role}') then create role ${role} nologin; end if; end $$`,
    });
  }
  const name = `"${login.replaceAll('"', '""')}"`;
  const { rows } = await tx.query<{ n: number }>({
    text: "select count(*)::int as n from pg_roles where rolname = $1",
    values: [login],
  });
  if (rows[0]?.n === 0) await tx.query({ text: `create role ${name} login nosuperuser nobypassrls` });
  await tx.query({ text: `grant qd_append, qd_system, qd_app to ${name}` });
}

async function migrateOne(tx: DbTx, version: number, file: string, sql: string): Promise<boolean> {
  const checksum = sha256Hex(sql);
  await tx.query({ text: "begin" });
  try {
    const inserted = await tx.query({
      text: "insert into qd_migrations (version, file, checksum) values ($1, $2, $3) on conflict (version) do nothing",
      values: [version, file, checksum],
    });
    if (inserted.count === 1) await tx.query({ text: sql });
    else {
      const { rows } = await tx.query<{ checksum: string }>({
        text: "select checksum from qd_migrations where version = $1",
        values: [version],
      });
      if (rows[0]?.checksum !== checksum) {
        throw new AppError("CONFIG_INVALID", `Migration ${file} differs from the one this database was made with`);
      }
    }
    await tx.query({ text: "commit" });
    return inserted.count === 1;
  } catch (error) {
    await tx.query({ text: "rollback" });
    throw error;
  }
}

const MONTHS_AHEAD = 12;

/**
 * Monthly partitions for a year ahead. Rows beyond them go to the default partition, so a process that runs for longer
 * loses nothing; a month that the default already holds rows of stays there.
 */
async function createPartitions(tx: DbTx): Promise<void> {
  await tx.query({
    text: `do $$
      declare first date := date_trunc('month', now() at time zone 'UTC');
      begin
        for i in 0..${MONTHS_AHEAD} loop
          begin
            execute format('create table if not exists qd.%I partition of qd.journal for values from (%L) to (%L)',
              'journal_' || to_char(first + make_interval(months => i), 'YYYY_MM'),
              to_char(first + make_interval(months => i), 'YYYY-MM-DD') || ' 00:00:00+00',
              to_char(first + make_interval(months => i + 1), 'YYYY-MM-DD') || ' 00:00:00+00');
          exception when check_violation then null;
          end;
        end loop;
      end $$`,
  });
}

/**
 * How many groups runs are placed in is fixed while the journal is empty: a run's place follows from its id and that number.
 * With several, the use of a budget is kept for each.
 */
async function placeGroups(tx: DbTx, groups: number): Promise<void> {
  const { count } = await tx.query({
    text: `insert into qd.groups (grp, shard_epoch, head, owner)
      select g, 0, 0, '' from generate_series(1, $1::int - 1) g
      where (select count(*) = 1 and max(shard_epoch) = 0 from qd.groups)`,
    values: [groups],
  });
  if (count > 0) await tx.query({ text: "alter table qd.budget_use drop constraint budget_use_pkey" });
}

/** Brings the database up to date. A new one gets so many groups. Returns the files that were applied. */
export async function migrate(owner: PostgresOptions, login: string, groups = 1): Promise<string[]> {
  const files = (await readdir(FOLDER)).filter((file) => /^\d{4}_.*\.sql$/.test(file)).sort();
  return withClient(owner, async (tx) => {
    const version = await tx.query<{ v: number }>({ text: "select current_setting('server_version_num')::int as v" });
    if ((version.rows[0]?.v ?? 0) < SERVER_VERSION_MIN) {
      throw new AppError("CONFIG_INVALID", `PostgreSQL 15 or later is needed; this is ${version.rows[0]?.v}`);
    }
    await tx.query({ text: "select pg_advisory_lock($1)", values: [LOCK] });
    await createRoles(tx, login);
    await tx.query({
      text: "create table if not exists qd_migrations (version int primary key, file text not null, checksum text not null, applied_at timestamptz not null default now())",
    });
    const known = await tx.query<{ v: number }>({ text: "select coalesce(max(version), 0) as v from qd_migrations" });
    if ((known.rows[0]?.v ?? 0) > files.length) {
      throw new AppError(
        "CONFIG_INVALID",
        "This database was made by a newer version of the program; install that one",
      );
    }
    const applied: string[] = [];
    for (const file of files) {
      const sql = await readFile(path.join(FOLDER, file), "utf8");
      if (await migrateOne(tx, Number(file.slice(0, 4)), file, sql)) applied.push(file);
    }
    await createPartitions(tx);
    await placeGroups(tx, groups);
    await tx.query({ text: "select pg_advisory_unlock($1)", values: [LOCK] });
    return applied;
  });
}

function unfitLogin(role: string): AppError {
  return new AppError(
    "CONFIG_INVALID",
    `The database login ${role} is superuser, owner of the tables or bypasses row-level security. Use a plain login in DATABASE_URL and give the owner in DATABASE_ADMIN_URL`,
  );
}

/** Refuses a login that can never serve, seen by the owner; one that is not there yet will be made. */
export async function checkUnbound(owner: PostgresOptions, login: string): Promise<void> {
  await withClient({ ...owner, answer_ms: LIMITS.database_answer_ms }, async (tx) => {
    const { rows } = await tx.query<{ unbound: boolean }>({
      text: "select rolsuper or rolbypassrls as unbound from pg_roles where rolname = $1",
      values: [login],
    });
    if (rows[0]?.unbound) throw unfitLogin(login);
  });
}

/** Refuses a login that row-level security does not bind: with it every promise about tenants would be void. */
export async function checkLogin(login: PostgresOptions): Promise<void> {
  await withClient({ ...login, answer_ms: LIMITS.database_answer_ms }, async (tx) => {
    const { rows } = await tx.query<{ role: string; unbound: boolean; owner: boolean }>({
      text: `select current_user as role, rolsuper or rolbypassrls as unbound,
        exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'qd' and c.relowner = r.oid) as owner
        from pg_roles r where rolname = current_user`,
    });
    const row = rows[0];
    if (!row || row.unbound || row.owner) throw unfitLogin(row?.role ?? "");
  });
}
