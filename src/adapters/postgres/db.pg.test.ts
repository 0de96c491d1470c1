import { expect, test } from "vitest";
import { DbError } from "../../contract/ports.ts";
import { PostgresDb, withClient } from "./db.ts";
import { FaultProxy } from "../../../test/support/fault-proxy.ts";
import { testDatabase } from "../../../test/support/postgres.ts";
import { until } from "../../../test/support/processes.ts";

test("a connection that breaks while it is lent out, between two statements, fails its transaction and nothing else", async () => {
  const database = await testDatabase();
  const { db, owner } = database;
  const outcome = db.transaction({ role: "qd_system" }, async (tx) => {
    const { rows } = await tx.query<{ pid: number }>({ text: "select pg_backend_pid() as pid" });
    await withClient(owner, (other) =>
      other.query({ text: "select pg_terminate_backend($1)", values: [rows[0]?.pid] }),
    );
    // The driver hears of it now, when nobody waits for an answer.
    await new Promise((resolve) => setTimeout(resolve, 200));
    return tx.query({ text: "select 1" });
  });
  await expect(outcome).rejects.toBeInstanceOf(DbError);
  const { rows } = await db.transaction({ role: "qd_system" }, (tx) =>
    tx.query<{ one: number }>({ text: "select 1 as one" }),
  );
  expect(rows).toEqual([{ one: 1 }]);
  await database.close();
});

test("a transaction whose process says nothing any more does not hold what others wait for", async () => {
  const database = await testDatabase();
  const frozen = new PostgresDb({ ...database.login, idle_ms: 300 });
  let wake: (() => void) | null = null;
  const held = frozen.transaction({ role: "qd_system" }, async (tx) => {
    await tx.query({ text: "update qd.groups set owner = 'frozen'" });
    await new Promise<void>((resolve) => (wake = resolve));
    await tx.query({ text: "update qd.groups set owner = 'late'" });
  });
  const outcome = held.then(
    () => "committed",
    (error: unknown) => error,
  );
  await until("it holds the row", async () => wake !== null);
  await database.db.transaction({ role: "qd_system" }, (tx) =>
    tx.query({ text: "update qd.groups set owner = 'heir'" }),
  );
  (wake as (() => void) | null)?.();
  expect(await outcome).toMatchObject({ name: "DbError", connection: true });
  const { rows } = await database.db.transaction({ role: "qd_system" }, (tx) =>
    tx.query({ text: "select owner from qd.groups" }),
  );
  expect(rows).toEqual([{ owner: "heir" }]);
  await frozen.close();
  await database.close();
});

test("a network that goes silent without a word is a connection that is gone, for transactions and for sessions", async () => {
  const database = await testDatabase();
  const { socket_dir, user } = database.login;
  const proxy = new FaultProxy({ path: `${socket_dir}/.s.PGSQL.5432` });
  const url = `postgresql://${user}@127.0.0.1:${await proxy.listen()}/${database.login.database}`;
  const db = new PostgresDb({ url, answer_ms: 300 });
  const ask = () =>
    db.transaction({ role: "qd_system" }, (tx) => tx.query<{ one: number }>({ text: "select 1 as one" }));
  const session = await db.session({ role: "qd_system" });
  expect((await ask()).rows).toEqual([{ one: 1 }]);
  let silence = Promise.resolve();
  let begun = 0;
  const setUp = withClient({ url, answer_ms: 300 }, async (tx) => {
    silence = proxy.hush(1_500);
    begun = performance.now();
    await tx.query({ text: "select 1" });
  });
  await until("the network is silent", async () => begun > 0);
  const ended = await Promise.allSettled([ask(), session.query({ text: "select 1" }), setUp]);
  const gone = { status: "rejected", reason: { name: "DbError", connection: true } };
  expect(ended).toMatchObject([gone, gone, gone]);
  expect(performance.now() - begun).toBeLessThan(1_200);
  await session.close();
  await silence;
  expect((await ask()).rows).toEqual([{ one: 1 }]);
  await db.close();
  proxy.close();
  await database.close();
});
