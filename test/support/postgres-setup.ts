// One real Postgres for all database tests of a run; each test file gets its own database, copied from a migrated template.
import type { TestProject } from "vitest/node";
import { startEmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { migrate } from "../../src/adapters/postgres/setup.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import { remove, tempFolder } from "./processes.ts";

declare module "vitest" {
  export interface ProvidedContext {
    socket_dir: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const data = tempFolder("qd-pg");
  const server = await startEmbeddedPostgres(data, systemClock);
  const owner = { socket_dir: server.socket_dir, user: "postgres", database: "postgres" };
  await withClient(owner, (tx) => tx.query({ text: "create database template_qd" }));
  await migrate({ ...owner, database: "template_qd" }, "quarterdeck");
  project.provide("socket_dir", server.socket_dir);
  return async () => {
    await server.stop();
    remove(data);
  };
}
