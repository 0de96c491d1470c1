// A server of MCP that changes its definitions while it is connected: nothing is called by a definition nobody has seen.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import type { McpCallError } from "../contract/tools.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { silent } from "../../test/support/engine.ts";
import { McpClients } from "./client.ts";

const SCRIPT = `
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
const [changed, told] = process.argv.slice(2);
const send = (message) => console.log(JSON.stringify({ jsonrpc: "2.0", ...message }));
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  const result = {
    initialize: { protocolVersion: params?.protocolVersion, capabilities: { tools: { listChanged: true } }, serverInfo: { name: "s", version: "1" } },
    "tools/list": { tools: [{ name: "t", description: existsSync(changed) ? "new" : "old", inputSchema: { type: "object" } }] },
    "tools/call": { content: [{ type: "text", text: "called" }] },
  }[method];
  if (method === "tools/call" && existsSync(told)) send({ method: "notifications/tools/list_changed" });
  if (result) send({ id, result });
}`;
let folder: string;
let clock: FakeClock;
let clients: McpClients;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "qd-mcp-client-"));
  writeFileSync(path.join(folder, "server.mjs"), SCRIPT);
  clock = new FakeClock();
  const seams = { net: { fetch: () => Promise.reject(new Error("no network")) }, secrets: { resolve: async () => "" } };
  clients = new McpClients({ ...seams, clock, log: silent, private_origins: [], version: "1" });
});
afterEach(async () => {
  await clients.close();
  rmSync(folder, { recursive: true });
});

const at = (name: string) => path.join(folder, name);
const server = () => ({
  transport: "stdio" as const,
  command: ["node", at("server.mjs"), at("changed"), at("told")],
  cwd: null,
  env: {},
});
async function call(digest: string): Promise<unknown> {
  const given = { args: {}, idempotency_key: "k", timeout_ms: 5_000, signal: new AbortController().signal };
  return (await clients.call({ server: server(), tool: "t", digest, ...given })).result;
}

test("a change without a word is seen half a minute later, one that is told at once; a look sees it at any time", async () => {
  const [pinned] = (await clients.discover(server())).tools;
  const digest = pinned?.digest ?? "";
  expect(await call(digest)).toBe("called");
  writeFileSync(at("changed"), "");
  await clock.pass(29_000);
  expect(await call(digest)).toBe("called");
  await clock.pass(2_000);
  await expect(call(digest)).rejects.toMatchObject({ code: "definition_changed", sent: false });
  rmSync(at("changed"));
  expect((await clients.discover(server())).tools[0]?.description).toBe("old");
  writeFileSync(at("told"), "");
  expect(await call(digest)).toBe("called");
  writeFileSync(at("changed"), "");
  await expect(call(digest)).rejects.toMatchObject({ code: "definition_changed" });
  expect((await clients.discover(server())).tools[0]?.description).toBe("new");
});

/** Answers `tools/call` with what its own definition does not promise. */
const PROMISES = `
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  const schema = { type: "object", properties: { n: { type: "integer" } }, required: ["n"] };
  const result = {
    initialize: { protocolVersion: params?.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } },
    "tools/list": { tools: [{ name: "t", inputSchema: { type: "object" }, outputSchema: schema }] },
    "tools/call": { content: [], structuredContent: { n: "many" } },
  }[method];
  if (result) console.log(JSON.stringify({ jsonrpc: "2.0", id, result }));
}`;

test("a result that is not what was promised is no refusal: the call was made", async () => {
  writeFileSync(at("server.mjs"), PROMISES);
  const [pinned] = (await clients.discover(server())).tools;
  expect(await call(pinned?.digest ?? "")).toEqual({ n: "many" });
});

/** A server of the protocol's own library. */
const LIBRARY = (how: string) => `
import { McpServer, fromJsonSchema } from "${import.meta.resolve("@modelcontextprotocol/server")}";
import { serveStdio } from "${import.meta.resolve("@modelcontextprotocol/server/stdio")}";
serveStdio(() => {
  const server = new McpServer({ name: "s", version: "1" });
  const inputSchema = fromJsonSchema({ type: "object", properties: { n: { type: "integer" } } });
  server.registerTool("t", { description: "counts", inputSchema }, async ({ n }) => ({ content: [{ type: "text", text: "n is " + n }] }));
  return server;
}, { legacy: "${how}" });`;

test.each(["serve", "reject"])("a server of the current revision that would %s those before it", async (how) => {
  writeFileSync(at("server.mjs"), LIBRARY(how));
  const [pinned] = (await clients.discover(server())).tools;
  expect(pinned).toMatchObject({ name: "t", description: "counts" });
  const given = { args: { n: 3 }, idempotency_key: "k", timeout_ms: 5_000, signal: new AbortController().signal };
  expect(await clients.call({ server: server(), tool: "t", digest: pinned?.digest ?? "", ...given })).toEqual({
    is_error: false,
    result: "n is 3",
  });
});

test("over HTTP as well, where a change is told on a stream of its own", async () => {
  let words = "old";
  const handler = createMcpHandler(
    () => {
      const server = new McpServer({ name: "s", version: "1" });
      server.registerTool("t", { description: words }, () => ({ content: [{ type: "text", text: "called" }] }));
      return server;
    },
    { legacy: "reject" },
  );
  const net = { fetch: (url: string, init: RequestInit) => handler.fetch(new Request(url, init)) };
  const secrets = { resolve: async () => "" };
  const remote = new McpClients({ net, secrets, clock, log: silent, private_origins: [], version: "1" });
  const at_url = { transport: "http" as const, url: "http://127.0.0.1:1/mcp", headers: {} };
  try {
    const [pinned] = (await remote.discover(at_url)).tools;
    const given = { args: {}, idempotency_key: "k", timeout_ms: 5_000, signal: new AbortController().signal };
    const called = () => remote.call({ server: at_url, tool: "t", digest: pinned?.digest ?? "", ...given });
    expect(await called()).toEqual({ is_error: false, result: "called" });
    words = "new";
    handler.notify.toolsChanged();
    await expect.poll(() => called().catch((error: McpCallError) => error.code)).toBe("definition_changed");
  } finally {
    await remote.close();
    await handler.close();
  }
});
