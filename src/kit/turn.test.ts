import { expect, test } from "vitest";
import { atOnce, Turn } from "./turn.ts";

/** Pieces of 2 ms each, and how often the event loop had its turn before each of them. */
async function played(count: number, limit_ms: number, late = 0): Promise<{ order: number[]; turns: number[] }> {
  let now = 0;
  let turns = 0;
  const turn = new Turn({ monotonic_ms: () => now, soon: (fn) => void setImmediate(fn) }, limit_ms);
  const begun: { piece: number; at: number }[] = [];
  const piece = async (n: number) => {
    await turn.next();
    // Its work comes some steps later, as with a lock before it.
    await Promise.resolve();
    begun.push({ piece: n, at: turns });
    now += 2;
  };
  let going = true;
  const tick = () => {
    turns += 1;
    if (going) setImmediate(tick);
  };
  setImmediate(tick);
  const all = Array.from({ length: count }, (_, n) => piece(n));
  await new Promise((resolve) => setImmediate(resolve));
  await Promise.all([...all, ...Array.from({ length: late }, (_, n) => piece(count + n))]);
  going = false;
  return { order: begun.map((one) => one.piece), turns: begun.map((one) => one.at) };
}

test("pieces begin in the order in which they were asked for, also those that are asked for later", async () => {
  const { order } = await played(40, 4, 40);
  expect(order).toEqual(Array.from({ length: 80 }, (_, n) => n));
});

test("the event loop has its turn when pieces have taken the time", async () => {
  const { turns } = await played(40, 4, 40);
  for (const at of new Set(turns)) expect(turns.filter((one) => one === at).length).toBeLessThanOrEqual(4);
  expect(new Set(turns).size).toBeGreaterThanOrEqual(20);
});

test("however small they are, it has its turn after some of them", async () => {
  const { turns } = await played(200, 1_000_000);
  expect(turns).toHaveLength(200);
});

test("work in pieces is the same work, and stops for others where their turn has come", async () => {
  let now = 0;
  const turn = new Turn({ monotonic_ms: () => now, soon: (fn) => void setImmediate(fn) }, 4);
  function* counting(): Iterator<void, number> {
    let sum = 0;
    for (let i = 1; i <= 10; i++) {
      now += 2;
      sum += i;
      yield;
    }
    return sum;
  }
  expect(atOnce(counting())).toBe(55);
  const seen: string[] = [];
  const work = turn.pieces(counting()).then((sum) => seen.push(`work ${sum}`));
  const other = new Promise<void>((resolve) => setImmediate(resolve)).then(() => seen.push("other"));
  await Promise.all([work, other]);
  expect(seen).toEqual(["other", "work 55"]);
});

test("with no time at all each piece has a turn of its own", async () => {
  const { order, turns } = await played(10, 0);
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(new Set(turns).size).toBe(10);
});
