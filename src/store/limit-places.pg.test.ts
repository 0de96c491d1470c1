// Places under a limit in the database: over all living nodes never more than the limit.
import { afterAll, beforeAll, expect, test } from "vitest";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { PostgresLeases } from "./leases.ts";
import { PostgresPlaces } from "./limit-places.ts";

let database: TestDatabase;
let leases: PostgresLeases;
beforeAll(async () => {
  database = await testDatabase();
  leases = new PostgresLeases(database.db);
});
afterAll(() => database.close());
const live = (node: string, ttl_ms = 60_000) =>
  leases.beat({ by: { node, url: `http://${node}` }, counts: true, held: [], seen: 1, ttl_ms });
const placesOf = (node: string) => new PostgresPlaces(database.db, node);

test("alone a node has all; with others each has some, and what is wanted is given back", async () => {
  const [one, two] = [placesOf("one"), placesOf("two")];
  await live("one");
  expect(await one.ask("t", 4)).toBe(4);
  await live("two");
  expect(await two.ask("t", 4)).toBe(0);
  expect([await one.wanted(), await two.wanted()]).toEqual([["t"], []]);
  await one.keep("t", 1);
  expect(await one.wanted()).toEqual([]);
  // Something is left for who asks next.
  expect(await two.ask("t", 4)).toBe(2);
  expect(await one.ask("t", 4)).toBe(2);
  expect(await one.ask("t", 4)).toBe(2);
});

test("what a node had that does not live any more is free; one that is not known gets none", async () => {
  await live("gone", 1);
  await placesOf("gone").ask("u", 3);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const asked = await placesOf("one").ask("u", 3);
  expect(asked).toBe(2);
  await leases.leave("one");
  expect(await placesOf("two").ask("u", 3)).toBe(3);
  await placesOf("nobody").ask("v", 3);
  expect(await placesOf("two").ask("v", 3)).toBe(3);
});
