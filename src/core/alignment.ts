// Lines up the items of two runs. Pure structure: what is the same, what changed, what is on one side only.
import { align } from "./align.ts";
import type { Pair } from "./align.ts";
import type { Interner, Trace, TracedItem } from "./trace.ts";

/** One line of an alignment: an item of each side, or of one. */
export interface Line {
  readonly a: TracedItem | null;
  readonly b: TracedItem | null;
  readonly kind: "equal" | "changed" | "inserted" | "removed" | "moved" | "repeated";
}

/** Another model in the same place is the same item, changed; another tool is another item. */
const shape = (item: TracedItem): string => `${item.kind} ${item.kind === "tool" ? item.name : ""} ${item.path}`;

/** Whether two items are the same: asked the same, and the same came of it. */
export function sameItem(a: TracedItem, b: TracedItem): boolean {
  return sameRequest(a, b) && a.outcome === b.outcome && sameDecision(a, b) && a.status === b.status;
}

/** A call that was answered from a recording needed no decision. */
export function sameDecision(a: TracedItem, b: TracedItem): boolean {
  const undecided = (item: TracedItem) => item.decision === "" && item.determinism === "exact";
  return a.decision === b.decision || undecided(a) || undecided(b);
}

export function sameRequest(a: TracedItem, b: TracedItem): boolean {
  const keys = Object.keys(a.request);
  return keys.length === Object.keys(b.request).length && keys.every((key) => a.request[key] === b.request[key]);
}

/**
 * Aligns in three passes, each inside the gaps of the one before: items that are the same in themselves, items that asked for
 * the same, items of the same kind and name in order.
 */
export function* alignRuns(a: Trace, b: Trace, intern: Interner): Generator<void, Line[]> {
  const keys: ((item: TracedItem) => number)[] = [
    (item) => intern.key(`${item.outcome} ${item.request["args"] ?? 0} ${shape(item)}`),
    (item) => intern.key(`${item.request["args"] ?? 0} ${shape(item)}`),
    (item) => intern.key(shape(item)),
  ];
  const strong = keys[0] as (item: TracedItem) => number;
  const inA = a.items.map(strong);
  yield;
  const inB = b.items.map(strong);
  yield;
  let pairs = fillGaps(inA, inB, []);
  for (const key of keys.slice(1)) {
    // Nothing is left to be paired when one side is used up.
    if (pairs.length === Math.min(inA.length, inB.length)) break;
    yield;
    pairs = fillGaps(a.items.map(key), b.items.map(key), pairs);
  }
  yield;
  return linesOf(a.items, b.items, pairs, { a: inA, b: inB });
}

function fillGaps(a: readonly number[], b: readonly number[], pairs: readonly Pair[]): Pair[] {
  const filled: Pair[] = [];
  let [fromA, fromB] = [0, 0];
  for (const [i, j] of [...pairs, [a.length, b.length] as const]) {
    if (i > fromA && j > fromB)
      for (const [x, y] of align(a.slice(fromA, i), b.slice(fromB, j))) filled.push([fromA + x, fromB + y]);
    if (i < a.length && j < b.length) filled.push([i, j]);
    [fromA, fromB] = [i + 1, j + 1];
  }
  return filled;
}

function linesOf(
  a: readonly TracedItem[],
  b: readonly TracedItem[],
  pairs: readonly Pair[],
  tokens: { a: readonly number[]; b: readonly number[] },
): Line[] {
  const lines: Line[] = [];
  const seen = new Set<number>();
  const removed = new Map<number, number>();
  const paired = new Set(pairs.map(([i]) => i));
  for (const [i, token] of tokens.a.entries()) if (!paired.has(i)) removed.set(token, (removed.get(token) ?? 0) + 1);
  let [i, j] = [0, 0];
  const insert = (at: number): void => {
    const token = tokens.b[at] as number;
    const left = removed.get(token) ?? 0;
    if (left > 0) removed.set(token, left - 1);
    const kind = left > 0 ? "moved" : seen.has(token) ? "repeated" : "inserted";
    lines.push({ a: null, b: b[at] as TracedItem, kind });
  };
  for (const [x, y] of [...pairs, [a.length, b.length] as const]) {
    for (; i < x; i++) lines.push({ a: a[i] as TracedItem, b: null, kind: "removed" });
    for (; j < y; j++) insert(j);
    const [left, right] = [a[x], b[y]];
    if (left && right) {
      seen.add(tokens.b[y] as number);
      lines.push({ a: left, b: right, kind: sameItem(left, right) ? "equal" : "changed" });
    }
    [i, j] = [x + 1, y + 1];
  }
  return lines;
}
