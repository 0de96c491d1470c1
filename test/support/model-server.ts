// A model provider that answers on the wire exactly as recorded: the chunks are real traffic, only the host is ours.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

export interface Recorded {
  readonly status?: number;
  readonly headers?: Record<string, string>;
  /** Chunks of a stream, each one JSON text, or a whole body. */
  readonly chunks?: readonly string[];
  readonly body?: string;
  readonly style: "openai" | "anthropic" | "google";
}

export interface ModelServer {
  readonly url: string;
  readonly requests: { path: string; headers: Record<string, unknown>; body: Record<string, unknown> }[];
  answer(recorded: Recorded): void;
  close(): Promise<void>;
}

export async function startModelServer(): Promise<ModelServer> {
  const requests: ModelServer["requests"] = [];
  const answers: Recorded[] = [];
  const server = createServer((req, res) => {
    let text = "";
    req.on("data", (chunk: Buffer) => (text += chunk.toString()));
    req.on("end", () => {
      requests.push({
        path: req.url ?? "",
        headers: { ...req.headers },
        body: JSON.parse(text === "" ? "{}" : text) as Record<string, unknown>,
      });
      const next = answers.shift();
      if (!next) return void res.writeHead(500).end();
      if (!next.chunks)
        return void res
          .writeHead(next.status ?? 200, { "content-type": "application/json", ...next.headers })
          .end(next.body ?? "{}");
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (const chunk of next.chunks) {
        const event = next.style === "anthropic" ? `event: ${(JSON.parse(chunk) as { type: string }).type}\n` : "";
        res.write(`${event}data: ${chunk}\n\n`);
      }
      res.end(next.style === "openai" ? "data: [DONE]\n\n" : undefined);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    answer: (recorded) => answers.push(recorded),
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
