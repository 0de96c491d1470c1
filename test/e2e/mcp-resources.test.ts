// Resources and prompts behind the MCP gateway, with the protocol's own client: of several servers as those of one, governed,
// recorded, and replayed without asking the servers again.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { Run } from "../../src/contract/runs.ts";
import { BIN, cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.mjs");
const SERVER = path.join(import.meta.dirname, "../support/mcp-conformance.mjs");
const FILES = createRequire(import.meta.url).resolve("@modelcontextprotocol/server-filesystem/dist/index.js");
const COMMAND = `["${process.execPath}", "${SERVER}"]`;
const TEXT = "This is the content of the static text resource.";
const MANIFESTS = `
kind: Tool
metadata: { name: docs }
spec:
  kind: mcp
  transport: stdio
  command: ${COMMAND}
  tools: [{ name: test_embedded_resource, effect_class: read }, { name: test_simple_text, effect_class: read }]
  resources: { cost_usd: "0.01" }
  prompts: true
  completions: true
---
kind: Tool
metadata: { name: docs.old }
spec: { kind: mcp, transport: stdio, command: ${COMMAND}, tools: [{ name: test_simple_text, effect_class: read }], resources: true, prompts: true }
---
kind: Model
metadata: { name: m }
spec: { provider: openai-compatible, model: m-1, base_url: "http://127.0.0.1:9" }
---
kind: Agent
metadata: { name: narrow }
spec: { model: m, instructions: read, tools: ["docs.test_*"] }
---
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: no-pictures, effect: deny, match: { tools: ["*.read_resource"] }, when: 'args.uri.contains("binary")', reason: no_pictures }
    - { id: not-the-old, effect: deny, match: { tools: ["docs.old.read_resource"] }, reason: out_of_date }
    - { id: all, effect: allow }
`;
/** A server that writes down what it is asked. */
const NOTES = (log: string) => `
import { appendFileSync } from "node:fs";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) continue;
  appendFileSync(${JSON.stringify(log)}, method + "\\n");
  const result = {
    initialize: { protocolVersion: params.protocolVersion, capabilities: { resources: {} }, serverInfo: { name: "notes", version: "1" } },
    "resources/list": { resources: [{ uri: "note:1", name: "one" }] },
    "resources/templates/list": { resourceTemplates: [] },
    "resources/read": { contents: [{ uri: params.uri, text: "what " + params.uri + " says" }] },
  }[method];
  console.log(JSON.stringify({ jsonrpc: "2.0", id, result }));
}`;
let data: string;
let server: Running;
const clients: Client[] = [];

beforeAll(async () => {
  data = tempFolder("qd-mcp-resources");
  server = await startUp(data);
  await server.client.apply(MANIFESTS);
});
afterAll(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await server?.stop();
  remove(data);
});

async function connect(agent: string, route = "/mcp"): Promise<Client> {
  const client = new Client({ name: "test", version: "1" });
  const requestInit = { headers: { "quarterdeck-agent": agent } };
  await client.connect(new StreamableHTTPClientTransport(new URL(server.url + route), { requestInit }));
  clients.push(client);
  return client;
}
const runOf = async (agent: string) =>
  (await server.client.json<{ items: Run[] }>(`/runs?target=${agent}`)).items[0] as Run;
const events = async (run_id: string): Promise<Event[]> => (await server.client.events(run_id)).items;

