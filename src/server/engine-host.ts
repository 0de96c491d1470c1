// Keeps an engine running: when the database goes away, the engine that lost it is dropped, and a new one takes the group
// and recovers as soon as the database is back. A fenced engine is not replaced: another process owns the runs now.
import type { Clock } from "../kit/clock.ts";
import { AppError, reasonOf } from "../contract/errors.ts";
import { FencedError } from "../contract/journal.ts";
import type { GroupLease } from "../contract/journal.ts";
import type { JobResult } from "../contract/jobs.ts";
import type { Log } from "../contract/ports.ts";
import type { Engine } from "../orchestrator/engine.ts";

const PAUSE_MS = 500;

export interface EngineHostOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly create: (onLost: (error: Error) => void, lease?: GroupLease) => Engine;
  /** Brings the database itself back, where that is ours to do. */
  readonly reviveDatabase: () => Promise<void>;
  readonly onFenced: () => void;
  /** An engine is open: what its runs left elsewhere goes on. */
  readonly onOpen?: () => Promise<void>;
  /** Where several nodes share a database, who goes on is not for this one to say: it is told of every loss. */
  readonly onLost?: () => void;
}

export class EngineHost {
  private readonly options: EngineHostOptions;
  private engine: Engine | null = null;
  private closed = false;

  constructor(options: EngineHostOptions) {
    this.options = options;
  }

  /** The engine. Throws DATABASE_UNAVAILABLE while there is none. */
  current(): Engine {
    if (!this.engine && this.options.onLost) throw new AppError("FENCED", "Another node owns the runs, or is about to");
    if (!this.engine)
      throw new AppError("DATABASE_UNAVAILABLE", "The journal cannot be written right now; it is being recovered");
    return this.engine;
  }

  /** Results that come while there is no engine are dropped: recovery treats their attempts as lost. */
  report(results: readonly JobResult[]): void {
    this.engine?.results(results);
  }

  get isReady(): boolean {
    return this.engine !== null;
  }

  async open(lease?: GroupLease): Promise<number> {
    const engine = this.options.create((error) => this.lost(engine, error), lease);
    const recovered = await engine.open();
    this.engine = engine;
    await this.options.onOpen?.();
    return recovered;
  }

  /** Ends the engine: another node takes the runs over. */
  async drop(): Promise<void> {
    const { engine } = this;
    this.engine = null;
    await engine?.close();
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.engine?.close();
  }

  private lost(engine: Engine, error: Error): void {
    if (this.engine !== engine || this.closed) return;
    this.engine = null;
    this.options.log.error("engine.lost", { error: reasonOf(error) });
    if (this.options.onLost) return this.options.onLost();
    if (error instanceof FencedError) return this.options.onFenced();
    void this.reopen();
  }

  private async reopen(): Promise<void> {
    while (!this.closed) {
      try {
        await this.options.reviveDatabase();
        const recovered = await this.open();
        this.options.log.info("engine.recovered", { open_runs: recovered });
        return;
      } catch (error) {
        this.options.log.warn("engine.retry", { error: reasonOf(error) });
        await this.options.clock.sleep(PAUSE_MS);
      }
    }
  }
}
