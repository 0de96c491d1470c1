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

interface Late {
  readonly last_seq: number;
  readonly late: readonly LatePlace[];
}

interface Wanted {
  readonly tenant_id: string;
  readonly run_id: string;
  readonly after_seq: number;
  readonly limit: number;
}

export class EventReader {
  private readonly store: JournalStore;
  /** Least recently used first: of each run where its last readers stood. A place is only ever the end of a row. */
  private readonly places = new Map<string, readonly Expansion[]>();
  /** Of runs that were read as they happened, the same way: what came late is never more than that. */
  private readonly lates = new Map<string, Late>();

  constructor(store: JournalStore) {
    this.store = store;
  }

  /** At most `limit` events with a seq above `after_seq`; none when there are no more. */
  async read(wanted: Wanted): Promise<Event[]> {
    const { tenant_id, run_id, after_seq, limit } = wanted;
    const key = `${tenant_id}/${run_id}`;
    const known = this.places.get(key) ?? [];
    const nearest = known.reduce<Expansion | null>(
      (best, place) => (place.seq <= after_seq && place.seq > (best?.seq ?? 0) ? place : best),
      null,
    );
    let at = nearest ?? startOfExpansion(tenant_id, run_id);
    const found: Event[] = [];
    // No rows that are not given out: one may hold thousands of events. And one holds at least one event.
    const to_seq = after_seq + limit;
    const page = Math.min(ROWS_PAGE, limit);
    for (let more = true; more;) {
      const rows = await this.store.readRun(tenant_id, run_id, at.seq + 1, page, to_seq);
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
    // Where it does not go on exactly, the place is another reader's.
    const others = known.filter((place) => place.seq !== at.seq && (place !== nearest || place.seq !== after_seq));
    keepLatest(this.places, key, [...others, at].slice(-LIMITS.readers_of_run_max));
    return found;
  }

  /**
   * The same in the order in which they happened: at most `limit` events that stand behind the one with `after_seq` there. What
   * comes late can come in front of it, so nobody can follow a run in this order.
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

  /** Where the events belong that came late, and how long the run is. What was looked through before is not again. */
  private async late(tenant_id: string, run_id: string): Promise<Late> {
    const key = `${tenant_id}/${run_id}`;
    const known = this.lates.get(key);
    const late = [...(known?.late ?? [])];
    let last_seq = known?.last_seq ?? 0;
    for (let more = true; more;) {
      const rows = await this.store.readRun(tenant_id, run_id, last_seq + 1, ROWS_PAGE);
      more = rows.length === ROWS_PAGE;
      for (const row of rows) {
        last_seq = row.last_seq;
        late.push(...latePlaces(row.body));
      }
    }
    const seen = { last_seq, late };
    keepLatest(this.lates, key, seen);
    return seen;
  }
}

function latePlaces(body: Buffer): LatePlace[] {
  if (!body.includes(LATE)) return [];
  return decodeBody(body).flatMap(({ seq, origin }) => {
    if (origin?.late === undefined) return [];
    const { producer, no } = splitFrom(origin.from ?? "//0");
    return [{ seq, behind: origin.late, producer, no }];
  });
}

function keepLatest<T>(kept: Map<string, T>, key: string, value: T): void {
  kept.delete(key);
  kept.set(key, value);
  if (kept.size <= LIMITS.readers_kept_max) return;
  const [oldest] = kept.keys();
  if (oldest !== undefined) kept.delete(oldest);
}
