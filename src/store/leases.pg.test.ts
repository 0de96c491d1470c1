// Leases of groups, by the database's clock: one holder at a time, an epoch for each claim, and nothing for older programs.
import { afterAll, beforeAll, expect, test } from "vitest";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { withClient } from "../adapters/postgres/db.ts";
import { JOURNAL_LEVEL } from "../contract/journal.ts";
import { PostgresLeases } from "./leases.ts";

const ME = { node: "me", url: "http://me" };
const OTHER = { node: "other", url: "http://other" };
let database: TestDatabase;
let leases: PostgresLeases;
beforeAll(async () => {
  database = await testDatabase();
  leases = new PostgresLeases(database.db);
});
afterAll(() => database.close());
const level = (value: number) =>
  withClient(database.owner, (tx) => tx.query({ text: "update qd.groups set journal_level = $1", values: [value] }));

test("who holds it keeps it; given up or run out it is anybody's, and each claim raises the epoch", async () => {
  const first = await leases.claim(0, ME, 60_000);
  expect(first).toMatchObject({ group: 0, shard_epoch: 1 });
  expect(await leases.claim(0, OTHER, 60_000)).toBeNull();
  expect(await leases.holder(0)).toEqual(ME);
  if (first) await leases.release(first);
  expect(await leases.holder(0)).toBeNull();
  const second = await leases.claim(0, OTHER, 1);
  expect(second?.shard_epoch).toBe(2);
  if (first) expect(await leases.renew(first, 60_000)).toBe(false);
  await new Promise((resolve) => setTimeout(resolve, 20));
  if (second) expect(await leases.renew(second, 60_000)).toBe(false);
  const third = await leases.claim(0, ME, 60_000);
  expect(third?.shard_epoch).toBe(3);
  if (third) await leases.release(third);
});

test("what a newer program has written is not claimed by this one; while that one holds it there is nothing to say", async () => {
  const held = await leases.claim(0, OTHER, 60_000);
  await level(JOURNAL_LEVEL + 1);
  expect(await leases.claim(0, ME, 60_000)).toBeNull();
  if (held) await leases.release(held);
  await expect(leases.claim(0, ME, 60_000)).rejects.toThrow("newer version of the program");
  await level(JOURNAL_LEVEL - 1);
  expect((await leases.claim(0, ME, 60_000))?.shard_epoch).toBe((held?.shard_epoch ?? 0) + 1);
});
