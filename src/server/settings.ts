// What every control node keeps at hand and any of them may change: the registry and the workers' credentials. The database
// counts their changes; a node that sees a new count reads them again, and a change is acknowledged when every node that
// lives uses it: who was told that a policy holds is never judged by the one before.
import type { Clock } from "../kit/clock.ts";
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, Log } from "../contract/ports.ts";
import { nodesBehind, settingsVersion } from "../store/leases.ts";

export interface SettingsOptions {
  readonly db: Db;
  readonly clock: Clock;
  readonly log: Log;
  readonly node: string;
  /** Reads everything again. */
  readonly read: () => Promise<void>;
}

const LOOK_MS = 50;
/** A node that does not look for so long has lost its groups, and looks before it takes any again. */
const WAIT_MS = LIMITS.node_lease_ms + 1_000;

export class Settings {
  private readonly options: SettingsOptions;
  private seen = 0;
  private reading: Promise<void> | null = null;

  constructor(options: SettingsOptions) {
    this.options = options;
  }

  /** What is used here. */
  get version(): number {
    return this.seen;
  }

  /** The database has another version than this node. */
  changed(): void {
    this.reading ??= this.refresh()
      .catch((error: unknown) => this.options.log.warn("settings.not_read", { error: messageOf(error) }))
      .finally(() => (this.reading = null));
  }

  /** Reads everything again, if anything has changed. */
  async refresh(): Promise<void> {
    const version = await this.current();
    if (version === this.seen) return;
    await this.options.read();
    // What changed while it was read may have been missed: only what was there before is known to be in use.
    this.seen = version;
  }

  /** Something was changed here and is in use here: returns when it is in use everywhere. */
  async everywhere(): Promise<void> {
    const { db, node, clock, log } = this.options;
    const version = await this.current();
    for (const end = clock.monotonic_ms() + WAIT_MS; ;) {
      const behind = await db.transaction({ role: "qd_system" }, (tx) => nodesBehind(tx, node, version));
      if (behind === 0) return;
      if (clock.monotonic_ms() > end) return log.warn("settings.not_everywhere", { nodes: behind });
      await clock.sleep(LOOK_MS);
    }
  }

  private current(): Promise<number> {
    return this.options.db.transaction({ role: "qd_system" }, settingsVersion);
  }
}
