import { expect, test } from "vitest";
import { align } from "./align.ts";

const codes = (text: string) => Array.from(text, (c) => c.charCodeAt(0));
const common = (a: string, b: string) =>
  align(codes(a), codes(b))
    .map(([i]) => a[i])
    .join("");

test.each([
  ["abcdef", "abcdef", "abcdef"],
  ["", "abc", ""],
  ["abcabba", "cbabac", 4],
  ["abcxyz", "abc123xyz", "abcxyz"],
  ["aaaa", "aa", "aa"],
  ["abcd", "wxyz", ""],
])("%s and %s", (a, b, expected) => {
  const found = common(a, b);
  if (typeof expected === "number") expect(found.length).toBe(expected);
  else expect(found).toBe(expected);
});

/** Length of the longest common subsequence, the plain way. */
function lcs(a: readonly number[], b: readonly number[]): number {
  let row = Array.from({ length: b.length + 1 }, () => 0);
  for (const x of a) {
    const next = [0];
    for (const [j, y] of b.entries()) next.push(x === y ? (row[j] ?? 0) + 1 : Math.max(row[j + 1] ?? 0, next[j] ?? 0));
    row = next;
  }
  return row.at(-1) ?? 0;
}

test("random sequences: pairs are equal and increasing, and few are missed", () => {
  let seed = 7;
  const random = (n: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) % n;
  let [found, best] = [0, 0];
  for (let round = 0; round < 300; round++) {
    const symbols = 2 + random(20);
    const a = Array.from({ length: random(40) }, () => random(symbols));
    const b = Array.from({ length: random(40) }, () => random(symbols));
    const pairs = align(a, b);
    for (const [index, [i, j]] of pairs.entries()) {
      expect(a[i]).toBe(b[j]);
      const before = pairs[index - 1];
      if (before) expect(i > before[0] && j > before[1]).toBe(true);
    }
    found += pairs.length;
    best += lcs(a, b);
  }
  // Anchors are kept even where dropping one would pair a few more.
  expect(found / best).toBeGreaterThan(0.95);
});

test("three steps inserted into ten thousand leave all others aligned", () => {
  const a = Array.from({ length: 10_000 }, (_, i) => i % 700);
  const b = [...a.slice(0, 4_321), -1, -2, -3, ...a.slice(4_321)];
  const pairs = align(a, b);
  expect(pairs).toHaveLength(10_000);
  expect(pairs.every(([i, j]) => j === (i < 4_321 ? i : i + 3))).toBe(true);
});

test("a hundred thousand on each side that have little in common end in time", () => {
  const a = Array.from({ length: 100_000 }, (_, i) => i % 50);
  const b = Array.from({ length: 100_000 }, (_, i) => (i * 7) % 53);
  expect(align(a, b).length).toBeGreaterThan(0);
});
