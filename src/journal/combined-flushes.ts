// Flushes of several groups of one process go out together: what arrives while one is in flight is one commit with the next.
// Each group's writer sees its own flush: committed, refused, fenced or unknown.
import type { Flush, FlushResult, GroupLease, JournalStore } from "../contract/journal.ts";
import type { GroupFlush, PostgresJournalStore } from "./postgres-store.ts";

interface Waiting extends GroupFlush {
  resolve(result: FlushResult): void;
  reject(error: unknown): void;
}

type Store = Pick<PostgresJournalStore, "flush" | "flushMany">;

export class CombinedFlushes {
  private readonly store: Store;
  private queue: Waiting[] = [];
  private flushing = false;

  constructor(store: Store) {
    this.store = store;
  }

  /** A store like the given one, whose flushes go out with those of the others. */
  over(store: JournalStore): JournalStore {
    const flush = (lease: GroupLease, given: Flush) => this.flush(lease, given);
    return Object.assign(Object.create(store) as JournalStore, { flush });
  }

  private flush(lease: GroupLease, flush: Flush): Promise<FlushResult> {
    return new Promise((resolve, reject) => {
      this.queue.push({ lease, flush, resolve, reject });
      if (this.flushing) return;
      this.flushing = true;
      queueMicrotask(() => void this.run());
    });
  }

  private async run(): Promise<void> {
    while (this.queue.length > 0) {
      const batch = this.queue.splice(0);
      try {
        if (batch.length > 1 && (await this.store.flushMany(batch))) for (const one of batch) one.resolve({ ok: true });
        else await this.oneByOne(batch);
      } catch (error) {
        // Nobody knows of any of them: each group's head tells.
        for (const one of batch) one.reject(error);
      }
    }
    this.flushing = false;
  }

  /** One of them cannot be: which, each finds out by itself. */
  private async oneByOne(batch: readonly Waiting[]): Promise<void> {
    for (const one of batch)
      await this.store.flush(one.lease, one.flush).then(
        (result) => one.resolve(result),
        (error: unknown) => one.reject(error),
      );
  }
}
