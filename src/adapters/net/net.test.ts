// The light way out (`request`) keeps every promise of the other one: what may be reached, redirects, secrets, sizes.
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { NetRefused } from "../../contract/ports.ts";
import type { NetCall } from "../../contract/ports.ts";
import { Stop } from "../../kit/stop.ts";
import { EgressNet } from "./net.ts";

const net = new EgressNet();
const servers: Server[] = [];
let here: string;
let there: string;
let seen: { at: string; method: string; headers: IncomingMessage["headers"] }[] = [];

/** How much the endless answer's sender has got rid of, and whether its connection is there. */
let poured = 0;
let isOpen = false;

function endless(res: ServerResponse): void {
  poured = 0;
  isOpen = true;
  res.once("close", () => (isOpen = false));
  const pour = (): void => {
    while (isOpen && res.write(Buffer.alloc(16_384))) poured += 16_384;
    poured += 16_384;
  };
  res.on("drain", pour);
  pour();
}

async function pieces(res: ServerResponse): Promise<void> {
  for (let n = 0; n < 20; n++) {
    res.write(`${n},`);
    await new Promise((resolve) => setTimeout(resolve, n % 5));
  }
  res.end();
}

async function serve(): Promise<string> {
  const server = createServer((req, res) => {
    seen.push({ at: req.url ?? "", method: req.method ?? "", headers: req.headers });
    const to = new URL(req.url ?? "/", "http://x").searchParams.get("to");
    if (to !== null) return void res.writeHead(Number(req.url?.slice(1, 4)), { location: to }).end();
    if (req.url === "/round") return void res.writeHead(307, { location: "/round" }).end();
    if (req.url === "/gzip") return void res.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync("packed"));
    if (req.url === "/torn") return void res.writeHead(200).write("half", () => res.destroy());
    if (req.url === "/pieces") return void pieces(res);
    if (req.url === "/endless") return endless(res);
    if (req.url === "/large") return void res.end("x".repeat(2_000));
    if (req.url !== "/never") res.writeHead(200, { "x-one": ["a", "b"] }).end("plain");
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

beforeAll(async () => {
  here = await serve();
  there = await serve();
});
afterAll(() => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
});
beforeEach(() => void (seen = []));

const call = (more: Partial<NetCall> = {}): NetCall => ({
  method: "POST",
  headers: { authorization: "Bearer s", "content-type": "text/plain" },
  body: "hello",
  signal: new Stop(),
  ...more,
});
const ask = (url: string, more: Partial<NetCall> = {}, origins = [here, there]) =>
  net.request(url, call(more), { private_origins: origins, response_bytes_max: 1_000 });

test("an answer, decoded, with its headers", async () => {
  const plain = await ask(`${here}/`);
  expect([plain.status, plain.headers["x-one"], await plain.text()]).toEqual([200, "a,b", "plain"]);
  expect(await (await ask(`${here}/gzip`)).text()).toBe("packed");
});

test("a private address is refused before anything is sent, by itself, by name and by a redirect", async () => {
  for (const url of [
    `${here}/`,
    here.replace("127.0.0.1", "localhost"),
    "http://169.254.169.254/",
    "file:///etc/passwd",
  ])
    await expect(ask(url, {}, [])).rejects.toBeInstanceOf(NetRefused);
  expect(seen).toEqual([]);
  await expect(ask(`${here}/302?to=${there}/`, {}, [here])).rejects.toBeInstanceOf(NetRefused);
  expect(seen).toHaveLength(1);
});

test("a body goes to no other origin, and neither does a secret; redirects have an end", async () => {
  await expect(ask(`${here}/307?to=${there}/`)).rejects.toThrow("another origin");
  expect(await (await ask(`${here}/303?to=${there}/`)).text()).toBe("plain");
  expect(seen.at(-1)).toMatchObject({ at: "/", method: "GET" });
  expect(seen.at(-1)?.headers).not.toHaveProperty("authorization");
  expect(await (await ask(`${here}/307?to=/`)).text()).toBe("plain");
  expect(seen.at(-1)).toMatchObject({ method: "POST", headers: { authorization: "Bearer s" } });
  await expect(ask(`${here}/round`)).rejects.toThrow(/more than \d+ redirects/);
});

test("an answer that is too large ends with an error, and a call that is stopped ends", async () => {
  await expect((await ask(`${here}/large`)).text()).rejects.toBeInstanceOf(NetRefused);
  const stop = new Stop();
  const open = ask(`${here}/never`, { signal: stop });
  setTimeout(() => stop.abort(new DOMException("late", "TimeoutError")), 50);
  await expect(open).rejects.toMatchObject({ name: "TimeoutError" });
  const stopped = new Stop();
  stopped.abort(new Error("before"));
  await expect(ask(`${here}/`, { signal: stopped })).rejects.toThrow("before");
});

test("an answer comes in order, whole or piece by piece; one that breaks off is an error", async () => {
  const expected = Array.from({ length: 20 }, (_, n) => `${n},`).join("");
  expect(await (await ask(`${here}/pieces`)).text()).toBe(expected);
  const parts: string[] = [];
  for await (const part of (await ask(`${here}/pieces`)).body) parts.push(Buffer.from(part).toString());
  expect([parts.join(""), parts.length > 1]).toEqual([expected, true]);
  await expect((await ask(`${here}/torn`)).text()).rejects.toThrow();
  const torn = (await ask(`${here}/torn`)).body[Symbol.asyncIterator]();
  await expect(
    (async () => {
      while (!(await torn.next()).done);
    })(),
  ).rejects.toThrow();
});

test("who reads slowly holds the sender up; who leaves ends it, and so does a stop in the middle", async () => {
  const endlessly = (signal = new Stop()) =>
    net.request(`${here}/endless`, call({ signal }), { private_origins: [here], response_bytes_max: 2 ** 40 });
  const reader = (await endlessly()).body[Symbol.asyncIterator]();
  await reader.next();
  await vi.waitFor(async () => {
    const before = poured;
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(poured).toBe(before);
  }, 5_000);
  // What sockets hold, not what memory holds.
  expect(poured).toBeLessThan(64 * 2 ** 20);
  const held = poured;
  for (let n = 0; n < 100 || poured <= held; n++) expect((await reader.next()).done).toBe(false);
  await reader.return?.();
  await vi.waitFor(() => expect(isOpen).toBe(false));

  const stop = new Stop();
  const other = (await endlessly(stop)).body[Symbol.asyncIterator]();
  await other.next();
  stop.abort(new Error("enough"));
  await expect(
    (async () => {
      while (!(await other.next()).done);
    })(),
  ).rejects.toThrow("enough");
  await vi.waitFor(() => expect(isOpen).toBe(false));
});
