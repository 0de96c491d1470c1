// Which node has which runs, as a worker was told. Told by several nodes it believes the latest take-over of each group.
import { groupOf } from "../contract/placement.ts";
import type { OwnedGroup } from "../contract/workers.ts";

export class Owners {
  private readonly known = new Map<number, OwnedGroup>();
  private groups = 1;

  /** Every group there is, with its owner; one that has none comes with an empty URL. */
  heard(told: readonly OwnedGroup[] = []): void {
    // A control node of before does not say: it has everything.
    if (told.length === 0) return;
    this.groups = told.length;
    for (const one of told) {
      const before = this.known.get(one.group);
      if (one.url !== "" && one.shard_epoch >= (before?.shard_epoch ?? 0)) this.known.set(one.group, one);
    }
  }

  /** The nodes to talk to; none where one has everything: whichever address is configured leads there. */
  get urls(): string[] {
    const urls = [...new Set([...this.known.values()].map((one) => one.url))];
    return urls.length > 1 ? urls : [];
  }

  /** The node that has a run; null: through the configured address. */
  urlOf(run_id: string): string | null {
    if (this.groups === 1 || this.urls.length === 0) return null;
    return this.known.get(groupOf(run_id, this.groups))?.url ?? null;
  }
}
