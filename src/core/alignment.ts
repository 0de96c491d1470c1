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
export function alignRuns(a: Trace, b: Trace, intern: Interner): Line[] {
  const keys: ((item: TracedItem) => number)[] = [
    (item) => intern.of([shape(item), item.request["args"] ?? 0, item.outcome]),
    (item) => intern.of([shape(item), item.request["args"] ?? 0]),
    (item) => intern.of(shape(item)),
  ];
  let pairs: Pair[] = [];
  for (const key of keys) pairs = fillGaps(a.items.map(key), b.items.map(key), pairs);
  return linesOf(a.items, b.items, pairs, keys[0] as (item: TracedItem) => number);
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
  key: (item: TracedItem) => number,
): Line[] {
  const lines: Line[] = [];
  const seen = new Set<number>();
  const removed = new Map<number, number>();
  const paired = new Set(pairs.map(([i]) => i));
  for (const [i, item] of a.entries()) if (!paired.has(i)) removed.set(key(item), (removed.get(key(item)) ?? 0) + 1);
  let [i, j] = [0, 0];
  const insert = (item: TracedItem): void => {
    const token = key(item);
    const left = removed.get(token) ?? 0;
    if (left > 0) removed.set(token, left - 1);
    lines.push({ a: null, b: item, kind: left > 0 ? "moved" : seen.has(token) ? "repeated" : "inserted" });
  };
  for (const [x, y] of [...pairs, [a.length, b.length] as const]) {
    for (; i < x; i++) lines.push({ a: a[i] as TracedItem, b: null, kind: "removed" });
    for (; j < y; j++) insert(b[j] as TracedItem);
    const [left, right] = [a[x], b[y]];
    if (left && right) {
      seen.add(key(right));
      lines.push({ a: left, b: right, kind: sameItem(left, right) ? "equal" : "changed" });
    }
    [i, j] = [x + 1, y + 1];
  }
  return lines;
}
