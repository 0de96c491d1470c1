// Asks for more of a shared budget, and gives back what others need. One thing at a time: what is at hand and what is in the
// database are changed together, so the group never spends what it has given back.
import type { Clock } from "../kit/clock.ts";
import { Serial } from "../kit/serial.ts";
import { messageOf } from "../contract/errors.ts";
import { FencedError } from "../contract/journal.ts";
import type { GroupLease } from "../contract/journal.ts";
import type { Log } from "../contract/ports.ts";
import type { BudgetSlices, SliceKey, SliceNeed } from "../contract/slices.ts";
import { budgetKey } from "../journal/writer.ts";
import type { Ledger } from "./ledger.ts";

export interface SliceOptions {
  readonly store: BudgetSlices;
  /** Has the groups that this node owns give back at once what others of them need. */
  readonly recall: (key: SliceKey) => void;
}

/** How long others may take to give back: as long as it takes to find out that one of them is gone, and to take over. */
const WAIT_MS = 15_000;
const AGAIN_MS = 50;
const AGAIN_MS_MAX = 500;

export class SliceKeeper {
  private readonly options: SliceOptions & {
    clock: Clock;
    log: Log;
    lease: GroupLease;
    ledger: Ledger;
    /** The group has another owner. */
    onFenced: (error: FencedError) => void;
  };
  private readonly serial = new Serial();
  private closed = false;

  constructor(options: SliceKeeper["options"]) {
    this.options = options;
  }

  close(): void {
    this.closed = true;
  }

  /** Returns when the ledger can tell whether the call fits, or the group is closed. */
  async ask(need: SliceNeed): Promise<void> {
    const { clock, log, onFenced } = this.options;
    const end = clock.monotonic_ms() + WAIT_MS;
    for (let pause = AGAIN_MS; !this.closed; pause = Math.min(pause * 2, AGAIN_MS_MAX)) {
      try {
        if (await this.once(need, clock.monotonic_ms() >= end)) return;
      } catch (error) {
        if (error instanceof FencedError) return onFenced(error);
        // Nothing is allowed by a store that does not answer; nothing is refused for that either.
        log.warn("budget.not_asked", { budget: need.budget, error: messageOf(error) });
      }
      await clock.sleep(pause);
    }
  }

  /** True when it is decided. */
  private once(need: SliceNeed, isLast: boolean): Promise<boolean> {
    const { store, lease, ledger, recall, clock } = this.options;
    return this.serial.run(budgetKey(need), async () => {
      const answer = await store.ask(lease, need);
      const decided = answer.enough || !answer.wait || isLast;
      ledger.grant(need, answer, decided && !answer.enough ? { at_us: clock.now_us() } : null);
      if (answer.wait) recall(need);
      return decided;
    });
  }

  /** Others need what is not used here. */
  async giveBack(key: SliceKey): Promise<void> {
    const { store, lease, ledger, log } = this.options;
    await this.serial
      .run(budgetKey(key), () => store.giveBack(lease, key, ledger.shrink(key)))
      // It stays wanted, so it is tried again.
      .catch((error: unknown) => log.warn("budget.not_given_back", { budget: key.budget, error: messageOf(error) }));
  }
}
