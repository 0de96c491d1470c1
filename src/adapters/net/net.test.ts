// The light way out (`request`) keeps every promise of the other one: what may be reached, redirects, secrets, sizes.
import { createServer } from "node:http";
import type { IncomingMessage, Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { NetRefused } from "../../contract/ports.ts";
import type { NetCall } from "../../contract/ports.ts";
import { Stop } from "../../kit/stop.ts";
import { EgressNet } from "./net.ts";

const net = new EgressNet();
const servers: Server[] = [];
let here: string;
let there: string;
let seen: { at: string; method: string; headers: IncomingMessage["headers"] }[] = [];

async function serve(): Promise<string> {
  const server = createServer((req, res) => {
    seen.push({ at: req.url ?? "", method: req.method ?? "", headers: req.headers });
    const to = new URL(req.url ?? "/", "http://x").searchParams.get("to");
    if (to !== null) return void res.writeHead(Number(req.url?.slice(1, 4)), { location: to }).end();
    if (req.url === "/round") return void res.writeHead(307, { location: "/round" }).end();
    if (req.url === "/gzip") return void res.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync("packed"));
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
