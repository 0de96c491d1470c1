// A PostgreSQL as organisations have it: another version than the embedded one, over TCP with passwords, and an owner of the
// database who is no superuser.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startPostgres } from "../../scripts/services.mjs";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";

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

const postgres = await startPostgres();
if (postgres.url === undefined)
  console.warn(`\nSKIPPED: the suite on a PostgreSQL of the system. ${postgres.missing}\n`);

describe.skipIf(postgres.url === undefined)("a PostgreSQL of the system", () => {
  const data = tempFolder("qd-system-postgres");
  const as = (user: string, password: string) => {
    const url = new URL(postgres.url ?? "");
    Object.assign(url, { username: user, password, pathname: "/theirs" });
    return url.href;
  };
  const env = {
    DATABASE_URL: as("serving", "s3rve/me"),
    DATABASE_ADMIN_URL: as("owning", "0wn@me"),
  };

  beforeAll(async () => {
    await withClient({ url: postgres.url ?? "" }, async (tx) => {
      await tx.query({ text: "create role owning login createrole password '0wn@me'" });
      await tx.query({ text: "create role serving login password 's3rve/me'" });
      await tx.query({ text: "create database theirs owner owning" });
    });
  });
  afterAll(async () => {
    if (postgres.url !== undefined) await postgres.stop();
    remove(data);
  });

  test("a wrong password is an error that names the database and does not show the password", async () => {
    const refused = await cli(["up", "--port", "0"], {
      data,
      env: { ...env, DATABASE_ADMIN_URL: as("owning", "wr0ng-one") },
    });
    expect(refused.code).not.toBe(0);
    expect(refused.err).toContain("password authentication failed");
    expect(refused.out + refused.err).not.toContain("wr0ng-one");
  });

  test("it is migrated by an owner without superuser's rights, serves, loses every connection, and serves after a restart", async () => {
    let server = await startUp(data, env);
    await server.client.apply(MANIFEST);
    const finished = async () => {
      const run = await until("a start", () => server.client.startRun({ workflow: "w" }).catch(() => null));
      await until("an end", async () => {
        const now = await server.client.getRun(run.run_id).catch(() => null);
        return now?.state === "succeeded";
      });
      return run.run_id;
    };
    const first = await finished();
    await withClient({ url: postgres.url ?? "" }, (tx) =>
      tx.query({ text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'serving'" }),
    );
    await finished();
    await server.kill();
    server = await startUp(data, env);
    expect(await server.client.getRun(first)).toMatchObject({ state: "succeeded" });
    await finished();
    expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
    await server.stop();
    expect(server.log()).not.toMatch(/s3rve|0wn/);
  });
});
