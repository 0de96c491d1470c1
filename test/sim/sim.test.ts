// SEED=123 npm run sim reproduces one history; QD_SIM_SEEDS sets how many are played (2,000 in CI).
import { test } from "vitest";
import { playAll, playsAlike, seedsOf } from "./seeds.ts";
import { Sim } from "./sim.ts";

const seeds = seedsOf("QD_SIM_SEEDS", 300);
const timeout = Math.max(600_000, seeds.length * 100);
const make = (seed: number) => new Sim(seed);

test(`${seeds.length} seeded histories hold every invariant`, { timeout }, async () => {
  await playAll(seeds, make, [
    "step.in_doubt",
    "a task asked its next model",
    "owner replaced",
    "unknown commit, committed",
    "unknown commit, lost",
    "budget.exceeded",
    "tool.denied",
    "human.approval_resolved",
    "run.cancelled",
    "a model call was approved",
    "a parked run came back",
  ]);
});

test("the same seed gives the same history", () => playsAlike(make, [3, 17, 91]));
