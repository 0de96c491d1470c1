// A run's events in the order in which they happened, as far as their producers' numbers tell. They are committed as they come;
// one that came after a gap was declared says which event it belongs behind. Pure: nothing is renumbered or rewritten.

/** Of an event that came late: what it belongs behind, and its place among others that belong there. */
export interface LatePlace {
  readonly seq: number;
  /** `seq` of the event that it belongs behind; 0: its producer's first, which stands behind the beginning of the run. */
  readonly behind: number;
  readonly producer: string;
  readonly no: number;
}

/** All seqs from 1 to the last one, in the order in which their events happened. */
export function logicalOrder(last_seq: number, late: readonly LatePlace[]): number[] {
  const moved = new Set(late.map(({ seq }) => seq));
  const behind = new Map<number, LatePlace[]>();
  for (const one of late) {
    const at = Math.max(1, one.behind);
    const places = behind.get(at);
    if (places) places.push(one);
    else behind.set(at, [one]);
  }
  // A number that came later may be the smaller one.
  for (const places of behind.values()) places.sort(byNumber);
  const order: number[] = [];
  const open: number[] = [];
  for (let seq = 1; seq <= last_seq; seq++) {
    if (moved.has(seq)) continue;
    open.push(seq);
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      order.push(next);
      for (const { seq: follower } of behind.get(next)?.toReversed() ?? []) open.push(follower);
    }
  }
  return order;
}

function byNumber(a: LatePlace, b: LatePlace): number {
  if (a.producer !== b.producer) return a.producer < b.producer ? -1 : 1;
  return a.no - b.no;
}
