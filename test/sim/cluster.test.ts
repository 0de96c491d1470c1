// SEED=123 npm run sim reproduces one history; QD_SIM_CLUSTER_SEEDS sets how many are played (500 in CI).
import { expect, test } from "vitest";
import { ClusterSim } from "./cluster-sim.ts";
import { playAll, playsAlike, seedsOf } from "./seeds.ts";

const seeds = seedsOf("QD_SIM_CLUSTER_SEEDS", 100);
const timeout = Math.max(600_000, seeds.length * 1_000);
const make = (seed: number) => new ClusterSim(seed);

test(
  `${seeds.length} seeded histories of three nodes and three workers hold every invariant`,
  { timeout },
  async () => {
    const seen = await playAll(seeds, make, [
      "a node is killed",
      "a node is told to stop",
      "a node is frozen",
      "a node is cut off from the database",
      "a worker is killed",
      "a worker is frozen",
      "the queue is flushed",
      "the queue is away",
      "a ticket was lost",
      "an answer to a worker was lost",
      "STALE_RESULT",
      "DUPLICATE_RESULT",
      "step.in_doubt",
      "human.approval_resolved",
      "a slice was granted",
      "a slice was wanted",
      "a slice was refused",
      "budget.exceeded",
    ]);
    if (seeds.length > 1) expect(seen.get("runs taken over")).toBeGreaterThan(seeds.length);
  },
);

test("the same seed gives the same history", () => playsAlike(make, [3, 17]));
