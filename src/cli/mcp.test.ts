import { PassThrough, Readable } from "node:stream";
import { expect, test } from "vitest";
import { passOn } from "./mcp.ts";

type Post = (body: string) => Promise<{ status: number; text: string }>;

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
const echo: Post = async (body) => {
  const { id } = JSON.parse(body) as { id?: number };
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
  const answers = await said([request(1), request(2)], async (body) => {
    const answer = await echo(body);
    if (body.includes('"id":1')) await first;
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