describe("resources and prompts behind the MCP gateway", () => {
  test("those of all servers are there as one, and it is told which server one is of", async () => {
    const client = await connect("reader");
    const uris = (await client.listResources()).resources.map(({ uri }) => uri);
    expect(uris).toEqual(
      ["docs", "docs.old"].flatMap((name) => [
        `mcp://${name}/test://static-text`,
        `mcp://${name}/test://static-binary`,
      ]),
    );
    const { resourceTemplates } = await client.listResourceTemplates();
    expect(resourceTemplates[0]?.uriTemplate).toBe("mcp://docs/test://template/{id}/data");
    expect((await client.readResource({ uri: "mcp://docs/test://static-text" })).contents).toEqual([
      { uri: "mcp://docs/test://static-text", mimeType: "text/plain", text: TEXT },
    ]);
    const [made] = (await client.readResource({ uri: "mcp://docs/test://template/7/data" })).contents;
    expect(made).toMatchObject({ text: expect.stringContaining("Data for ID: 7") });
    expect((await client.listPrompts()).prompts.map(({ name }) => name)).toContain("docs.old.test_simple_prompt");
    const filled = { name: "docs.test_prompt_with_arguments", arguments: { arg1: "a", arg2: "b" } };
    expect((await client.getPrompt(filled)).messages[0]?.content).toMatchObject({
      text: "Prompt with arguments: arg1='a', arg2='b'",
    });
    const embedded = { name: "docs.test_prompt_with_embedded_resource", arguments: { resourceUri: "test://x" } };
    expect((await client.getPrompt(embedded)).messages[0]?.content).toMatchObject({
      resource: { uri: "mcp://docs/test://x" },
    });
    // What a tool says of a resource can be read here, too.
    const { content } = await client.callTool({ name: "docs.test_embedded_resource", arguments: {} });
    expect(content).toMatchObject([{ resource: { uri: "mcp://docs/test://embedded-resource" } }]);
    const { tools } = await client.listTools();
    expect(tools.map(({ name }) => name)).toEqual([
      "docs.old.test_simple_text",
      "docs.test_embedded_resource",
      "docs.test_simple_text",
    ]);
  });

  test("each is a call under policy and budget, on record", async () => {
    const client = await connect("governed");
    await client.readResource({ uri: "mcp://docs/test://static-text" });
    const denied = client.readResource({ uri: "mcp://docs/test://static-binary" });
    await expect(denied).rejects.toMatchObject({ code: -32_000, message: expect.stringMatching(/no_pictures/) });
    await expect(client.readResource({ uri: "mcp://docs.old/test://static-text" })).rejects.toMatchObject({
      data: { code: "out_of_date", uri: "mcp://docs.old/test://static-text" },
    });
    const run = await runOf("governed");
    expect(run).toMatchObject({ kind: "captured", steps: 3, cost_micro_usd: 10_000 });
    const [asked, answered] = (await events(run.run_id)).filter(({ type }) => type.startsWith("tool."));
    expect(asked?.data).toMatchObject({ tool: "docs.read_resource@1", args: { uri: "test://static-text" } });
    expect(answered?.data).toMatchObject({ result: { contents: [{ text: TEXT }] } });
  });

  test("arguments of prompts and resources are completed by the server that has them; one that completes nothing says so", async () => {
    const client = await connect("typing");
    const argument = { name: "arg1", value: "pa" };
    const values = async (ref: Parameters<Client["complete"]>[0]["ref"], context = {}) =>
      (await client.complete({ ref, argument, context })).completion.values;
    const prompt = (name: string) => ({ type: "ref/prompt" as const, name });
    const chosen = { arguments: { arg2: "b" } };
    expect(await values(prompt("docs.test_prompt_with_arguments"), chosen)).toEqual([
      "pa of test_prompt_with_arguments",
      JSON.stringify(chosen.arguments),
    ]);
    const uri = "mcp://docs/test://template/{id}/data";
    expect((await values({ type: "ref/resource", uri }))[0]).toBe("pa of test://template/{id}/data");
    expect(await values(prompt("docs.old.test_prompt_with_arguments"))).toEqual([]);
    await expect(values(prompt("nobody.has"))).rejects.toMatchObject({ code: -32_602 });
    const asked = (await events((await runOf("typing")).run_id)).filter(({ type }) => type === "tool.requested");
    expect(asked.map(({ data }) => data["tool"])).toEqual(["docs.complete@1", "docs.complete@1"]);
    const one = await connect("typing", "/mcp/servers/docs");
    const own = await one.complete({ ref: prompt("test_prompt_with_arguments"), argument });
    expect(own.completion.values[0]).toBe("pa of test_prompt_with_arguments");
  });

  test("what is not there, or names no server, is refused with what to ask for instead; nothing is tried again", async () => {
    const client = await connect("lost");
    await expect(client.readResource({ uri: "mcp://docs/test://nothing" })).rejects.toMatchObject({
      code: -32_602,
      message: expect.stringContaining("Resource not found"),
      data: { code: "mcp_refused", uri: "mcp://docs/test://nothing" },
    });
    expect((await events((await runOf("lost")).run_id)).map(({ type }) => type)).not.toContain("step.retry_scheduled");
    await expect(client.readResource({ uri: "test://static-text" })).rejects.toMatchObject({
      code: -32_602,
      message: expect.stringMatching(/begin with mcp:\/\/docs\S* or mcp:\/\/docs/),
    });
    await expect(client.getPrompt({ name: "test_simple_prompt" })).rejects.toMatchObject({
      code: -32_602,
      message: expect.stringContaining("SERVER.PROMPT, of docs, docs.old"),
    });
    const one = await connect("lost", "/mcp/servers/docs");
    // A server whose name begins like its name is another one.
    const own = ["test_embedded_resource", "test_simple_text"];
    expect((await one.listTools()).tools.map(({ name }) => name)).toEqual(own);
    expect((await one.readResource({ uri: "test://static-text" })).contents[0]).toMatchObject({ text: TEXT });
    expect((await one.getPrompt({ name: "test_simple_prompt" })).messages).toHaveLength(1);
  });

  test("an agent that may name none of them is offered none", async () => {
    const client = await connect("narrow");
    expect(Object.keys(client.getServerCapabilities() ?? {})).toEqual(["tools"]);
    await expect(client.readResource({ uri: "mcp://docs/test://static-text" })).rejects.toMatchObject({
      code: -32_601,
    });
    const { isError, content } = await client.callTool({ name: "docs.read_resource", arguments: { uri: "x" } });
    expect([isError, JSON.stringify(content)]).toEqual([true, expect.stringContaining("not_in_allowlist")]);
  });

  test("a process that read some is run again from the recording; the servers are not asked", async () => {
    const [log, script] = ["log", "notes.mjs"].map((name) => path.join(data, name)) as [string, string];
    writeFileSync(script, NOTES(log));
    const notes = `{ kind: mcp, transport: stdio, command: [node, "${script}"], tools: [], resources: true }`;
    await server.client.apply(`kind: Tool\nmetadata: { name: notes }\nspec: ${notes}`);
    const uris = ["mcp://notes/note:1", "mcp://docs/test://static-text", "mcp://docs/test://static-binary"];
    const qd = (...args: string[]) => cli(["--data", data, ...args]);
    const first = await qd("capture", "--agent", "again", "--", "node", AGENT, "resources", JSON.stringify(uris));
    expect([first.code, first.out]).toEqual([0, expect.stringMatching(/mcp:\/\/notes\/note:1: what note:1 says/)]);
    expect(first.out).toMatch(/-32000.*no_pictures/);
    const run_id = /run_[0-9a-z]{26}/.exec(first.err)?.[0] ?? "";
    const asked = readFileSync(log, "utf8");
    expect(asked).toMatch(/resources\/read\n$/);
    const again = await qd("replay", run_id, "--", "node", AGENT, "resources", JSON.stringify(uris));
    expect([again.out, again.err]).toEqual([first.out, expect.stringContaining("completed_exact")]);
    expect(readFileSync(log, "utf8")).toBe(asked);
    const steps = (await server.client.getRun(run_id)).steps;
    const replayed = /run_[0-9a-z]{26}/.exec(again.err)?.[0] ?? "";
    expect((await server.client.getRun(replayed)).steps).toBe(steps);
    const other = await qd("replay", run_id, "--", "node", AGENT, "resources", JSON.stringify(["mcp://notes/note:2"]));
    expect([other.code === 0, other.err]).toEqual([false, expect.stringContaining("/args/uri")]);
  });

  test("over stdio and by `mcp wrap` as well; what its server has is taken without a word", async () => {
    const client = new Client({ name: "stdio", version: "1" });
    const wrap = ["wrap", "--name", "wrapped", "--", process.execPath, SERVER];
    const args = [BIN, "mcp", "--agent", "piped", "--data", data, ...wrap];
    await client.connect(new StdioClientTransport({ command: process.execPath, args, stderr: "ignore" }));
    expect((await client.listResources()).resources[0]?.uri).toBe("test://static-text");
    expect((await client.readResource({ uri: "test://static-text" })).contents[0]).toMatchObject({ text: TEXT });
    expect((await client.getPrompt({ name: "test_simple_prompt" })).messages).toHaveLength(1);
    await client.close();
    const run = await until("its run has ended", async () => {
      const found = await runOf("piped");
      return found?.state === "succeeded" ? found : null;
    });
    const called = (await events(run.run_id)).flatMap(({ type, data: said }) =>
      type === "tool.requested" ? [said["tool"]] : [],
    );
    expect(called).toEqual(["wrapped.list_resources@1", "wrapped.read_resource@1", "wrapped.get_prompt@1"]);
  });

  test("a manifest that asks for what its server has not, or for nothing, is refused at its line", async () => {
    const apply = (spec: string) => server.client.apply(`kind: Tool\nmetadata: { name: odd }\nspec: ${spec}`);
    const files = `{ kind: mcp, transport: stdio, command: ${COMMAND}, tools: [] }`;
    await expect(apply(files)).rejects.toThrow(/line 3, \/spec: nothing is taken from this MCP server/);
    const clash = files.replace("[] }", "[{ name: read_resource }], resources: true }");
    const has = files.replace(SERVER, FILES).replace('"]', `", "${data}"]`).replace("[] }", "[], prompts: true }");
    await expect(apply(has)).rejects.toThrow(/line 1, \/spec\/prompts: the server has no prompts; take this out/);
    await expect(apply(clash)).rejects.toThrow(/read_resource has the name of a call for resources/);
  });
});
