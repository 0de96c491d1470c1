// The places of this node under limits that hold over all nodes. Where it has none that are free it asks for more; what others
// need is given back as soon as it is free, before it is used again here.
// Invariant: no more are in use than were granted, so over all nodes no more than the limit.
import { assert } from "../kit/assert.ts";
import type { Clock, Timer } from "../kit/clock.ts";
import type { PlaceCounter, PlaceWaiter } from "../kit/keyed-limit.ts";
import { Serial } from "../kit/serial.ts";
import { messageOf } from "../contract/errors.ts";
import type { Places } from "../contract/places.ts";
import type { Log } from "../contract/ports.ts";

interface Held {
  used: number;
  granted: number;
  max: number;
  /** Others need one: the next that is free is theirs. */
  owed: boolean;
  asking: boolean;
}

const AGAIN_MS = 200;
const LOOK_MS = 500;

export class PlaceBook implements PlaceCounter {
  private readonly options: { store: Places; clock: Clock; log: Log };
  private readonly held = new Map<string, Held>();
  private readonly waiters: PlaceWaiter[] = [];
  private readonly serial = new Serial();
  private looking: Timer | null = null;
  private closed = false;

  constructor(options: PlaceBook["options"]) {
    this.options = options;
  }

  watch(waiter: PlaceWaiter): void {
    this.waiters.push(waiter);
  }

  enter(key: string, max: number): boolean {
    const held = this.of(key, max);
    if (held.used < Math.min(held.granted, max)) {
      held.used += 1;
      return true;
    }
    // It is asked for a turn later: whoever was refused waits by then.
    if (held.used < max && !held.asking) void this.ask(key, held);
    return false;
  }

  leave(key: string): void {
    const held = this.held.get(key);
    assert(held !== undefined && held.used > 0, "nobody leaves who has not entered", { key });
    held.used -= 1;
    if (held.owed) void this.giveBack(key, held);
  }

  unused(key: string): void {
    const held = this.held.get(key);
    if (held && held.used < held.granted) this.tell(key);
  }

  /** Another node may have these places by now. */
  forget(): void {
    for (const held of this.held.values()) held.granted = 0;
  }

  close(): void {
    this.closed = true;
    this.looking?.cancel();
  }

  private of(key: string, max: number): Held {
    let held = this.held.get(key);
    if (!held) this.held.set(key, (held = { used: 0, granted: 0, max, owed: false, asking: false }));
    held.max = max;
    return held;
  }

  private isWanted(key: string): boolean {
    return this.waiters.some((waiter) => waiter.isWaiting(key));
  }

  private tell(key: string): void {
    for (const waiter of this.waiters) if (waiter.isWaiting(key)) waiter.free(key);
  }

  private async ask(key: string, held: Held): Promise<void> {
    const { store, clock, log } = this.options;
    held.asking = true;
    this.look();
    try {
      do {
        await this.serial
          .run(key, async () => void (held.granted = await store.ask(key, held.max)))
          // Without an answer nobody goes on.
          .catch((error: unknown) => log.warn("places.not_asked", { key, error: messageOf(error) }));
        for (let free = held.granted - held.used; free > 0; free--) this.tell(key);
        if (held.granted >= held.max) return;
        await clock.sleep(AGAIN_MS);
      } while (!this.closed && held.granted < held.max && this.isWanted(key));
    } finally {
      held.asking = false;
    }
  }

  private giveBack(key: string, held: Held): Promise<void> {
    const { store, log } = this.options;
    held.owed = false;
    // From here on it is not used any more, whatever becomes of the statement.
    held.granted = Math.min(held.granted, held.used);
    return this.serial
      .run(key, () => store.keep(key, held.granted))
      .then(() => {
        if (this.isWanted(key) && !held.asking) void this.ask(key, held);
      })
      .catch((error: unknown) => log.warn("places.not_given_back", { key, error: messageOf(error) }));
  }

  /** Looks what others need, while there is something that they could. */
  private look(): void {
    if (this.looking || this.closed) return;
    this.looking = this.options.clock.timer(LOOK_MS, () => {
      this.looking = null;
      void this.recalled().finally(() => {
        if ([...this.held.values()].some((held) => held.granted > 0 || held.asking)) this.look();
      });
    });
  }

  private async recalled(): Promise<void> {
    const { store, log } = this.options;
    const keys = await store.wanted().catch((error: unknown) => {
      log.warn("places.not_looked", { error: messageOf(error) });
      return [];
    });
    for (const key of keys) {
      const held = this.held.get(key);
      if (!held || held.used < held.granted) await this.giveBack(key, held ?? this.of(key, 0));
      else held.owed = true;
    }
  }
}
