// Reads the events of a run in their logical form, page after page. An envelope holds values that follow from all events
// before it (chain, policy digest), so the reader keeps where it stood in the runs it read last: whoever follows a run, or
// pages through it, costs what is new and not the whole run each time.
import type { Event } from "../contract/events.ts";
import type { JournalStore } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import { expandRow, startOfExpansion } from "../core/envelope.ts";
import type { Expansion } from "../core/envelope.ts";

const ROWS_PAGE = 500;

export class EventReader {
  private readonly store: JournalStore;
  /** Least recently used first. A place is only ever the end of a row. */
  private readonly places = new Map<string, Expansion>();

  constructor(store: JournalStore) {
    this.store = store;
  }

  /** At most `limit` events with a seq above `after_seq`; none when there are no more. */
  async read(wanted: { tenant_id: string; run_id: string; after_seq: number; limit: number }): Promise<Event[]> {
    const { tenant_id, run_id, after_seq, limit } = wanted;
    const key = `${tenant_id}/${run_id}`;
    const known = this.places.get(key);
    let at = known && known.seq <= after_seq ? known : startOfExpansion(tenant_id, run_id);
    const found: Event[] = [];
    // A row holds at least one event.
    const page = Math.min(ROWS_PAGE, limit);
    for (let more = true; more;) {
      const rows = await this.store.readRun(tenant_id, run_id, at.seq + 1, page);
      more = rows.length === page;
      for (const row of rows) {
        const { events, next } = expandRow(at, row);
        const fresh = events.filter((event) => event.seq > after_seq);
        found.push(...fresh.slice(0, limit - found.length));
        // Only what was given out whole is behind us.
        if (next.seq <= Math.max(after_seq, found.at(-1)?.seq ?? 0)) at = next;
        if (found.length === limit) {
          more = false;
          break;
        }
      }
    }
    this.keep(key, at);
    return found;
  }

  private keep(key: string, at: Expansion): void {
    this.places.delete(key);
    this.places.set(key, at);
    if (this.places.size <= LIMITS.readers_kept_max) return;
    const [oldest] = this.places.keys();
    if (oldest !== undefined) this.places.delete(oldest);
  }
}
