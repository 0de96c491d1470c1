// What happened, told to MCP clients: the routes of the API that read, as tools, under the permissions of the one who asks.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  Client as CurrentClient,
  StreamableHTTPClientTransport as CurrentTransport,
} from "@modelcontextprotocol/client";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ROUTES } from "../../src/contract/routes.ts";
import type { Permission, Route } from "../../src/contract/routes.ts";
import { sha256Hex } from "../../src/kit/hash.ts";
import type { Run } from "../../src/contract/runs.ts";
import { BIN, cli, remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const TOKENS: Record<string, Permission[]> = { reader: ["runs:read"], caller: ["proxy:call"] };
const MANIFESTS = `
kind: Tool
metadata: { name: note }
spec: { kind: builtin, builtin: noop, cost_usd: "0.01" }
---
kind: Workflow
metadata: { name: twice }
spec: { steps: [{ id: a, tool: note, args: { n: 1 } }, { id: b, tool: note, args: { n: "\${input}" } }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: notes, effect: allow, match: { tools: [note] } }] }
`;
let data: string;
let server: Running;
let runs: Run[];
const clients: Client[] = [];

beforeAll(async () => {
  data = tempFolder("qd-observe");
  server = await startUp(data);
  await server.client.apply(MANIFESTS);
  const start = async (input: string) => {
    const { out } = await cli(["--data", data, "--json", "run", "twice", "--input", input]);
    return JSON.parse(out.trim().split("\n").at(-1) ?? "{}") as { run_id: string };
  };
  runs = [];
  for (const input of ["one", "two"]) runs.push(await server.client.getRun((await start(input)).run_id));
});
afterAll(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await server?.stop();
  remove(data);
});

async function connect(url = server.url, headers: Record<string, string> = {}): Promise<Client> {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(new StreamableHTTPClientTransport(new URL(`${url}/mcp/observe`), { requestInit: { headers } }));
  clients.push(client);
  return client;
}
async function call(client: Pick<Client, "callTool">, name: string, args: object = {}) {
  const result = await client.callTool({ name, arguments: { ...args } });
  const [block] = result.content as { text: string }[];
  return { is_error: result.isError === true, text: block?.text ?? "" };
}
const told = async (client: Pick<Client, "callTool">, name: string, args: object = {}) => {
  const { is_error, text } = await call(client, name, args);
  expect([is_error, text]).toEqual([false, expect.any(String)]);
  return JSON.parse(text) as Record<string, unknown>;
};

