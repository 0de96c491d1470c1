// Requests that another node answers, over real connections: an owner that streams, a node that passes it on, a client.
import { createServer } from "node:http";
import type { Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import Fastify from "fastify";
import type { FastifyInstance } from "fastify";
import { afterAll, beforeAll, expect, test } from "vitest";
import { systemClock } from "../adapters/system/system.ts";
import { Forwarder } from "./forward.ts";

let owner: Server;
let node: FastifyInstance;
let url: string;
/** Answers of the owner that are under way. */
const open = new Set<ServerResponse>();

beforeAll(async () => {
  owner = createServer((_req, res) => {
    open.add(res);
    res.once("close", () => open.delete(res));
    res.writeHead(200, { "content-type": "text/event-stream" });
    res.write("data: first\n\n");
  });
  await new Promise<void>((resolve) => owner.listen(0, "127.0.0.1", resolve));
  const owned = { isSelf: false, url: `http://127.0.0.1:${(owner.address() as AddressInfo).port}` };
  const forwarder = new Forwarder(() => owned, systemClock);
  node = Fastify();
  node.get("/stream", async (req, reply) => void (await forwarder.forward(req, reply, 0)));
  url = await node.listen({ port: 0, host: "127.0.0.1" });
});
afterAll(async () => {
  owner.closeAllConnections();
  owner.close();
  await node.close();
});

/** Reads the beginning of a stream. */
async function begin(signal?: AbortSignal): Promise<ReadableStreamDefaultReader<Uint8Array>> {
  const answer = await fetch(`${url}/stream`, signal ? { signal } : {});
  const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
  expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("data: first\n\n");
  return reader;
}

test("a client that hangs up in the middle of a stream is gone for the owner too", async () => {
  const gone = new AbortController();
  await begin(gone.signal);
  expect(open.size).toBe(1);
  gone.abort();
  await expect.poll(() => open.size, { timeout: 5_000 }).toBe(0);
});

test("an owner that dies in the middle of a stream is gone for the client too", async () => {
  const reader = await begin();
  for (const res of open) res.destroy();
  await expect(reader.read()).rejects.toThrow();
});
