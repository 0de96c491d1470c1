// Which database: the embedded one of the data folder, or the one that DATABASE_URL names. Either way migrated, and
// served through a login that row-level security binds.
import type { Clock } from "../kit/clock.ts";
import { startEmbeddedPostgres } from "../adapters/embedded-postgres/supervisor.ts";
import type { EmbeddedPostgres } from "../adapters/embedded-postgres/supervisor.ts";
import { PostgresDb, withClient } from "../adapters/postgres/db.ts";
import type { PostgresOptions } from "../adapters/postgres/db.ts";
import { checkLogin, checkUnbound, migrate } from "../adapters/postgres/setup.ts";
import { AppError } from "../contract/errors.ts";
import type { Config } from "./config.ts";

export interface Database {
  readonly db: PostgresDb;
  readonly embedded: EmbeddedPostgres | null;
  readonly owner: PostgresOptions;
  close(): Promise<void>;
}

const LOGIN = "quarterdeck";

export async function openDatabase(config: Config, clock: Clock): Promise<Database> {
  if (config.database_url !== null) return openExternal(config, config.database_url);
  const embedded = await startEmbeddedPostgres(config.data, clock);
  try {
    const owner: PostgresOptions = { socket_dir: embedded.socket_dir, user: "postgres", database: LOGIN };
    if (embedded.first_start) {
      await withClient({ ...owner, database: "postgres" }, (tx) => tx.query({ text: `create database ${LOGIN}` }));
    }
    await migrate(owner, LOGIN);
    const login: PostgresOptions = { socket_dir: embedded.socket_dir, user: LOGIN, database: LOGIN };
    await checkLogin(login);
    const db = new PostgresDb(login);
    const close = async () => {
      await db.close();
      await embedded.stop();
    };
    return { db, embedded, owner, close };
  } catch (error) {
    await embedded.stop();
    throw error;
  }
}

async function openExternal(config: Config, url: string): Promise<Database> {
  const { database_admin_url: admin_url, groups } = config;
  const login: PostgresOptions = { url };
  const name = decodeURIComponent(new URL(url).username);
  if (name === "")
    throw new AppError("CONFIG_INVALID", "DATABASE_URL must name a login: postgresql://LOGIN@HOST/DATABASE");
  const owner: PostgresOptions = { url: admin_url ?? url };
  if (admin_url !== null) {
    // Before anything is made: roles that the wrong login made could not be granted by the right owner afterwards.
    await checkUnbound(owner, name);
    await migrate(owner, name, groups);
  }
  await checkLogin(login);
  const db = new PostgresDb(login);
  return { db, embedded: null, owner, close: () => db.close() };
}
