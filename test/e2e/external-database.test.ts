// A Postgres of somebody else: DATABASE_URL for the login that serves, DATABASE_ADMIN_URL for the owner that migrates, who is
// no superuser. Once over a socket, once as organisations have it: another version, over TCP, with passwords.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startPostgres } from "../../scripts/services.mjs";
import { startEmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

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
const PASSWORDS = { owning: "0wn@me", serving: "s3rve/me" };

interface Theirs {
  /** Of the superuser. */
  readonly url: string;
  stop(): Promise<void>;
}

async function overSocket(): Promise<Theirs> {
  const cluster = tempFolder("qd-external");
  const postgres = await startEmbeddedPostgres(cluster, systemClock);
  const host = encodeURIComponent(postgres.socket_dir);
  return { url: `postgresql://postgres@localhost/postgres?host=${host}`, stop: () => postgres.stop() };
}

const system = await startPostgres();
if (system.url === undefined) console.warn(`\nSKIPPED: the suite on a PostgreSQL of the system. ${system.missing}\n`);

describe.each<{ name: string; checksPasswords: boolean; begin: (() => Promise<Theirs>) | null }>([
  { name: "over a socket", checksPasswords: false, begin: overSocket },
  {
    name: "of the system",
    checksPasswords: true,
    begin: system.url === undefined ? null : () => Promise.resolve(system),
  },
])("a Postgres $name", ({ checksPasswords, begin }) => {
  describe.skipIf(begin === null)("as the database", () => {
    const data = tempFolder("qd-external-data");
    let theirs: Theirs;
    const as = (username: string, password: string) =>
      Object.assign(new URL(theirs.url), { username, password, pathname: "/theirs" }).href;
    const urls = () => ({
      DATABASE_URL: as("serving", PASSWORDS.serving),
      DATABASE_ADMIN_URL: as("owning", PASSWORDS.owning),
    });

    beforeAll(async () => {
      theirs = await (begin ?? overSocket)();
      await withClient({ url: theirs.url }, async (tx) => {
        await tx.query({ text: `create role owning login createrole password '${PASSWORDS.owning}'` });
        await tx.query({ text: `create role serving login password '${PASSWORDS.serving}'` });
        await tx.query({ text: "create database theirs owner owning" });
      });
    });
    afterAll(async () => {
      await theirs?.stop();
      remove(data);
    });

    test("a superuser as DATABASE_URL is refused with what to do", async () => {
      const superuser = Object.assign(new URL(theirs.url), { pathname: "/theirs" }).href;
      const env = { DATABASE_URL: superuser, DATABASE_ADMIN_URL: superuser };
      const refused = await cli(["up", "--port", "0"], { data, env });
      expect(refused.code).toBe(2);
      expect(refused.err).toContain("DATABASE_ADMIN_URL");
    });

    const wrongPassword = async () => {
      const env = { ...urls(), DATABASE_ADMIN_URL: as("owning", "wr0ng-one") };
      const refused = await cli(["up", "--port", "0"], { data, env });
      expect(refused.code).not.toBe(0);
      expect(refused.err).toContain("password authentication failed");
      expect(refused.out + refused.err).not.toContain("wr0ng-one");
    };
    if (checksPasswords) test("a wrong password is told, and not shown", wrongPassword);

    test("its owner migrates it; it serves, survives the loss of every connection, and a restart", async () => {
      let server = await startUp(data, urls());
      await server.client.apply(MANIFEST);
      const first = await finished(server);
      await withClient({ url: theirs.url }, (tx) =>
        tx.query({ text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'serving'" }),
      );
      await finished(server);
      await server.kill();
      server = await startUp(data, urls());
      expect(await server.client.getRun(first)).toMatchObject({ state: "succeeded" });
      await finished(server);
      expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
      await server.stop();
      expect(server.log()).not.toMatch(/s3rve|0wn/);
    });
  });
});

/** A run from its start to its end, also while connections are lost. */
async function finished(server: Running): Promise<string> {
  const { run_id } = await until("a start", () => server.client.startRun({ workflow: "w" }).catch(() => null));
  await until("an end", async () => (await server.client.getRun(run_id).catch(() => null))?.state === "succeeded");
  return run_id;
}
