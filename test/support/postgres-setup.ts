// One real Postgres for all database tests of a run; each test file gets its own database, copied from a migrated template.
// QD_TEST_POSTGRES=system: the one of the system, which is of another version, instead of the embedded one.
import type { TestProject } from "vitest/node";
import { startPostgres } from "../../scripts/services.mjs";
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

interface Server {
  readonly socket_dir: string;
  stop(): Promise<void>;
}

async function startServer(data: string): Promise<Server> {
  if (process.env["QD_TEST_POSTGRES"] !== "system") return startEmbeddedPostgres(data, systemClock);
  const server = await startPostgres({ socketOnly: true });
  if (server.url === undefined) throw new Error(server.missing);
  return server;
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const data = tempFolder("qd-pg");
  const server = await startServer(data);
  const owner = { socket_dir: server.socket_dir, user: "postgres", database: "postgres" };
  await withClient(owner, (tx) => tx.query({ text: "create database template_qd" }));
  await migrate({ ...owner, database: "template_qd" }, "quarterdeck");
  project.provide("socket_dir", server.socket_dir);
  return async () => {
    await server.stop();
    remove(data);
  };
}
