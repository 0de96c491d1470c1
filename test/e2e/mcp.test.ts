// The MCP gateway with the protocol's own client: agents that we do not run call tools of several servers, governed,
// approved, recorded, and replayed as a process of its own.
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  Client as CurrentClient,
  StreamableHTTPClientTransport as CurrentTransport,
} from "@modelcontextprotocol/client";
import { StdioClientTransport as CurrentStdio } from "@modelcontextprotocol/client/stdio";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { Approval, Run } from "../../src/contract/runs.ts";
import { Client as Api } from "../../src/sdk/client.ts";
import { BIN, cli, remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.mjs");
const FILES = createRequire(import.meta.url).resolve("@modelcontextprotocol/server-filesystem/dist/index.js");
let ledger: Ledger;
let data: string;
let scratch: string;
let server: Running;

const MANIFESTS = () => `
kind: Tool
metadata: { name: files }
spec:
  kind: mcp
  transport: stdio
  command: ["node", "${FILES}", "${scratch}"]
  cwd: "${scratch}"
  tools: [{ name: read_text_file, effect_class: read, idempotent: true }, { name: move_file, effect_class: write }]
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object } }
---
kind: Tool
metadata: { name: put }
spec:
  kind: http
  method: POST
  url: "${ledger.url}/idem"
  effect_class: write
  idempotent: true
  cost_usd: "0.01"
  input_schema: { type: object, properties: { n: { type: integer } }, additionalProperties: false }
---
kind: Tool
metadata: { name: nap }
spec: { kind: builtin, builtin: sleep }
---
kind: Model
metadata: { name: m }
spec: { provider: openai-compatible, model: m-1, base_url: "http://127.0.0.1:9" }
---
kind: Agent
metadata: { name: reader }
spec: { model: m, instructions: read, tools: ["files.read*"] }
---
kind: Agent
metadata: { name: offline }
spec: { model: m, tools: ["*"], capabilities: [subprocess] }
---
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: no-moves, effect: deny, match: { tools: ["files.move_file"] }, reason: files_stay }
    - { id: ask, effect: require_approval, match: { tools: [pay] }, reason: money }
    - { id: all, effect: allow }
---
kind: Budget
metadata: { name: poor }
spec: { scope: agent, subject: beggar, period: day, limit_usd: "0.015" }
`;

const up = () => startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
beforeAll(async () => {
  ledger = await startLedger(5);
  data = tempFolder("qd-mcp");
  scratch = tempFolder("qd-mcp-files");
  writeFileSync(path.join(scratch, "a.txt"), "what the file says");
  server = await up();
  await server.client.apply(MANIFESTS());
});
afterAll(async () => {
  await server?.stop();
  ledger?.stop();
  for (const folder of [data, scratch]) remove(folder);
});

const clients: Client[] = [];
afterAll(() => Promise.all(clients.map((client) => client.close())));
async function connect(headers: Record<string, string>, route = "/mcp"): Promise<Client> {
  const client = new Client({ name: "test", version: "1" });
  const transport = new StreamableHTTPClientTransport(new URL(server.url + route), { requestInit: { headers } });
  await client.connect(transport);
  clients.push(client);
  return client;
}
async function call(client: Client, name: string, args: object, wait_ms = 20_000) {
  const result = await client.callTool({
    name,
    arguments: { ...args },
    _meta: { "quarterdeck/wait_ms": wait_ms },
  });
  const [block] = result.content as { type: string; text: string }[];
  return { is_error: result.isError === true, text: block?.text ?? "" };
}
const runOf = async (agent: string) =>
  (await server.client.json<{ items: Run[] }>(`/runs?target=${agent}`)).items[0] as Run;
const events = async (run_id: string): Promise<Event[]> => (await server.client.events(run_id)).items;
const paid = async () => Object.keys((await ledger.counts()).once).length;

describe("the MCP gateway", () => {
  test("offers the tools of all servers as one, and to an agent that is known only those it may name", async () => {
    const all = await (await connect({ "quarterdeck-agent": "stranger" })).listTools();
    expect(all.tools.map((tool) => tool.name)).toEqual([
      "files.move_file",
      "files.read_text_file",
      "nap",
      "pay",
      "put",
    ]);
    expect(all.tools.find((tool) => tool.name === "pay")?.annotations).toMatchObject({ destructiveHint: true });
    const reader = await connect({ "quarterdeck-agent": "reader" });
    expect((await reader.listTools()).tools.map((tool) => tool.name)).toEqual(["files.read_text_file"]);
    expect(await call(reader, "put", { n: 1 })).toMatchObject({
      is_error: true,
      text: expect.stringMatching("not_in_allowlist"),
    });
  });

  test("an agent without a capability is offered no tool that needs it, and cannot call one; both is on record", async () => {
    const offline = await connect({ "quarterdeck-agent": "offline" });
    const names = (await offline.listTools()).tools.map((tool) => tool.name);
    expect(names).toEqual(["files.move_file", "files.read_text_file", "nap"]);
    expect(await call(offline, "put", { n: 1 })).toEqual({
      is_error: true,
      text: "The tool put is not available: capability_missing (it needs network).",
    });
    const { run_id } = await runOf("offline");
    expect((await events(run_id)).find(({ type }) => type === "policy.decided")?.data).toMatchObject({
      decision: "deny",
      reason: "capability_missing",
    });
  });

  test("a call is governed, made here, paid for and recorded; the servers behind are reached by their own protocols", async () => {
    const client = await connect({ "quarterdeck-agent": "worker" });
    const file = path.join(scratch, "a.txt");
    expect(await call(client, "files.read_text_file", { path: file })).toMatchObject({
      text: expect.stringContaining("what the file says"),
    });
    expect(await call(client, "put", { n: 1 })).toEqual({ is_error: false, text: '{"n":1}' });
    expect(await call(client, "files.move_file", { source: file, destination: `${file}2` })).toEqual({
      is_error: true,
      text: "Denied by policy: files_stay",
    });
    expect(await call(client, "put", { n: "one" })).toMatchObject({
      is_error: true,
      text: expect.stringContaining("/n"),
    });
    expect(await call(client, "unheard", {})).toMatchObject({
      is_error: true,
      text: expect.stringContaining("unknown_tool"),
    });
    const run = await runOf("worker");
    expect(run).toMatchObject({ kind: "captured", state: "running", steps: 5, cost_micro_usd: 10_000 });
    const types = (await events(run.run_id)).map((event) => event.type);
    expect(types.filter((type) => type.startsWith("tool."))).toEqual([
      "tool.requested",
      "tool.completed",
      "tool.requested",
      "tool.completed",
      "tool.proposed",
      "tool.denied",
      "tool.proposed",
      "tool.denied",
      "tool.proposed",
      "tool.denied",
    ]);
  });

  test("a call that needs approval is made once, when somebody else approved it; asking again brings its outcome", async () => {
    const client = await connect({ "quarterdeck-agent": "payer" });
    const before = await paid();
    const waits = await call(client, "pay", { eur: 5 }, 200);
    expect(waits).toMatchObject({
      is_error: true,
      text: expect.stringMatching(/needs the approval of a person.*not made twice/),
    });
    const run = await runOf("payer");
    expect(run).toMatchObject({ state: "waiting", reason: "approval" });
    const { items } = await server.client.json<{ items: Approval[] }>("/approvals?state=pending");
    // Who asks again while nobody has decided waits for the same call; so it is answered as soon as somebody does.
    const again = call(client, "pay", { eur: 5 });
    await new Api({ url: server.url, principal: "bob" }).decide(items[0]?.approval_id ?? "", "approve", "fine");
    expect(await again).toMatchObject({ is_error: false });
    expect(await paid()).toBe(before + 1);
    expect((await runOf("payer")).steps).toBe(1);
    const rejected = call(client, "pay", { eur: 6 });
    const open = await until("it is asked", async () => {
      const page = await server.client.json<{ items: Approval[] }>("/approvals?state=pending");
      return page.items[0];
    });
    await new Api({ url: server.url, principal: "bob" }).decide(open.approval_id, "reject", "too much");
    expect(await rejected).toMatchObject({ is_error: true, text: expect.stringContaining("rejected") });
    expect(await paid()).toBe(before + 1);
  });

  test("a call whose client has gone goes on, and its outcome is there for who asks again", async () => {
    const headers = { "quarterdeck-agent": "sleeper" };
    const client = await connect(headers);
    const late = await call(client, "nap", { ms: 600 }, 50);
    expect(late).toMatchObject({ is_error: true, text: expect.stringContaining("still being made") });
    expect(await call(client, "nap", { ms: 600 })).toMatchObject({ is_error: false });
    expect((await runOf("sleeper")).steps).toBe(1);
  });

  test("a budget that is used up denies the call and leaves the run to its agent", async () => {
    const client = await connect({ "quarterdeck-agent": "beggar" });
    expect(await call(client, "put", { n: 1 })).toMatchObject({ is_error: false });
    expect(await call(client, "put", { n: 2 })).toMatchObject({
      is_error: true,
      text: expect.stringContaining("budget_exceeded"),
    });
    expect(await runOf("beggar")).toMatchObject({ state: "running", cost_micro_usd: 10_000 });
  });

  test("a client that speaks stdio only gets the same tools through `quarterdeck mcp`, as one run", async () => {
    const client = new Client({ name: "stdio", version: "1" });
    const args = [BIN, "mcp", "--agent", "piped", "--data", data];
    await client.connect(new StdioClientTransport({ command: process.execPath, args, stderr: "inherit" }));
    expect((await client.listTools()).tools).toHaveLength(5);
    const answers = await Promise.all([1, 2, 3].map((n) => call(client, "put", { n })));
    expect(answers).toEqual(Array.from({ length: 3 }, () => ({ is_error: false, text: '{"n":1}' })));
    expect(await call(client, "files.move_file", { source: "a", destination: "b" })).toMatchObject({ is_error: true });
    await client.close();
    const run = await until("its run has ended", async () => {
      const found = await runOf("piped");
      return found.state === "succeeded" ? found : null;
    });
    expect(run).toMatchObject({ kind: "captured", steps: 4 });
  });

  const CURRENT = { pin: "2026-07-28" };
  const PUT_ANSWER = { content: [{ type: "text", text: '{"n":1}' }] };
  test("the current revision: calls are governed alike, and who listens hears of another tool", async () => {
    let heard = 0;
    const listChanged = { tools: { autoRefresh: false, debounceMs: 0, onChanged: () => void (heard += 1) } };
    const client = new CurrentClient(
      { name: "test", version: "1" },
      { versionNegotiation: { mode: CURRENT }, listChanged },
    );
    const requestInit = { headers: { "quarterdeck-agent": "modern" } };
    await client.connect(new CurrentTransport(new URL(`${server.url}/mcp`), { requestInit }));
    expect((await client.listTools()).tools).toHaveLength(5);
    expect(await client.callTool({ name: "put", arguments: { n: 7 } })).toMatchObject(PUT_ANSWER);
    expect(
      await client.callTool({ name: "files.move_file", arguments: { source: "a", destination: "b" } }),
    ).toMatchObject({
      isError: true,
      content: [{ text: "Denied by policy: files_stay" }],
    });
    expect(await runOf("modern")).toMatchObject({ kind: "captured", steps: 2, cost_micro_usd: 10_000 });
    const before = heard;
    await server.client.apply("kind: Tool\nmetadata: { name: later }\nspec: { kind: builtin, builtin: noop }");
    await until("it is told", async () => heard > before);
    expect((await client.listTools(undefined, { cacheMode: "refresh" })).tools.map(({ name }) => name)).toContain(
      "later",
    );
    await client.close();
  });

  test("the current revision over stdio, where a call has no headers", async () => {
    const client = new CurrentClient({ name: "stdio", version: "1" }, { versionNegotiation: { mode: CURRENT } });
    const args = [BIN, "mcp", "--agent", "piped-too", "--data", data];
    await client.connect(new CurrentStdio({ command: process.execPath, args, stderr: "inherit" }));
    expect((await client.listTools()).tools.length).toBeGreaterThan(4);
    expect(await client.callTool({ name: "put", arguments: { n: 8 } })).toMatchObject(PUT_ANSWER);
    await client.close();
    await until("its run has ended", async () => (await runOf("piped-too")).state === "succeeded");
  });

  test("without a server `quarterdeck mcp` says so and ends", async () => {
    const none = await cli(["mcp", "--url", "http://127.0.0.1:9"]);
    expect([none.code, none.out]).toEqual([6, ""]);
    expect(none.err).toContain("quarterdeck up");
  });

  test("a captured process is run again with every call answered from the recording, and another call is refused", async () => {
    const qd = (...args: string[]) => cli(["--data", data, ...args]);
    const calls = [
      ["files.read_text_file", { path: path.join(scratch, "a.txt") }],
      ["put", { n: 1 }],
      ["files.move_file", { source: "x", destination: "y" }],
      ["put", { n: 1 }],
    ];
    const idIn = (text: string) => /run_[0-9a-z]{26}/.exec(text)?.[0] ?? "";
    const first = await qd("capture", "--agent", "tooled", "--", "node", AGENT, "tools", JSON.stringify(calls));
    expect([first.code, first.out]).toEqual([0, expect.stringContaining("what the file says")]);
    const before = await ledger.counts();
    const again = await qd("replay", idIn(first.err), "--", "node", AGENT, "tools", JSON.stringify(calls));
    expect([again.code, again.out, again.err]).toEqual([0, first.out, expect.stringContaining("completed_exact")]);
    expect(await ledger.counts()).toEqual(before);
    calls[1] = ["put", { n: 2 }];
    const other = await qd("replay", idIn(first.err), "--", "node", AGENT, "tools", JSON.stringify(calls));
    expect(other.code).not.toBe(0);
    expect(other.err).toMatch(/\/args\/n/);
    expect(await ledger.counts()).toEqual(before);
  });

  test("a process that is run again is offered what it was offered then, also when the server was killed meanwhile", async () => {
    const start = (body: object) => server.client.json<Run>("/captures", { method: "POST", body });
    const offered = async (run_id: string) => (await (await connect({}, `/mcp/runs/${run_id}`)).listTools()).tools;
    const { run_id } = await start({ agent: "then" });
    const then = await offered(run_id);
    await call(await connect({}, `/mcp/runs/${run_id}`), "nap", { ms: 1 });
    await server.client.json(`/captures/${run_id}/end`, { method: "POST", body: { exit_code: 0 } });
    const tool = (name: string) =>
      `kind: Tool\nmetadata: { name: ${name} }\nspec: { kind: builtin, builtin: sleep, description: other words }\n`;
    await server.client.apply(`${tool("nap")}---\n${tool("doze")}`);
    const names = (tools: { name: string; description?: string | undefined }[]) =>
      tools.flatMap(({ name, description }) => (description === "other words" ? [name] : []));
    expect(names(await offered((await start({ agent: "now" })).run_id)).toSorted()).toEqual(["doze", "nap"]);
    const replay = await start({ replay_of: run_id });
    expect(await offered(replay.run_id)).toEqual(then);
    await server.kill();
    server = await up();
    expect(await offered(replay.run_id)).toEqual(then);
    expect((await call(await connect({}, `/mcp/runs/${replay.run_id}`), "nap", { ms: 1 })).is_error).toBe(false);
    expect(await offered(replay.run_id)).toEqual(then);
  });

  test("a call that a crash cut off is made up for by the run that recorded it", async () => {
    const client = await connect({ "quarterdeck-agent": "crashed" });
    void call(client, "nap", { ms: 30_000 }).catch(() => undefined);
    const run = await until("it sleeps", async () => {
      const found = await runOf("crashed");
      return found && (await events(found.run_id)).some((event) => event.type === "tool.requested") ? found : null;
    });
    await server.kill();
    server = await up();
    const types = await until("it goes again", async () => {
      const now = (await events(run.run_id)).map((event) => event.type);
      return now.at(-1) === "tool.requested" && now.length > 3 ? now : null;
    });
    expect(types.slice(types.indexOf("tool.requested"))).toEqual([
      "tool.requested",
      "tool.failed",
      "step.retry_scheduled",
      "policy.decided",
      "tool.requested",
    ]);
    expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
  });

  test("a call that waits for approval when the server dies is the same call for who asks again", async () => {
    const { run_id } = await server.client.json<Run>("/captures", { method: "POST", body: { agent: "stubborn" } });
    const first = await connect({}, `/mcp/runs/${run_id}`);
    const before = await paid();
    expect((await call(first, "pay", { eur: 7 }, 100)).text).toContain("approval 1");
    await server.kill();
    server = await up();
    const second = await connect({}, `/mcp/runs/${run_id}`);
    expect((await call(second, "pay", { eur: 7 }, 100)).text).toContain("approval 1");
    const again = call(second, "pay", { eur: 7 });
    const { items } = await server.client.json<{ items: Approval[] }>("/approvals?state=pending");
    const asked = items.find((approval) => approval.run_id === run_id);
    await new Api({ url: server.url, principal: "bob" }).decide(asked?.approval_id ?? "", "approve", "fine");
    expect(await again).toMatchObject({ is_error: false });
    expect(await paid()).toBe(before + 1);
    expect((await server.client.getRun(run_id)).steps).toBe(1);
  });

  test("what is no request is refused in the protocol's own form", async () => {
    const post = (body: string, headers: Record<string, string> = {}) =>
      fetch(`${server.url}/mcp`, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers },
        body,
      });
    const broken = await post("{");
    expect([broken.status, await broken.json()]).toMatchObject([400, { jsonrpc: "2.0", error: { code: -32_700 } }]);
    expect((await post("{}")).status).toBe(400);
    expect((await fetch(`${server.url}/mcp`)).status).toBe(405);
    expect((await post("{}", { origin: "http://evil.example" })).status).toBe(403);
    const unknown = await post('{"jsonrpc":"2.0","id":1,"method":"nothing/here"}');
    expect(await unknown.json()).toMatchObject({ error: { code: -32_601 } });
  });
});
