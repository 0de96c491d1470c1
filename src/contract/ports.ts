// Ports between modules and to the outside. Implementations are in adapters/ and wired in server/.
import type { StopSignal } from "../kit/stop.ts";

/** A database error, free of the driver. Branch on `sqlstate` and `connection`, never on the text. */
export class DbError extends Error {
  override readonly name = "DbError";
  /** SQLSTATE; empty when the connection itself failed. */
  readonly sqlstate: string;
  /** The database is away or out of resources: the outcome of what was sent is unknown, and it may be back soon. */
  readonly connection: boolean;

  constructor(message: string, options: { sqlstate: string; connection: boolean; cause: unknown }) {
    super(message, { cause: options.cause });
    this.sqlstate = options.sqlstate;
    this.connection = options.connection;
  }
}

/** One statement's result. */
export interface DbResult<Row> {
  readonly rows: Row[];
  readonly count: number;
}

export interface DbTx {
  /** A named statement is prepared once per connection. */
  query<Row>(statement: { name?: string; text: string; values?: readonly unknown[] }): Promise<DbResult<Row>>;
}

/** A database role and the tenant whose rows it may see. */
export interface DbScope {
  readonly role: "qd_app" | "qd_system" | "qd_append";
  readonly tenant_id?: string;
}

export interface Db {
  /** Runs fn in one transaction under the role, with the tenant set for this transaction alone. */
  transaction<T>(scope: DbScope, fn: (tx: DbTx) => Promise<T>): Promise<T>;
  /** A connection of its own that keeps its role: the journal writer's. */
  session(scope: DbScope): Promise<DbSession>;
  close(): Promise<void>;
}

export interface DbSession extends DbTx {
  close(): Promise<void>;
  readonly broken: boolean;
}

/** Content-addressed bytes of one tenant. */
export interface BlobStore {
  /** Stores and returns the digest. Done means durable: file and folder are synced. */
  put(tenant_id: string, bytes: Uint8Array): Promise<string>;
  /** Streams into the store without holding it in memory; refuses past bytes_max. */
  putStream(
    tenant_id: string,
    source: AsyncIterable<Uint8Array>,
    bytes_max?: number,
  ): Promise<{ digest: string; size: number }>;
  /** Reads and checks the digest. Throws NOT_FOUND or ARTIFACT_CORRUPT. */
  get(tenant_id: string, digest: string): Promise<Buffer>;
  getStream(tenant_id: string, digest: string): AsyncIterable<Uint8Array>;
  has(tenant_id: string, digest: string): Promise<boolean>;
  /** Digests of a tenant, for export and backup. */
  list(tenant_id: string): AsyncIterable<string>;
}

export interface NetPolicy {
  /** Origins (scheme://host:port) that may be private; all others must resolve to public addresses. */
  readonly private_origins: readonly string[];
  readonly response_bytes_max: number;
}

/** The only way out. Resolves once, refuses private ranges, checks each redirect, never carries secrets across origins. */
export interface Net {
  /** Like fetch. Throws NetRefused for a destination that is not allowed; nothing was sent then. */
  fetch(url: string, init: RequestInit, policy: NetPolicy): Promise<Response>;
  /** The same without the objects of the web around it, for where each call counts. */
  request(url: string, call: NetCall, policy: NetPolicy): Promise<NetAnswer>;
}

export interface NetCall {
  readonly method: "GET" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal: StopSignal;
}

export interface NetAnswer {
  readonly status: number;
  /** By lower-case name; several of one name are joined by a comma. */
  readonly headers: Readonly<Record<string, string>>;
  /** Decoded, and cut off with an error past the policy's limit. To be read to its end, or left by `return`. */
  readonly body: AsyncIterable<Uint8Array>;
  text(): Promise<string>;
}

/** The destination is not allowed. */
export class NetRefused extends Error {
  override readonly name = "NetRefused";
}

/** Resolves references to secrets (`env:NAME`, `file:PATH`) at the moment of use. Throws AppError when there is none. */
export interface Secrets {
  resolve(reference: string): Promise<string>;
}

/** Structured log without payloads. */
export interface Log {
  info(event: string, fields?: Record<string, unknown>): void;
  warn(event: string, fields?: Record<string, unknown>): void;
  error(event: string, fields?: Record<string, unknown>): void;
}
