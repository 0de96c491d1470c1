import { expect, test } from "vitest";
import { DbError } from "../../contract/ports.ts";
import { withClient } from "./db.ts";
import { testDatabase } from "../../../test/support/postgres.ts";

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
