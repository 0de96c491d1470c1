// Money is integer micro-USD everywhere: 1 USD = 1,000,000. Sums stay exact up to 9 billion USD (2^53).
import { assert } from "./assert.ts";

/** Parses a decimal USD amount without floating point. Null when it is no amount, finer than a micro-dollar, or too large to be exact. */
export function parseUsd(text: string): number | null {
  const match = /^(\d{1,10})(?:\.(\d{1,6}))?$/.exec(text.trim());
  if (!match) return null;
  const micro = Number(match[1]) * 1_000_000 + Number((match[2] ?? "").padEnd(6, "0"));
  return Number.isSafeInteger(micro) ? micro : null;
}

/** Prints micro-USD as dollars, with at least two and at most six decimals. */
export function formatUsd(micro: number): string {
  assert(Number.isSafeInteger(micro), "money is a safe integer", { micro });
  const sign = micro < 0 ? "-" : "";
  const abs = Math.abs(micro);
  const cents = String(abs % 1_000_000)
    .padStart(6, "0")
    .replace(/0{1,4}$/, "");
  return `${sign}$${Math.floor(abs / 1_000_000)}.${cents}`;
}

/** Price of tokens at a rate per million tokens, rounded up: the bound must never be below the charge. */
export function tokenCost(tokens: number, micro_per_mtok: number): number {
  return Number((BigInt(tokens) * BigInt(micro_per_mtok) + 999_999n) / 1_000_000n);
}
