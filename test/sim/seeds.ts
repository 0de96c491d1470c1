// Plays the histories of many seeds, and says what was wrong and what was ever reached. SEED=123 plays that one alone.
import { expect } from "vitest";
import { check } from "./oracles.ts";
import type { Sim } from "./sim.ts";

const only = process.env["SEED"];

/** As many seeds as the variable says. */
export function seedsOf(variable: string, otherwise: number): number[] {
  if (only !== undefined) return [Number(only)];
  return Array.from({ length: Number(process.env[variable] ?? otherwise) }, (_, i) => i + 1);
}

/** Every history is as it should be, and all together reach all of these: a simulation that never does proves nothing. */
export async function playAll(
  seeds: readonly number[],
  make: (seed: number) => Sim,
  reached: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const seen = new Map<string, number>();
  const failures: string[] = [];
  for (const seed of seeds) {
    const sim = make(seed);
    await sim.play();
    for (const fault of check(sim).slice(0, 3)) failures.push(`SEED=${seed}: ${fault}`);
    for (const [what, count] of sim.sometimes) seen.set(what, (seen.get(what) ?? 0) + count);
    if (failures.length > 10) break;
  }
  if (failures.length > 0) console.error(failures.join("\n"));
  expect(failures).toEqual([]);
  if (only === undefined) for (const what of reached) expect(seen.get(what) ?? 0, what).toBeGreaterThan(0);
  return seen;
}

/** The same seed gives the same history. */
export async function playsAlike(make: (seed: number) => Sim, seeds: readonly number[]): Promise<void> {
  for (const seed of seeds) {
    const [a, b] = [make(seed), make(seed)];
    await a.play();
    await b.play();
    const chains = (sim: Sim) => sim.store.rows.map((row) => row.chain.toString("hex"));
    expect(chains(b)).toEqual(chains(a));
  }
}
