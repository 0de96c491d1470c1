import { expect, test } from "vitest";
import { Prng } from "../../test/sim/sim.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { sizeOf } from "./prepare.ts";

const below = (random: Prng, n: number): number => Math.floor(random.float() * n);

/** Any JSON, with the characters that are written longest. */
function sample(random: Prng, depth = 0): Json {
  const kind = below(random, depth > 3 ? 4 : 6);
  if (kind === 0) return null;
  if (kind === 1) return below(random, 2) === 0;
  if (kind === 2) return -Math.E * 10 ** (below(random, 600) - 300);
  if (kind === 3) return '\u0001"\\é😀a'.repeat(below(random, 4));
  const items = Array.from({ length: below(random, 5) }, () => sample(random, depth + 1));
  return kind === 4 ? items : Object.fromEntries(items.map((item, i) => [`\u0002"${i}`, item]));
}

test("the size of data is never told smaller than it is", () => {
  const random = new Prng(7);
  for (let n = 0; n < 2_000; n++) {
    const data: JsonObject = { a: sample(random), b: sample(random) };
    expect(sizeOf(data)).toBeGreaterThanOrEqual(JSON.stringify(data).length);
  }
  expect(sizeOf({ text: "x".repeat(5_000) })).toBe(JSON.stringify({ text: "x".repeat(5_000) }).length);
});
