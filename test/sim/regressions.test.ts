// Seeds that once failed, kept for ever.
import { expect, test } from "vitest";
import { check } from "./oracles.ts";
import { Sim } from "./sim.ts";

const SEEDS: Record<number, string> = {
  207: "a retry that was due while the run stopped made the engine spin",
  248: "the same, by another way",
  721: "an approval that came after its expiry, before the timer, was taken",
  782: "a budget's warning was written after the end of the run",
  1188: "an approval that came after its expiry, before the timer, expired alone; a replay expired all that were due",
  1396: "the same, with other calls",
};

test.each(Object.entries(SEEDS))("seed %s: %s", async (seed) => {
  const sim = new Sim(Number(seed));
  sim.tasks = false;
  await sim.play();
  expect(check(sim)).toEqual([]);
});
