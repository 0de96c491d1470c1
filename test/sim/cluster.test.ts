// SEED=123 npm run sim reproduces one history; QD_SIM_CLUSTER_SEEDS sets how many are played.
import { expect, test } from "vitest";
import { ClusterSim } from "./cluster-sim.ts";
import { check } from "./oracles.ts";

const only = process.env["SEED"];
const seeds =
  only === undefined
    ? Array.from({ length: Number(process.env["QD_SIM_CLUSTER_SEEDS"] ?? 100) }, (_, i) => i + 1)
    : [Number(only)];
const timeout = Math.max(600_000, seeds.length * 1_000);

test(
  `${seeds.length} seeded histories of three nodes and three workers hold every invariant`,
  { timeout },
  async () => {
    const seen = new Map<string, number>();
    const failures: string[] = [];
    for (const seed of seeds) {
      const sim = new ClusterSim(seed);
      await sim.play();
      for (const fault of check(sim).slice(0, 3)) failures.push(`SEED=${seed}: ${fault}`);
      for (const [what, count] of sim.sometimes) seen.set(what, (seen.get(what) ?? 0) + count);
      if (failures.length > 10) break;
    }
    if (failures.length > 0) console.error(failures.join("\n"));
    expect(failures).toEqual([]);
    if (only !== undefined) return;
    // A simulation that never reaches these proves nothing.
    for (const what of [
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
    ])
      expect(seen.get(what) ?? 0, what).toBeGreaterThan(0);
    expect(seen.get("runs taken over")).toBeGreaterThan(seeds.length);
  },
);

test("the same seed gives the same history", async () => {
  for (const seed of [3, 17]) {
    const [a, b] = [new ClusterSim(seed), new ClusterSim(seed)];
    await a.play();
    await b.play();
    const chains = (sim: ClusterSim) => sim.store.rows.map((row) => row.chain.toString("hex"));
    expect(chains(b)).toEqual(chains(a));
  }
});
