// Reads the events of a run in their logical form, page after page. An envelope holds values that follow from all events
// before it (chain, policy digest), so the reader keeps where it stood in the runs it read last: whoever follows a run, or
// pages through it, costs what is new and not the whole run each time.
import type { Event } from "../contract/events.ts";
import type { JournalStore } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import { decodeBody } from "../core/chain.ts";
import { expandRow, splitFrom, startOfExpansion } from "../core/envelope.ts";
import type { Expansion } from "../core/envelope.ts";
import { logicalOrder } from "../core/logical-order.ts";
import type { LatePlace } from "../core/logical-order.ts";

const ROWS_PAGE = 500;
/** Stands in the bytes of each event that came late; elsewhere hardly ever, which costs a look. */
const LATE = Buffer.from('"late":');

interface Wanted {
  readonly tenant_id: string;
  readonly run_id: string;
  readonly after_seq: number;
  readonly limit: number;
}

export class EventReader {
  private readonly store: JournalStore;
  /** Least recently used first. A place is only ever the end of a row. */
  private readonly places = new Map<string, Expansion>();

  constructor(store: JournalStore) {
    this.store = store;
  }

  /** At most `limit` events with a seq above `after_seq`; none when there are no more. */
  async read(wanted: Wanted): Promise<Event[]> {
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

  /**
   * The same in the order in which they happened: at most `limit` events that stand behind the one with `after_seq` there. What
   * comes late can come in front of it, so nobody can follow a run in this order; each page looks through the run once.
   */
  async readLogical({ tenant_id, run_id, after_seq, limit }: Wanted): Promise<Event[]> {
    const { last_seq, late } = await this.late(tenant_id, run_id);
    const order = logicalOrder(last_seq, late);
    // -1 before the first; a seq that is none has nothing behind it.
    const at = after_seq === 0 ? -1 : order.indexOf(after_seq);
    const wanted = at < 0 && after_seq !== 0 ? [] : order.slice(at + 1, at + 1 + limit);
    const found: Event[] = [];
    for (let from = 0, to = 1; from < wanted.length; from = to++) {
      const first = wanted[from] ?? 0;
      while (to < wanted.length && wanted[to] === first + to - from) to += 1;
      found.push(...(await this.read({ tenant_id, run_id, after_seq: first - 1, limit: to - from })));
    }
    return found;
  }

  /** Where the events belong that came late, and how long the run is. */
  private async late(tenant_id: string, run_id: string): Promise<{ last_seq: number; late: LatePlace[] }> {
    const late: LatePlace[] = [];
    let last_seq = 0;
    for (let more = true; more;) {
      const rows = await this.store.readRun(tenant_id, run_id, last_seq + 1, ROWS_PAGE);
      more = rows.length === ROWS_PAGE;
      for (const row of rows) {
        last_seq = row.last_seq;
        if (!row.body.includes(LATE)) continue;
        for (const { seq, origin } of decodeBody(row.body)) {
          if (origin?.late === undefined) continue;
          const { producer, no } = splitFrom(origin.from ?? "//0");
          late.push({ seq, behind: origin.late, producer, no });
        }
      }
    }
    return { last_seq, late };
  }

  private keep(key: string, at: Expansion): void {
    this.places.delete(key);
    this.places.set(key, at);
    if (this.places.size <= LIMITS.readers_kept_max) return;
    const [oldest] = this.places.keys();
    if (oldest !== undefined) this.places.delete(oldest);
  }
}
