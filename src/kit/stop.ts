// Says that something is to stop, with a reason, to whoever listens: what an AbortSignal does, in the shape that its users know,
// without its cost, which counts where there are two for each call.

/** What listeners need of it; an AbortSignal is one too. */
export interface StopSignal {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

export class Stop implements StopSignal {
  private listeners: (() => void)[] = [];
  private stopped = false;
  private why: unknown = undefined;

  get aborted(): boolean {
    return this.stopped;
  }

  get reason(): unknown {
    return this.why;
  }

  /** Tells everybody, once. */
  abort(reason?: unknown): void {
    if (this.stopped) return;
    this.stopped = true;
    this.why = reason;
    for (const tell of this.listeners.splice(0)) tell();
  }

  addEventListener(_type: "abort", listener: () => void): void {
    if (!this.listeners.includes(listener)) this.listeners.push(listener);
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    this.listeners = this.listeners.filter((one) => one !== listener);
  }
}
