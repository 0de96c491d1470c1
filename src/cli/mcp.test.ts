import { PassThrough, Readable } from "node:stream";
import { expect, test } from "vitest";
import { headersOf, passOn } from "./mcp.ts";
import type { Post, Posted } from "./mcp.ts";

async function said(lines: string[], post: Post): Promise<unknown[]> {
  const out = new PassThrough();
  await passOn(Readable.from(lines.map((line) => `${line}\n`)), out, post);
  out.end();
  const text = (await out.toArray()).join("");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as unknown);
}

const request = (id: number, method = "ping") => JSON.stringify({ jsonrpc: "2.0", id, method });
const echo = async ({ id }: { id?: unknown }): Promise<Posted> => {
  return id === undefined
    ? { status: 202, text: "" }
    : { status: 200, text: JSON.stringify({ jsonrpc: "2.0", id, result: {} }) };
};

test("every request is answered by one line, and a notification by none", async () => {
  const notification = JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" });
  expect(await said([request(1), notification, "", request(2)], echo)).toEqual([
    { jsonrpc: "2.0", id: 1, result: {} },
    { jsonrpc: "2.0", id: 2, result: {} },
  ]);
});

test("a slow answer does not hold up the next one", async () => {
  let free = () => undefined as void;
  const first = new Promise<void>((resolve) => (free = resolve));
  const answers = await said([request(1), request(2)], async (message) => {
    const answer = await echo(message);
    if (message["id"] === 1) await first;
    else free();
    return answer;
  });
  expect(answers).toMatchObject([{ id: 2 }, { id: 1 }]);
});

test("a line that is no JSON, a server that is away and a problem of the API are answered in the protocol's form", async () => {
  expect(await said(["{"], echo)).toMatchObject([{ id: null, error: { code: -32_700 } }]);
  const away = await said([request(7)], () => Promise.reject(new Error("nobody there")));
  expect(away).toEqual([{ jsonrpc: "2.0", id: 7, error: { code: -32_000, message: "nobody there" } }]);
  const problem = { status: 401, text: JSON.stringify({ code: "AUTH_REQUIRED", detail: "send a token" }) };
  expect(await said([request(8)], () => Promise.resolve(problem))).toMatchObject([
    { id: 8, error: { message: "send a token" } },
  ]);
});

test("a request that its client takes back is given up, and not answered", async () => {
  const lines = new PassThrough();
  const out = new PassThrough();
  let given: AbortSignal | null = null;
  const post: Post = (message, _body, signal) => {
    if (message["id"] === undefined) return echo(message);
    given = signal;
    return new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
  };
  const done = passOn(lines, out, post);
  lines.write(`${request(4)}\n`);
  await expect.poll(() => given).not.toBeNull();
  lines.end(`${JSON.stringify({ method: "notifications/cancelled", params: { requestId: 4 } })}\n`);
  await done;
  expect(out.read()).toBeNull();
});

test("who listens has each event as a line, until the client goes", async () => {
  const lines = new PassThrough();
  const out = new PassThrough();
  const post: Post = async (_message, _body, signal) => ({
    status: 200,
    text: "",
    events: (async function* () {
      yield '{"n":1}';
      yield '{"n":2}';
      await new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
    })(),
  });
  const done = passOn(lines, out, post);
  lines.write(`${request(1, "subscriptions/listen")}\n`);
  await expect.poll(() => out.readableLength).toBe(16);
  lines.end();
  await done;
  expect(String(out.read())).toBe('{"n":1}\n{"n":2}\n');
});

test("headers repeat what a message of the current revision says, and only of such a one", () => {
  const meta = { "io.modelcontextprotocol/protocolVersion": "2026-07-28" };
  expect(headersOf({ method: "tools/call", params: { name: "put", arguments: {}, _meta: meta } })).toMatchObject({
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "put",
  });
  const name = headersOf({ method: "tools/call", params: { name: "größe", _meta: meta } })["mcp-name"] ?? "";
  expect(Buffer.from(name.slice("=?base64?".length, -2), "base64").toString()).toBe("größe");
  expect(headersOf({ method: "tools/list", params: { _meta: meta } })).not.toHaveProperty("mcp-name");
  for (const older of [{ method: "initialize", params: {} }, { method: "ping" }, { id: 1, result: {} }])
    expect(headersOf(older)).toEqual({});
});

test("a stream that ends without an answer is answered, as its client sees no end", async () => {
  const listened = async (...events: string[]): Promise<unknown[]> => {
    const [lines, out] = [new PassThrough(), new PassThrough()];
    const ended = { status: 200, text: "", events: Readable.from(events) };
    const done = passOn(lines, out, async () => ended);
    lines.write(`${request(1, "subscriptions/listen")}\n`);
    await expect.poll(() => out.readableLength).toBeGreaterThan(20);
    lines.end();
    await done;
    return String(out.read())
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown);
  };
  expect(await listened('{"n":1}')).toEqual([{ n: 1 }, expect.objectContaining({ id: 1, error: expect.anything() })]);
  expect(await listened('{"id":1,"result":{}}')).toEqual([{ id: 1, result: {} }]);
});
