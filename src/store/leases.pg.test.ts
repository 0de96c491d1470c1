// Leases of groups, by the database's clock: one holder at a time, an epoch for each claim, and nothing for older programs.
import { afterAll, beforeAll, expect, test } from "vitest";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { withClient } from "../adapters/postgres/db.ts";
import { JOURNAL_LEVEL } from "../contract/journal.ts";
import type { GroupLease } from "../contract/journal.ts";
import { nodesBehind, PostgresLeases, settingsVersion } from "./leases.ts";

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
const beat = (
  by: typeof ME,
  held: readonly GroupLease[],
  given: { counts?: boolean; ttl_ms?: number; seen?: number } = {},
) =>
  leases.beat({
    by,
    counts: true,
    ttl_ms: 60_000,
    seen: 1,
    ...given,
    held: held.map(({ group, shard_epoch }) => ({ group, shard_epoch, open_runs: 7 })),
  });
const pause = () => new Promise((resolve) => setTimeout(resolve, 20));

test("who holds it keeps it; given up or run out it is anybody's, and each claim raises the epoch", async () => {
  const first = (await leases.claim(0, ME, 60_000)) as GroupLease;
  expect(first).toMatchObject({ group: 0, shard_epoch: 1 });
  expect(await leases.claim(0, OTHER, 60_000)).toBeNull();
  expect((await beat(OTHER, [])).groups).toEqual([{ group: 0, ...ME, shard_epoch: 1, free_ms: null }]);
  expect((await beat(ME, [first])).renewed).toEqual([0]);
  await leases.release(first);
  await pause();
  const [place] = (await beat(ME, [first])).groups;
  expect(place?.free_ms).toBeGreaterThan(0);
  const second = (await leases.claim(0, OTHER, 1)) as GroupLease;
  expect(second.shard_epoch).toBe(2);
  expect((await beat(ME, [first])).renewed).toEqual([]);
  await pause();
  expect((await beat(OTHER, [second])).renewed).toEqual([]);
  const third = (await leases.claim(0, ME, 60_000)) as GroupLease;
  expect(third.shard_epoch).toBe(3);
  await leases.release(third);
});

test("nodes that live are known by how long they run; who leaves, does not count or is not heard of is none", async () => {
  expect((await beat(OTHER, [])).nodes.map(({ node }) => node)).toEqual(["other", "me"]);
  expect((await beat(ME, [], { ttl_ms: 1 })).nodes.length).toBeGreaterThan(0);
  await pause();
  expect((await beat(OTHER, [])).nodes).toEqual([OTHER]);
  expect((await beat(ME, [], { counts: false })).nodes).toEqual([OTHER]);
  await leases.leave("other");
  expect((await beat(ME, [])).nodes).toEqual([ME]);
});

test("a change of what all nodes keep at hand raises the version, and it shows who has not seen it", async () => {
  const version = () => database.db.transaction({ role: "qd_system" }, settingsVersion);
  const before = await version();
  await database.db.transaction({ role: "qd_system" }, (tx) =>
    tx.query({ text: "insert into qd.workers values ('w', 'hash', '{}', 'ada', 1)" }),
  );
  expect(await version()).toBe(before + 1);
  const behind = () => database.db.transaction({ role: "qd_system" }, (tx) => nodesBehind(tx, "me", before + 1));
  await beat(OTHER, [], { seen: before });
  expect(await behind()).toBe(1);
  await beat(OTHER, [], { seen: before + 1 });
  expect(await behind()).toBe(0);
});

test("what a newer program has written is not claimed by this one; while that one holds it there is nothing to say", async () => {
  const held = (await leases.claim(0, OTHER, 60_000)) as GroupLease;
  await level(JOURNAL_LEVEL + 1);
  expect(await leases.claim(0, ME, 60_000)).toBeNull();
  await leases.release(held);
  await expect(leases.claim(0, ME, 60_000)).rejects.toThrow("newer version of the program");
  await level(JOURNAL_LEVEL - 1);
  expect((await leases.claim(0, ME, 60_000))?.shard_epoch).toBe(held.shard_epoch + 1);
});
