// A TCP proxy that does what networks do: cuts connections, is slow, loses answers, and goes silent without a word.
import { connect, createServer } from "node:net";
import type { AddressInfo, NetConnectOpts, Server, Socket } from "node:net";

interface Pair {
  readonly near: Socket;
  readonly far: Socket;
}

export class FaultProxy {
  private readonly target: NetConnectOpts;
  private readonly pairs = new Set<Pair>();
  private server: Server | null = null;
  private delay_ms = 0;
  private silent = false;
  private losing = false;

  /** Where connections go: a port, or the path of a Unix socket. */
  constructor(target: NetConnectOpts) {
    this.target = target;
  }

  async listen(): Promise<number> {
    const server = createServer((near) => this.take(near));
    this.server = server;
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  }

  close(): void {
    this.server?.close();
    this.cut();
  }

  /** Both ends of every connection are told that it is gone. */
  cut(): void {
    for (const { near, far } of this.pairs) {
      near.resetAndDestroy();
      far.destroy();
    }
    this.pairs.clear();
  }

  /** Everything takes longer, each way. */
  async slow(delay_ms: number, for_ms: number): Promise<void> {
    this.delay_ms = delay_ms;
    await pause(for_ms);
    this.delay_ms = 0;
  }

  /** Nothing passes and nobody is told; in the end the connections are gone. */
  async hush(for_ms: number): Promise<void> {
    this.silent = true;
    await pause(for_ms);
    this.silent = false;
    this.cut();
  }

  /** What is asked arrives; instead of the answer comes the end of the connection. */
  async loseAnswers(for_ms: number): Promise<void> {
    this.losing = true;
    await pause(for_ms);
    this.losing = false;
  }

  private take(near: Socket): void {
    const far = connect(this.target);
    const pair = { near, far };
    this.pairs.add(pair);
    near.setNoDelay(true);
    far.setNoDelay(true);
    const end = () => {
      this.pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) {
      socket.on("error", end);
      socket.on("close", end);
    }
    const [there, back] = [this.direction(far), this.direction(near)];
    near.on("data", there);
    far.on("data", (bytes: Buffer) => {
      if (!this.losing) return back(bytes);
      this.pairs.delete(pair);
      near.resetAndDestroy();
      far.destroy();
    });
  }

  /** Passes chunks on; they keep their order, also when what is slow becomes fast. */
  private direction(to: Socket): (bytes: Buffer) => void {
    let waiting = 0;
    let last = Promise.resolve();
    return (bytes) => {
      if (this.silent) return;
      if (this.delay_ms === 0 && waiting === 0) return void to.write(bytes);
      const due = pause(this.delay_ms);
      waiting += 1;
      last = last
        .then(() => due)
        .then(() => {
          waiting -= 1;
          if (!to.destroyed) to.write(bytes);
        });
    };
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
