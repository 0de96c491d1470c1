// SEED=123 npm run sim reproduces one history; QD_SIM_SEEDS sets how many are played (2,000 in CI).
import { expect, test } from "vitest";
import { Sim } from "./sim.ts";
import { check } from "./oracles.ts";

const only = process.env["SEED"];
const seeds =
  only === undefined
    ? Array.from({ length: Number(process.env["QD_SIM_SEEDS"] ?? 300) }, (_, i) => i + 1)
    : [Number(only)];

const timeout = Math.max(600_000, seeds.length * 100);
test(`${seeds.length} seeded histories hold every invariant`, { timeout }, async () => {
  const seen = new Map<string, number>();
  const failures: string[] = [];
  for (const seed of seeds) {
    const sim = new Sim(seed);
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
    "step.in_doubt",
    "owner replaced",
    "unknown commit, committed",
    "unknown commit, lost",
    "budget.exceeded",
    "tool.denied",
    "human.approval_resolved",
    "run.cancelled",
    "a model call was approved",
    "a parked run came back",
  ]) {
    expect(seen.get(what) ?? 0, what).toBeGreaterThan(0);
  }
});

test("the same seed gives the same history", async () => {
  for (const seed of [3, 17, 91]) {
    const [a, b] = [new Sim(seed), new Sim(seed)];
    await a.play();
    await b.play();
    expect(b.store.rows.map((row) => row.chain.toString("hex"))).toEqual(
      a.store.rows.map((row) => row.chain.toString("hex")),
    );
  }
});
