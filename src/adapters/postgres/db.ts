// The Db port over `pg`: the only importer of the driver. Roles are set per transaction (`set local`), so a pooled
// connection never keeps a tenant. Knows nothing of what the statements mean.
import pg from "pg";
import { AppError } from "../../contract/errors.ts";
import { LIMITS } from "../../contract/limits.ts";
import { DbError } from "../../contract/ports.ts";
import type { Db, DbResult, DbScope, DbSession, DbTx } from "../../contract/ports.ts";
import { decodeId, uuidText } from "../../kit/ids.ts";

/** int8 comes as text from the driver; ours are all below 2^53 by check or by nature. */
pg.types.setTypeParser(20, Number);

export interface PostgresOptions {
  /** Either a connection string, or the folder of a Unix socket. */
  readonly url?: string;
  readonly socket_dir?: string;
  readonly port?: number;
  readonly user?: string;
  readonly database?: string;
  readonly connections_max?: number;
  /** How long an answer may take before the connection counts as gone; for connections that serve. */
  readonly answer_ms?: number;
  /** How long a transaction may say nothing before the database ends it. */
  readonly idle_ms?: number;
}

function clientConfig(options: PostgresOptions): pg.ClientConfig {
  const common: pg.ClientConfig = { application_name: "quarterdeck", keepAlive: true, connectionTimeoutMillis: 10_000 };
  if (options.url !== undefined) return { ...common, connectionString: options.url };
  return {
    ...common,
    host: options.socket_dir ?? "",
    port: options.port ?? 5432,
    user: options.user ?? "quarterdeck",
    database: options.database ?? "quarterdeck",
  };
}

/** Text of the settings that open a transaction. Ids are decoded first, so nothing foreign enters the SQL. */
function scopeSql(scope: DbScope, local: "local " | ""): string {
  const role = `set ${local}role ${scope.role}`;
  if (scope.tenant_id === undefined) return role;
  const tenant = decodeId("ten", scope.tenant_id);
  if (!tenant) throw new AppError("NOT_FOUND", `${scope.tenant_id} is no tenant`);
  return `${role}; set ${local}qd.tenant = '${uuidText(tenant)}'`;
}

interface DriverClient {
  query(config: pg.QueryConfig): Promise<pg.QueryResult>;
}

async function run<Row>(client: DriverClient, statement: Parameters<DbTx["query"]>[0]): Promise<DbResult<Row>> {
  try {
    const result = await client.query({
      text: statement.text,
      ...(statement.name === undefined ? {} : { name: statement.name }),
      ...(statement.values === undefined ? {} : { values: [...statement.values] }),
    });
    return { rows: result.rows as Row[], count: result.rowCount ?? 0 };
  } catch (error) {
    throw databaseError(error);
  }
}

export class PostgresDb implements Db {
  private readonly pool: pg.Pool;
  private readonly config: pg.ClientConfig;
  private readonly idle_ms: number;

  constructor(options: PostgresOptions) {
    // A network can go silent without a word; the system would wait a quarter of an hour to find out.
    this.config = {
      ...clientConfig(options),
      query_timeout: options.answer_ms ?? LIMITS.database_answer_ms,
    };
    this.idle_ms = options.idle_ms ?? LIMITS.database_idle_ms;
    this.pool = new pg.Pool({ ...this.config, max: options.connections_max ?? 8, idleTimeoutMillis: 30_000 });
    // A connection that breaks is replaced at the next use; without a listener the process would end. The pool listens to
    // idle ones; one that is lent out breaks unheard, and its user learns of it from the next statement.
    this.pool.on("error", () => undefined);
    this.pool.on("connect", (client) => client.on("error", () => undefined));
  }

  async transaction<T>(scope: DbScope, fn: (tx: DbTx) => Promise<T>): Promise<T> {
    const client = await this.connect();
    let broken = false;
    try {
      const idle = `set local idle_in_transaction_session_timeout = ${this.idle_ms}`;
      await client.query(`begin; ${scopeSql(scope, "local ")}; ${idle}`);
      const value = await fn({ query: (statement) => run(client, statement) });
      await client.query("commit");
      return value;
    } catch (error) {
      const known = databaseError(error);
      // There is nobody to roll back any more; the server does so by itself.
      broken = known instanceof DbError && known.connection;
      if (!broken) await client.query("rollback").catch(() => (broken = true));
      throw known;
    } finally {
      client.release(broken);
    }
  }

  async session(scope: DbScope): Promise<DbSession> {
    const client = new pg.Client(this.config);
    let broken = false;
    client.on("error", () => (broken = true));
    client.on("end", () => (broken = true));
    try {
      await client.connect();
      await client.query(`set plan_cache_mode = force_generic_plan; ${scopeSql(scope, "")}`);
    } catch (error) {
      await client.end().catch(() => undefined);
      throw databaseError(error);
    }
    return {
      query: (statement) => run(client, statement),
      close: () => client.end(),
      get broken() {
        return broken;
      },
    };
  }

  async close(): Promise<void> {
    await this.pool.end();
  }

  private async connect(): Promise<pg.PoolClient> {
    try {
      return await this.pool.connect();
    } catch (error) {
      throw databaseError(error);
    }
  }
}

/** Connection exception, operator intervention, insufficient resources: the database may be back soon. */
function isConnectionError(error: Error, sqlstate: string): boolean {
  if (sqlstate !== "") return /^(08|57P|53)/.test(sqlstate);
  const code = "code" in error ? error.code : undefined;
  const broken = ["ECONNRESET", "ECONNREFUSED", "EPIPE", "ENOENT", "ETIMEDOUT", "EACCES"];
  // The driver raises a plain Error, with no code, when the server closed the connection.
  return (typeof code === "string" && broken.includes(code)) || (code === undefined && error.constructor === Error);
}

/** Converts what the driver throws, once, here at the edge. Everything else passes as it is. */
function databaseError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof AppError || error instanceof DbError) return error;
  const sqlstate = error instanceof pg.DatabaseError ? (error.code ?? "") : "";
  const connection = isConnectionError(error, sqlstate);
  return sqlstate === "" && !connection ? error : new DbError(error.message, { sqlstate, connection, cause: error });
}

/** A plain connection for setup and migrations, under the login's own role. Throws DbError when no answer comes in time. */
export async function withClient<T>(options: PostgresOptions, fn: (tx: DbTx) => Promise<T>): Promise<T> {
  const client = new pg.Client({
    ...clientConfig(options),
    query_timeout: options.answer_ms ?? LIMITS.database_setup_ms,
  });
  client.on("error", () => undefined);
  try {
    await client.connect();
    return await fn({ query: (statement) => run(client, statement) });
  } catch (error) {
    throw databaseError(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}
