// Who watches runs: told of what is committed, and of what running calls say. In this process only.
import { EventEmitter } from "node:events";
import type { JobProgress, Progress } from "../contract/progress.ts";
import type { Commit } from "../orchestrator/engine.ts";

export class Watchers {
  private readonly commits = new EventEmitter().setMaxListeners(0);
  private readonly leaving = new EventEmitter().setMaxListeners(0);
  private readonly said = new EventEmitter().setMaxListeners(0);

  committed(commit: Commit): void {
    this.commits.emit(commit.run_id, commit);
  }

  progress(said: readonly JobProgress[]): void {
    for (const { tenant_id: _tenant, ...one } of said) this.said.emit(one.run_id, one);
  }

  /** The runs are another node's now: whoever watches them here hears nothing more, and has to ask there. */
  gone(isGone: (run_id: string) => boolean): void {
    for (const name of this.leaving.eventNames()) if (isGone(String(name))) this.leaving.emit(name);
  }

  /** Calls the listener when a run is not here any more; returns the unsubscription. */
  subscribeGone(run_id: string, listener: () => void): () => void {
    this.leaving.on(run_id, listener);
    return () => this.leaving.off(run_id, listener);
  }

  /** Returns the unsubscription. */
  subscribe(run_id: string, listener: (commit: Commit) => void): () => void {
    this.commits.on(run_id, listener);
    return () => this.commits.off(run_id, listener);
  }

  /** Returns the unsubscription. */
  subscribeProgress(run_id: string, listener: (said: Progress) => void): () => void {
    this.said.on(run_id, listener);
    return () => this.said.off(run_id, listener);
  }
}