describe("what happened, for MCP clients", () => {
  test("runs, their events, why a step was allowed, what differs, and whether the journal is whole", async () => {
    const client = await connect();
    const [one, two] = runs;
    expect(await told(client, "list_runs", { target: "twice", limit: 1 })).toMatchObject({
      items: [{ run_id: two?.run_id, state: "succeeded" }],
    });
    expect(await told(client, "get_run", { id: one?.run_id })).toMatchObject({ steps: 2, cost_micro_usd: 20_000 });
    const events = await told(client, "list_events", { id: one?.run_id, after_seq: 1, limit: 2 });
    expect(events).toMatchObject({ items: [{ seq: 2 }, { seq: 3 }], next_cursor: "3" });
    const why = await told(client, "explain_step", { id: one?.run_id, step: "1" });
    expect(JSON.stringify(why)).toContain("notes");
    const diff = await told(client, "compare_runs", { a: one?.run_id, b: two?.run_id });
    expect(JSON.stringify(diff)).toMatch(/"two"/);
    expect(await told(client, "verify_journal")).toMatchObject({ ok: true, runs: 2 });
    expect(await told(client, "get_registry_item", { kind: "Workflow", name: "twice" })).toMatchObject({ version: 1 });
  });

  test("what is wrong comes back in words, with what to do", async () => {
    const client = await connect();
    expect(await call(client, "get_run", { id: "run_00000000000000000000000000" })).toMatchObject({
      is_error: true,
      text: expect.stringMatching(/^NOT_FOUND: There is no run/),
    });
    expect(await call(client, "compare_runs", { a: runs[0]?.run_id })).toEqual({
      is_error: true,
      text: "VALIDATION_ERROR: compare_runs needs b, as its schema says.",
    });
    expect(await call(client, "verify_journal", { run_id: "run_x" })).toMatchObject({
      is_error: true,
      text: expect.stringContaining('NOT_FOUND: "run_x" is no id of a run'),
    });
    expect(await call(client, "list_runs", { limit: "many" })).toMatchObject({
      is_error: true,
      text: expect.stringMatching(/VALIDATION_ERROR.*limit/),
    });
    expect(await call(client, "list_runs", { colour: "red" })).toMatchObject({
      is_error: true,
      text: expect.stringContaining("colour"),
    });
    expect(await call(client, "get_run", { id: "../approvals" })).toMatchObject({ is_error: true });
    await expect(client.callTool({ name: "start_run", arguments: {} })).rejects.toMatchObject({ code: -32_602 });
  });

  test("nothing that is offered changes anything", async () => {
    const { tools } = await (await connect()).listTools();
    const offered = (Object.values(ROUTES) as Route[]).filter((route) => route.tool !== undefined);
    expect(tools.map(({ name }) => name)).toEqual(offered.map((route) => route.tool));
    for (const tool of tools) expect(tool).toMatchObject({ annotations: { readOnlyHint: true } });
    for (const { permission } of offered) expect(permission).toMatch(/^(\w+:read|journal:verify)$/);
    const head = async () => (await server.client.json<{ items: Run[] }>("/runs?limit=200")).items.length;
    expect(await head()).toBe(runs.length);
  });

  test("the current revision, and over stdio", async () => {
    const current = new CurrentClient(
      { name: "test", version: "1" },
      { versionNegotiation: { mode: { pin: "2026-07-28" } } },
    );
    await current.connect(new CurrentTransport(new URL(`${server.url}/mcp/observe`)));
    const answer = await current.callTool({ name: "get_run", arguments: { id: runs[0]?.run_id } });
    expect(answer.content).toMatchObject([{ text: expect.stringContaining("succeeded") }]);
    await current.close();
    const piped = new Client({ name: "stdio", version: "1" });
    const args = [BIN, "mcp", "observe", "--data", data];
    await piped.connect(new StdioClientTransport({ command: process.execPath, args, stderr: "inherit" }));
    expect(await told(piped, "list_runs")).toMatchObject({ items: [{ target: "twice@1" }, { target: "twice@1" }] });
    await piped.close();
    expect((await cli(["mcp", "observe", "--url", "http://127.0.0.1:9"])).code).toBe(6);
  });

  test("each sees and gets what its credential permits", async () => {
    const other = tempFolder("qd-observe-auth");
    const credentials = Object.entries(TOKENS).map(([principal, permissions]) => ({
      principal,
      token_sha256: sha256Hex(principal),
      permissions,
    }));
    const config = path.join(other, "config.json");
    writeFileSync(config, JSON.stringify({ credentials }));
    const guarded = await startUp(other, {}, ["--config", config]);
    try {
      const as = (token: string) => connect(guarded.url, { authorization: `Bearer ${token}` });
      const reader = await as("reader");
      const names = (await reader.listTools()).tools.map(({ name }) => name);
      expect(names).toEqual(expect.arrayContaining(["list_runs", "compare_runs"]));
      expect(names).not.toContain("list_approvals");
      expect(await told(reader, "list_runs")).toEqual({ items: [], next_cursor: null });
      await expect(reader.callTool({ name: "verify_journal", arguments: {} })).rejects.toMatchObject({ code: -32_602 });
      expect((await (await as("caller")).listTools()).tools).toEqual([]);
      await expect(connect(guarded.url, { authorization: "Bearer nobody" })).rejects.toThrow(
        /401|AUTH_REQUIRED|not known/,
      );
    } finally {
      await guarded.stop();
      remove(other);
    }
  });
});
