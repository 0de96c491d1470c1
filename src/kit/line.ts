// Who waits, in the order in which it is their turn: higher priorities first, and within one who came first.

interface Lane<T> {
  items: T[];
  /** Items before this place are gone; the list is cut now and then. */
  head: number;
}

const CUT_AFTER = 1_000;

export class Line<T> {
  /** By priority, which is a small integer from 0. */
  private readonly lanes: Lane<T>[] = [];
  private count = 0;

  get size(): number {
    return this.count;
  }

  push(item: T, priority: number): void {
    this.lane(priority).items.push(item);
    this.count += 1;
  }

  /** Puts items that had their turn before all others of their priority. */
  putBack(items: readonly T[], priority: number): void {
    if (items.length === 0) return;
    const lane = this.lane(priority);
    lane.items.splice(lane.head, 0, ...items);
    this.count += items.length;
  }

  /** Takes out whose turn it is. */
  shift(): T | undefined {
    for (let priority = this.lanes.length - 1; priority >= 0; priority--) {
      const lane = this.lanes[priority];
      if (!lane || lane.head === lane.items.length) continue;
      const item = lane.items[lane.head] as T;
      lane.head += 1;
      this.count -= 1;
      if (lane.head > CUT_AFTER && lane.head * 2 > lane.items.length) {
        lane.items.splice(0, lane.head);
        lane.head = 0;
      }
      return item;
    }
    return undefined;
  }

  /** Takes out who need not wait any more, in order of their turn. */
  drop(match: (item: T) => boolean): T[] {
    const dropped: T[] = [];
    for (const lane of this.lanes.toReversed()) {
      if (!lane) continue;
      const waiting = lane.items.slice(lane.head);
      const gone = waiting.filter(match);
      if (gone.length === 0) continue;
      dropped.push(...gone);
      lane.items = waiting.filter((item) => !match(item));
      lane.head = 0;
    }
    this.count -= dropped.length;
    return dropped;
  }

  private lane(priority: number): Lane<T> {
    return (this.lanes[priority] ??= { items: [], head: 0 });
  }
}
