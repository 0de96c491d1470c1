// The client of the proxy's benchmark: HTTP/1.1 over bare sockets, so that what the client costs is as little as can be of the
// two cores that it shares with what is measured. It reads what Node's and undici's servers write, no more.
import { connect } from "node:net";
import type { Socket } from "node:net";

const HEAD_END = Buffer.from("\r\n\r\n");
const CHUNKS_END = Buffer.from("0\r\n\r\n");

/** One keep-alive connection; one request at a time. */
export class Connection {
  private readonly socket: Socket;
  private parts: Buffer[] = [];
  private waiting: { resolve: (answer: Buffer) => void; reject: (error: Error) => void } | null = null;

  constructor(url: URL) {
    this.socket = connect({ host: url.hostname, port: Number(url.port), noDelay: true });
    this.socket.on("data", (bytes) => this.took(bytes));
    this.socket.on("error", (error) => this.waiting?.reject(error));
    this.socket.on("close", () => this.waiting?.reject(new Error("the connection was closed in an answer")));
  }

  /** Sends the bytes of one request; resolves with those of the whole answer. */
  ask(request: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.socket.write(request);
    });
  }

  close(): void {
    this.waiting = null;
    this.socket.destroy();
  }

  private took(bytes: Buffer): void {
    this.parts.push(bytes);
    // The end of a stream is in its last piece, or in the last two.
    const seen = this.parts.length === 1 ? bytes : Buffer.concat(this.parts);
    this.parts = [seen];
    if (!isWhole(seen)) return;
    this.parts = [];
    const waiting = this.waiting;
    this.waiting = null;
    waiting?.resolve(seen);
  }
}

function isWhole(seen: Buffer): boolean {
  const head = seen.indexOf(HEAD_END);
  if (head < 0) return false;
  const length = /content-length: (\d+)/i.exec(seen.toString("latin1", 0, head))?.[1];
  if (length !== undefined) return seen.length >= head + HEAD_END.length + Number(length);
  return seen.subarray(-CHUNKS_END.length).equals(CHUNKS_END);
}

/** The bytes of one POST of JSON. */
export function post(url: URL, headers: Readonly<Record<string, string>>, body: string): Buffer {
  const lines = [`POST ${url.pathname} HTTP/1.1`, `host: ${url.host}`, "content-type: application/json"];
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
  lines.push(`content-length: ${Buffer.byteLength(body)}`, "", body);
  return Buffer.from(lines.join("\r\n"));
}
