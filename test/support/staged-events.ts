// Staged events in memory, for tests without a database.
import type { StagedEvent, StagedEvents, StagedGroup, StagedKey } from "../../src/store/staged-events.ts";

export class MemoryStagedEvents implements StagedEvents {
  private readonly byKey = new Map<string, { key: StagedKey; events: Map<number, StagedEvent> }>();

  private at(key: StagedKey): { key: StagedKey; events: Map<number, StagedEvent> } {
    const name = JSON.stringify([key.tenant_id, key.run_id, key.producer, key.epoch]);
    let found = this.byKey.get(name);
    if (!found) this.byKey.set(name, (found = { key, events: new Map() }));
    return found;
  }

  async put(key: StagedKey, events: readonly StagedEvent[]): Promise<number> {
    const fresh = events.filter((event) => !this.at(key).events.has(event.no));
    for (const event of fresh) this.at(key).events.set(event.no, event);
    return fresh.length;
  }

  async read(key: StagedKey): Promise<StagedEvent[]> {
    return [...this.at(key).events.values()].sort((a, b) => a.no - b.no);
  }

  async drop(key: StagedKey, to: number): Promise<void> {
    for (const no of this.at(key).events.keys()) if (no <= to) this.at(key).events.delete(no);
  }

  async groups(): Promise<StagedGroup[]> {
    return [...this.byKey.values()]
      .filter(({ events }) => events.size > 0)
      .map(({ key: { tenant_id, run_id, producer, epoch }, events }) => ({
        tenant_id,
        run_id,
        producer,
        epoch,
        since_us: Math.min(...[...events.values()].map((event) => event.staged_at_us)),
        count: events.size,
      }));
  }
}
