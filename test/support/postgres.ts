import { inject } from "vitest";
import { PostgresDb, withClient } from "../../src/adapters/postgres/db.ts";
import type { PostgresOptions } from "../../src/adapters/postgres/db.ts";

export interface TestDatabase {
  readonly db: PostgresDb;
  readonly owner: PostgresOptions;
  readonly login: PostgresOptions;
  close(): Promise<void>;
}

let counter = 0;

/** A fresh, migrated database for one test file. */
export async function testDatabase(): Promise<TestDatabase> {
  const socket_dir = inject("socket_dir");
  const database = `t_${process.pid}_${(counter += 1)}`;
  await withClient({ socket_dir, user: "postgres", database: "postgres" }, (tx) =>
    tx.query({ text: `create database ${database} template template_qd` }),
  );
  const login = { socket_dir, user: "quarterdeck", database };
  const db = new PostgresDb(login);
  return { db, owner: { socket_dir, user: "postgres", database }, login, close: () => db.close() };
}
