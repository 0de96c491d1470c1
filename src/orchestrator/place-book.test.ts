// Places of two nodes under one limit: never more in use than there are, none kept from who needs them.
import { expect, test } from "vitest";
import { silent } from "../../test/support/engine.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { KeyedLimit } from "../kit/keyed-limit.ts";
import { PlaceBook } from "./place-book.ts";

const KEY = "t";

/** What store/limit-places.ts does, for two nodes. */
function shared() {
  const granted = new Map<string, number>();
  const wanted = new Set<string>();
  const store = (node: string) => ({
    ask: async (_key: string, max: number) => {
      const free = max - [...granted.values()].reduce((sum, count) => sum + count, 0);
      if (free > 0) granted.set(node, (granted.get(node) ?? 0) + Math.ceil(free / 2));
      else for (const [other, count] of granted) if (other !== node && count > 0) wanted.add(other);
      return granted.get(node) ?? 0;
    },
    keep: async (_key: string, count: number) => {
      granted.set(node, count);
      wanted.delete(node);
    },
    wanted: async () => (wanted.has(node) ? [KEY] : []),
  });
  return { granted, store };
}

/** A node with so many jobs of 100 ms each. */
function node(name: string, store: ReturnType<typeof shared>["store"], clock: FakeClock, max: number) {
  const book = new PlaceBook({ store: store(name), clock, log: silent });
  const limit = new KeyedLimit<number>(book);
  const stats = { running: 0, done: 0, most: 0 };
  const begin = (job: number) => {
    if (!limit.enter(KEY, max)) return limit.park(KEY, job, 5);
    stats.running += 1;
    clock.timer(100, () => {
      stats.running -= 1;
      stats.done += 1;
      const next = limit.leave(KEY);
      if (next !== undefined) begin(next);
    });
  };
  book.watch({
    isWaiting: (key) => limit.isWaiting(key),
    free: (key) => {
      const next = limit.unpark(key);
      if (next !== undefined) begin(next);
    },
  });
  return { book, stats, give: (count: number) => Array.from({ length: count }, (_, job) => begin(job)) };
}

test.each([1, 2, 5])("with a limit of %i both nodes get on, and no more run than that", async (max) => {
  const clock = new FakeClock();
  const { store } = shared();
  const nodes = [node("one", store, clock, max), node("two", store, clock, max)];
  for (const { give } of nodes) give(20);
  let most = 0;
  for (let ms = 0; ms < 60_000 && nodes.some(({ stats }) => stats.done < 20); ms += 10) {
    await clock.pass(10);
    most = Math.max(
      most,
      nodes.reduce((sum, { stats }) => sum + stats.running, 0),
    );
  }
  expect(nodes.map(({ stats }) => stats.done)).toEqual([20, 20]);
  expect(most).toBe(max);
});

test("a node that needs nothing gives all of its places to the one that does", async () => {
  const clock = new FakeClock();
  const { store, granted } = shared();
  const [one, two] = [node("one", store, clock, 4), node("two", store, clock, 4)];
  one.give(8);
  await clock.pass(5_000);
  expect(one.stats.done).toBe(8);
  two.give(400);
  await clock.pass(3_000);
  expect([granted.get("two"), two.stats.running]).toEqual([4, 4]);
});
