// One exchange over HTTP, on undici's dispatcher without its streams, which cost more than the rest of a short call.
// Invariants: what came is given in order, once; who reads slowly holds the sender up; an exchange that is left or stopped
// is over on the wire as well.
import type { Dispatcher } from "undici";
import type { NetCall } from "../../contract/ports.ts";
import { NetRefused } from "../../contract/ports.ts";

/** So much may wait for its reader before the sender is held up. */
const WAITING_BYTES_MAX = 65_536;
/** So much of a body that nobody wants is read for the sake of its connection. */
const DROPPED_BYTES_MAX = 131_072;

export function tooLarge(bytes_max: number): NetRefused {
  return new NetRefused(`the response is larger than ${bytes_max} bytes`);
}

type Headers = Parameters<NonNullable<Dispatcher.DispatchHandler["onResponseStart"]>>[2];

export interface Head {
  readonly status: number;
  readonly headers: Headers;
}

export class Exchange implements Dispatcher.DispatchHandler {
  /** What the answer begins with. Rejects when there is none, with the reason of who stopped it. */
  readonly head: Promise<Head>;
  private begin: (head: Head) => void = () => undefined;
  private fail: (error: unknown) => void = () => undefined;
  private controller: Dispatcher.DispatchController | null = null;
  private readonly chunks: Buffer[] = [];
  private waiting_bytes = 0;
  private bytes = 0;
  private bytes_max: number;
  private isOver = false;
  private isDropped = false;
  private failure: { readonly error: unknown } | null = null;
  private wake: (() => void) | null = null;
  private readonly signal: NetCall["signal"];
  private readonly stopped = (): void => this.abort(this.signal.reason ?? new Error("the call was stopped"));

  constructor(signal: NetCall["signal"], bytes_max: number) {
    this.signal = signal;
    this.bytes_max = bytes_max;
    this.head = new Promise((resolve, reject) => {
      this.begin = resolve;
      this.fail = reject;
    });
    if (signal.aborted) this.stopped();
    else signal.addEventListener("abort", this.stopped);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.controller = controller;
    if (this.failure) controller.abort(errorOf(this.failure.error));
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: Headers): void {
    if (status >= 200) this.begin({ status, headers });
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.bytes += chunk.byteLength;
    if (this.bytes > this.bytes_max) return this.abort(tooLarge(this.bytes_max));
    if (this.isDropped) return;
    this.chunks.push(chunk);
    this.waiting_bytes += chunk.byteLength;
    if (this.waiting_bytes > WAITING_BYTES_MAX) controller.pause();
    this.tell();
  }

  onResponseEnd(): void {
    this.end(null);
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.end({ error });
  }

  /** The body, piece by piece; to be read to its end, or left by `return`. */
  async *body(): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        if (this.failure) throw this.failure.error;
        if (this.chunks.length > 0) {
          const chunks = this.chunks.splice(0);
          this.waiting_bytes = 0;
          if (this.controller?.paused) this.controller.resume();
          // What came together goes on together: a piece by itself costs more than what is in it.
          yield chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
        } else if (this.isOver) return;
        else await this.more();
      }
    } finally {
      if (!this.isOver) this.abort(new Error("nobody reads the answer"));
    }
  }

  /** The whole body. */
  async whole(): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (;;) {
      if (this.failure) throw this.failure.error;
      if (this.chunks.length > 0) {
        parts.push(...this.chunks.splice(0));
        this.waiting_bytes = 0;
        if (this.controller?.paused) this.controller.resume();
      }
      if (this.isOver) return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
      await this.more();
    }
  }

  /** Reads on for nobody, if it is little; resolves when the exchange is over. */
  async drop(): Promise<void> {
    this.isDropped = true;
    this.bytes_max = Math.min(this.bytes_max, DROPPED_BYTES_MAX);
    if (this.controller?.paused) this.controller.resume();
    while (!this.isOver) await this.more();
  }

  private more(): Promise<void> {
    return new Promise((resolve) => (this.wake = resolve));
  }

  private tell(): void {
    const { wake } = this;
    this.wake = null;
    wake?.();
  }

  private abort(error: unknown): void {
    if (this.isOver) return;
    this.end({ error });
    this.controller?.abort(errorOf(error));
  }

  private end(failure: { readonly error: unknown } | null): void {
    if (this.isOver) return;
    this.isOver = true;
    this.failure = failure;
    this.signal.removeEventListener("abort", this.stopped);
    if (failure) this.fail(failure.error);
    this.tell();
  }
}

function errorOf(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error), { cause: error });
}
