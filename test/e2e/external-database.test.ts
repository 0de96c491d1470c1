// A Postgres of somebody else: DATABASE_URL for the login that serves, DATABASE_ADMIN_URL for the owner that migrates.
import { afterAll, beforeAll, expect, test } from "vitest";
import { startEmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import type { EmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";

let postgres: EmbeddedPostgres;
let cluster: string;
let data: string;

beforeAll(async () => {
  cluster = tempFolder("qd-external");
  data = tempFolder("qd-external-data");
  postgres = await startEmbeddedPostgres(cluster, systemClock);
  const owner = { socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" };
  await withClient(owner, (tx) => tx.query({ text: "create database theirs" }));
});
afterAll(async () => {
  await postgres.stop();
  remove(cluster);
  remove(data);
});

const url = (user: string) => `postgresql://${user}@localhost/theirs?host=${encodeURIComponent(postgres.socket_dir)}`;
const MANIFEST = `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Workflow
metadata: { name: w }
spec: { steps: [{ id: a, tool: noop }] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
`;

test("a superuser as DATABASE_URL is refused with what to do", async () => {
  const refused = await cli(["up", "--port", "0"], {
    data,
    env: { DATABASE_URL: url("postgres"), DATABASE_ADMIN_URL: url("postgres") },
  });
  expect(refused.code).toBe(2);
  expect(refused.err).toContain("DATABASE_ADMIN_URL");
});

test("with a plain login it migrates as the owner, serves, and survives the loss of every connection", async () => {
  const server = await startUp(data, { DATABASE_URL: url("serving"), DATABASE_ADMIN_URL: url("postgres") });
  await server.client.apply(MANIFEST);
  const finished = async () => {
    const run = await until("a start", () => server.client.startRun({ workflow: "w" }).catch(() => null));
    return until("an end", async () =>
      (await server.client.getRun(run.run_id).catch(() => null))?.state === "succeeded" ? run : null,
    );
  };
  await finished();
  const owner = { socket_dir: postgres.socket_dir, user: "postgres", database: "theirs" };
  await withClient(owner, (tx) =>
    tx.query({ text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'serving'" }),
  );
  await finished();
  const verified = await server.client.json<{ ok: boolean }>("/journal/verify", { method: "POST", body: {} });
  expect(verified.ok).toBe(true);
  await server.stop();
});
