// Aligns two sequences of tokens. Unique common tokens are anchors (patience diff, Cohen), what lies between them is aligned by
// the shortest edit script (Myers, "An O(ND) Difference Algorithm", 1986) where that is small, else in order of occurrence.
// Invariant: pairs are strictly increasing on both sides, so what was inserted or removed moves nothing else.

export type Pair = readonly [a: number, b: number];

/** Above this many cells the shortest script is not sought: the runs have little in common there anyway. */
const MYERS_EDITS_MAX = 1_000;

interface Segment {
  readonly a0: number;
  readonly a1: number;
  readonly b0: number;
  readonly b1: number;
}

/** Pairs of equal tokens, in order. */
export function align(a: readonly number[], b: readonly number[]): Pair[] {
  const pairs: Pair[] = [];
  const open: Segment[] = [{ a0: 0, a1: a.length, b0: 0, b1: b.length }];
  for (let segment = open.pop(); segment; segment = open.pop()) {
    let { a0, a1, b0, b1 } = segment;
    while (a0 < a1 && b0 < b1 && a[a0] === b[b0]) pairs.push([a0++, b0++]);
    while (a0 < a1 && b0 < b1 && a[a1 - 1] === b[b1 - 1]) pairs.push([--a1, --b1]);
    if (a0 === a1 || b0 === b1) continue;
    const anchors = uniqueCommon(a, b, { a0, a1, b0, b1 });
    if (anchors.length === 0) {
      pairs.push(...(shortest(a, b, { a0, a1, b0, b1 }) ?? inOrder(a, b, { a0, a1, b0, b1 })));
      continue;
    }
    let [fromA, fromB] = [a0, b0];
    for (const [i, j] of anchors) {
      open.push({ a0: fromA, a1: i, b0: fromB, b1: j });
      pairs.push([i, j]);
      [fromA, fromB] = [i + 1, j + 1];
    }
    open.push({ a0: fromA, a1, b0: fromB, b1 });
  }
  return pairs.sort((x, y) => x[0] - y[0]);
}

/** Tokens that occur once on each side, as the longest run of pairs that increases on both. */
function uniqueCommon(a: readonly number[], b: readonly number[], { a0, a1, b0, b1 }: Segment): Pair[] {
  const once = (tokens: readonly number[], from: number, to: number) => {
    const at = new Map<number, number>();
    for (let i = from; i < to; i++) {
      const token = tokens[i] as number;
      at.set(token, at.has(token) ? -1 : i);
    }
    return at;
  };
  const inB = once(b, b0, b1);
  const candidates: Pair[] = [];
  for (const [token, i] of once(a, a0, a1)) {
    const j = inB.get(token) ?? -1;
    if (i >= 0 && j >= 0) candidates.push([i, j]);
  }
  return longestIncreasing(candidates.sort((x, y) => x[0] - y[0]));
}

function longestIncreasing(candidates: readonly Pair[]): Pair[] {
  const tails: number[] = [];
  const before: number[] = [];
  for (const [index, [, j]] of candidates.entries()) {
    let [low, high] = [0, tails.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((candidates[tails[middle] as number] as Pair)[1] < j) low = middle + 1;
      else high = middle;
    }
    before.push(low > 0 ? (tails[low - 1] as number) : -1);
    tails[low] = index;
  }
  const chain: Pair[] = [];
  for (let at = tails.at(-1) ?? -1; at >= 0; at = before[at] as number) chain.push(candidates[at] as Pair);
  return chain.toReversed();
}

/** Myers' greedy algorithm, with its trace; null when more edits are needed than is worth looking for. */
function shortest(a: readonly number[], b: readonly number[], { a0, a1, b0, b1 }: Segment): Pair[] | null {
  const [n, m] = [a1 - a0, b1 - b0];
  const max = Math.min(n + m, MYERS_EDITS_MAX);
  const furthest = new Map<number, number>([[1, 0]]);
  const trace: Map<number, number>[] = [];
  for (let d = 0; d <= max; d++) {
    trace.push(new Map(furthest));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (furthest.get(k - 1) ?? 0) < (furthest.get(k + 1) ?? 0));
      let x = down ? (furthest.get(k + 1) ?? 0) : (furthest.get(k - 1) ?? 0) + 1;
      while (x < n && x - k < m && a[a0 + x] === b[b0 + x - k]) x += 1;
      furthest.set(k, x);
      if (x >= n && x - k >= m) return backtrack(trace, n, m).map(([i, j]) => [a0 + i, b0 + j]);
    }
  }
  return null;
}

function backtrack(trace: readonly Map<number, number>[], n: number, m: number): Pair[] {
  const pairs: Pair[] = [];
  let [x, y] = [n, m];
  for (let d = trace.length - 1; d >= 0; d--) {
    const furthest = trace[d] as Map<number, number>;
    const k = x - y;
    const down = k === -d || (k !== d && (furthest.get(k - 1) ?? 0) < (furthest.get(k + 1) ?? 0));
    const beforeK = down ? k + 1 : k - 1;
    const beforeX = furthest.get(beforeK) ?? 0;
    const beforeY = beforeX - beforeK;
    while (x > beforeX && y > beforeY && x > 0 && y > 0) pairs.push([--x, --y]);
    [x, y] = [beforeX, beforeY];
  }
  return pairs;
}

/** Each token with the next equal one that lies after the last pair. Linear. */
function inOrder(a: readonly number[], b: readonly number[], { a0, a1, b0, b1 }: Segment): Pair[] {
  const places = new Map<number, number[]>();
  for (let j = b1 - 1; j >= b0; j--) {
    const list = places.get(b[j] as number);
    if (list) list.push(j);
    else places.set(b[j] as number, [j]);
  }
  const pairs: Pair[] = [];
  let last = b0 - 1;
  for (let i = a0; i < a1; i++) {
    const list = places.get(a[i] as number);
    while (list && list.length > 0 && (list.at(-1) as number) <= last) list.pop();
    const j = list?.pop();
    // A jump far ahead would leave little for the others.
    if (j === undefined || j - last > (b1 - b0) / 4 + 8) continue;
    pairs.push([i, j]);
    last = j;
  }
  return pairs;
}
