// Programs that capture themselves: wrapped clients against a provider, steps, tools; a server that goes away and comes back;
// the same program run again with every call answered from the recording.
import { spawn } from "node:child_process";
import { chmodSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Client as McpClient } from "@modelcontextprotocol/sdk/client/index.js";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { generateText, streamText, wrapLanguageModel } from "ai";
import OpenAI from "openai";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import type { Event } from "../../src/contract/events.ts";
import type { Run } from "../../src/contract/runs.ts";
import { startCapture } from "../../src/sdk/capture/index.ts";
import type { Capture, CaptureOptions } from "../../src/sdk/capture/index.ts";
import { processHost } from "../../src/sdk/capture/host.ts";
import type { Host } from "../../src/sdk/capture/host.ts";
import { freshRun } from "../support/engine.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

const AGENT = path.join(import.meta.dirname, "../support/sdk-agent.mjs");
/** Put together here, so that no scanner takes this file for a leak. */
const LEAKED = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
let model: ScriptedModel;
let data: string;
let spill: string;
let server: Running;
let problems: string[];

beforeAll(async () => {
  let n = 0;
  model = await startScriptedModel(({ messages }) => {
    const said = JSON.stringify(messages.at(-1)?.content);
    if (said.includes("overload")) return { status: 503 };
    if (said.includes("call")) return { call: { name: "find", args: { q: 1 } } };
    return { content: `Answer ${(n += 1)} to ${said}` };
  });
  data = tempFolder("qd-sdk");
  spill = tempFolder("qd-spill");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url });
});
afterAll(async () => {
  await server.stop();
  await model.close();
  remove(data);
  remove(spill);
});
beforeEach(() => void (problems = []));

/** Capture in this process, with what it sends at hand. */
function begin(options: CaptureOptions = {}, changes: Partial<Host> = {}): { capture: Capture; sent: string[] } {
  const sent: string[] = [];
  const real = processHost();
  const spy: typeof fetch = (input, init) => {
    sent.push(String(init?.body));
    return (changes.fetch ?? real.fetch)(input, init);
  };
  const host: Host = { ...real, env: {}, on: () => () => undefined, ...changes, fetch: spy };
  const onProblem = (problem: string) => void problems.push(problem);
  const kept = path.join(spill, "kept");
  return {
    capture: startCapture({ agent: "tester", url: server.url, spill: kept, onProblem, ...options }, host),
    sent,
  };
}

const events = async (run_id: string): Promise<Event[]> => (await server.client.events(run_id)).items;
const latest = async (agent = "tester"): Promise<Run> => {
  const answer = await fetch(`${server.url}/api/v1/runs?kind=captured&target=${agent}&limit=1`);
  const [run] = ((await answer.json()) as { items: Run[] }).items;
  if (!run) throw new Error(`there is no run of ${agent}`);
  return run;
};
const openai = () => new OpenAI({ apiKey: "k", baseURL: model.url, maxRetries: 0 });
const ask = (content: string) => ({ model: "large-1", messages: [{ role: "user" as const, content }] });

describe("capture in a program", () => {
  test("OpenAI: whole, streamed, refused, and its Responses; the client's helpers work as before", async () => {
    const { capture } = begin();
    let run_id = "";
    const client = capture.client(openai());
    await capture.run({ input: "hello", labels: { team: "a" }, correlation: "case-1" }, async (run) => {
      ({ run_id } = run);
      const { data: answer, response } = await client.chat.completions.create(ask("whole")).withResponse();
      expect([response.status, answer.choices[0]?.message.content]).toEqual([200, expect.stringContaining("whole")]);
      let text = "";
      for await (const chunk of await client.chat.completions.create({ ...ask("stream"), stream: true }))
        text += chunk.choices[0]?.delta.content ?? "";
      expect(text).toContain("stream");
      await expect(client.chat.completions.create(ask("overload"))).rejects.toMatchObject({ status: 503 });
      const called = await client.chat.completions.create(ask("call"));
      expect(called.choices[0]?.message.tool_calls).toHaveLength(1);
      const said = await client.responses.create({ model: "large-1", input: "respond" });
      expect(said.output_text).toContain("respond");
      return "bye";
    });
    await capture.close();
    const list = await events(run_id);
    expect(list[0]).toMatchObject({
      actor: { kind: "sdk", id: expect.stringMatching(/^sdk-/) },
      type: "run.started",
      correlation_id: "case-1",
      data: { input: "hello", labels: { team: "a" } },
    });
    expect(list.map((event) => event.type).filter((type) => type.startsWith("model."))).toEqual([
      "model.requested",
      "model.completed",
      "model.requested",
      "model.first_token",
      "model.completed",
      "model.requested",
      "model.failed",
      "model.requested",
      "model.completed",
      "model.requested",
      "model.completed",
    ]);
    const answers = list.filter((event) => event.type === "model.completed").map((event) => event.data);
    expect(answers[0]).toMatchObject({
      usage: { input_tokens: 20, output_tokens: 10 },
      status: 200,
      finish_reasons: ["stop"],
    });
    expect(answers[1]).toMatchObject({ content: expect.stringContaining("stream"), content_type: "text/event-stream" });
    expect(answers[2]).toMatchObject({ content: null, tool_calls: [{ name: "find", arguments: '{"q":1}' }] });
    expect(list.find((event) => event.type === "model.failed")?.data).toMatchObject({ code: "http_503" });
    expect(list.at(-1)).toMatchObject({ type: "run.succeeded", data: { output: "bye" } });
    expect(problems).toEqual([]);
    expect(capture.figures).toMatchObject({ recorded: list.length, acknowledged: list.length, spilled: 0, lost: 0 });
  });

  test("Anthropic, with its stream helper", async () => {
    const { capture } = begin();
    const client = capture.client(
      new Anthropic({ apiKey: "k", baseURL: model.url.replace(/\/v1$/, ""), maxRetries: 0 }),
    );
    const said = await capture.run({}, async () => {
      const stream = client.messages.stream({
        model: "claude-1",
        max_tokens: 9,
        messages: [{ role: "user", content: "hi" }],
      });
      return (await stream.finalMessage()).content[0];
    });
    await capture.close();
    expect(said).toMatchObject({ type: "text", text: expect.stringContaining("hi") });
    const list = await events((await latest()).run_id);
    expect(list.find((event) => event.type === "model.requested")?.data).toMatchObject({
      api: "anthropic.messages",
      model: "claude-1",
    });
    expect(list.find((event) => event.type === "model.completed")?.data).toMatchObject({
      content: expect.stringContaining("hi"),
    });
  });

  test("the Vercel AI SDK: whole and streamed", async () => {
    const { capture } = begin();
    const provider = createOpenAICompatible({ name: "p", baseURL: model.url, apiKey: "k" });
    const wrapped = wrapLanguageModel({ model: provider("large-1"), middleware: capture.middleware() });
    await capture.run({}, async () => {
      expect((await generateText({ model: wrapped, prompt: "whole" })).text).toContain("whole");
      const { textStream } = streamText({ model: wrapped, prompt: "flow" });
      let text = "";
      for await (const part of textStream) text += part;
      expect(text).toContain("flow");
    });
    await capture.close();
    const list = await events((await latest()).run_id);
    const answers = list.filter((event) => event.type === "model.completed").map((event) => event.data);
    expect(answers).toMatchObject([
      {
        content: expect.stringContaining("whole"),
        usage: { input_tokens: 20, output_tokens: 10 },
        finish_reasons: ["stop"],
      },
      { content: expect.stringContaining("flow"), usage: { input_tokens: 20, output_tokens: 10 } },
    ]);
    expect(problems).toEqual([]);
  });

  test("an MCP client", async () => {
    const tools = new McpServer({ name: "shelf", version: "1" });
    tools.registerTool("find", { inputSchema: { q: z.string() } }, ({ q }) => ({
      content: [{ type: "text", text: `found ${q}` }],
      isError: q === "nothing",
    }));
    tools.registerResource("note", "shelf:note", {}, () => ({
      contents: [{ uri: "shelf:note", text: "what it says" }],
    }));
    tools.registerPrompt("ask", { argsSchema: { of: z.string() } }, ({ of }) => ({
      messages: [{ role: "user", content: { type: "text", text: `ask ${of}` } }],
    }));
    const [ours, theirs] = InMemoryTransport.createLinkedPair();
    const plain = new McpClient({ name: "c", version: "1" });
    await Promise.all([tools.connect(theirs), plain.connect(ours)]);
    const { capture } = begin();
    const client = capture.mcp(plain, "shelf");
    await capture.run({}, async () => {
      expect((await client.listTools()).tools).toHaveLength(1);
      expect(await client.callTool({ name: "find", arguments: { q: "x" } })).toMatchObject({
        content: [{ text: "found x" }],
      });
      await client.callTool({ name: "find", arguments: { q: "nothing" } });
      expect((await client.listResources()).resources).toHaveLength(1);
      expect((await client.readResource({ uri: "shelf:note" })).contents).toMatchObject([{ text: "what it says" }]);
      await client.getPrompt({ name: "ask", arguments: { of: "ada" } });
      await expect(client.readResource({ uri: "shelf:none" })).rejects.toThrow();
      expect(client.getServerVersion()?.name).toBe("shelf");
    });
    await capture.close();
    const list = await events((await latest()).run_id);
    const ends = list.filter((event) => event.type === "tool.completed").map((event) => event.data);
    expect(ends).toMatchObject([
      { result: { tools: [{ name: "find" }] } },
      { result: { content: [{ text: "found x" }] } },
      { is_error: true },
      { result: { resources: [{ uri: "shelf:note" }] } },
      { result: { contents: [{ text: "what it says" }] } },
      { result: { messages: [{ content: { text: "ask ada" } }] } },
    ]);
    const asked = list
      .filter((event) => event.type === "tool.requested")
      .map(({ data }) => [data["tool"], data["args"]]);
    expect(asked).toEqual([
      ["shelf.list_tools", {}],
      ["shelf.find", { q: "x" }],
      ["shelf.find", { q: "nothing" }],
      ["shelf.list_resources", {}],
      ["shelf.read_resource", { uri: "shelf:note" }],
      ["shelf.get_prompt", { name: "ask", arguments: { of: "ada" } }],
      ["shelf.read_resource", { uri: "shelf:none" }],
    ]);
    expect(list.filter((event) => event.type === "tool.failed")).toHaveLength(1);
    await plain.close();
  });

  test("what a refusal says is recorded as far as its last whole word, and never as nothing", async () => {
    const { capture } = begin();
    const bodies = ["x".repeat(2_000), `it is ${"y".repeat(2_000)}`];
    const refused = capture.fetch(async () => new Response(bodies.shift() ?? "", { status: 500 }));
    const call = () =>
      refused("http://127.0.0.1:9/v1/chat/completions", { method: "POST", body: JSON.stringify(ask("x")) });
    await capture.run({}, async () => {
      for (const length of [2_000, 2_006]) expect(await (await call()).text()).toHaveLength(length);
    });
    await capture.close();
    const failed = (await events((await latest()).run_id)).filter((event) => event.type === "model.failed");
    expect(failed.map(({ data }) => data["message"])).toEqual([
      "an answer of 2000 characters whose first 1000 are one word",
      "it is ",
    ]);
  });

  test("branches that run together keep their own parents", async () => {
    const { capture } = begin();
    const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
    await capture.run({}, async (run) => {
      const branch = (name: string, depth: number): Promise<void> =>
        run.step(name, async () => {
          await wait(Math.random() * 5);
          await run.tool(`tool.${name}`, {}, () => wait(Math.random() * 5));
          if (depth > 0) await Promise.all(["l", "r"].map((side) => branch(`${name}${side}`, depth - 1)));
          run.event("memory.read", { store: name });
        });
      await Promise.all(["a", "b", "c", "d"].map((name) => branch(name, 3)));
    });
    await capture.close();
    const list = await events((await latest()).run_id);
    const names = new Map(
      list.filter((event) => event.type === "step.started").map((event) => [event.step_id, String(event.data["name"])]),
    );
    expect(names.size).toBe(4 * 15);
    for (const event of list) {
      const parent = names.get(event.parent_step_id ?? "");
      if (event.type === "tool.requested") expect(`tool.${parent}`).toBe(event.data["tool"]);
      if (event.type === "memory.read") expect(parent).toBe(event.data["store"]);
      if (event.type === "step.started" && String(event.data["name"]).length > 1)
        expect(parent).toBe(String(event.data["name"]).slice(0, -1));
    }
  });

  test("secrets do not leave the process", async () => {
    const { capture, sent } = begin();
    await capture.run({ input: `my key is ${LEAKED}` }, (run) =>
      run.tool("t", { key: LEAKED }, () => ({ key: LEAKED })),
    );
    await capture.close();
    expect(sent.join("")).toContain("tool.requested");
    expect(sent.join("")).not.toContain(LEAKED);
    const list = await events((await latest()).run_id);
    expect(list.find((event) => event.type === "tool.completed")?.redaction).toMatchObject({ status: "redacted" });
  });

  test("what cannot be recorded is a warning, where nobody else listens", async () => {
    const warned: string[] = [];
    const real = processHost();
    const host: Host = { ...real, env: {}, on: () => () => undefined, warn: (text) => void warned.push(text) };
    const capture = startCapture({ agent: "tester", url: server.url, spill: false }, host);
    await capture.run({}, (run) => {
      for (let i = 0; i < 20; i++) run.event("model.requested", {});
    });
    await capture.close();
    expect(warned.length).toBeLessThanOrEqual(5);
    expect(warned[0]).toContain("VALIDATION_ERROR");
    const [, event] = await events((await latest()).run_id);
    expect(event?.type).toBe("journal.gap");
  });

  test("what cannot be recorded does not disturb the program", async () => {
    const { capture } = begin();
    const circular: Record<string, unknown> = { n: 10n, half: "\ud800", nul: "\u0000" };
    circular["self"] = circular;
    const result = await capture.run({}, async (run) => {
      await run.tool("odd", { n: 10n, half: "\ud800x", nul: "a\u0000" } as never, () => "fine");
      await run.tool("large", { text: "y".repeat(3_000_000) }, () => "z".repeat(2_000_000));
      // A secret where it would be cut: half of it is not recorded either.
      const cut = 64 * 1024 - 20;
      await run.tool("leaky", { text: `${"y".repeat(cut)} ${LEAKED} ${"y".repeat(3_000_000)}` }, () => null);
      return run.tool("circular", circular as never, () => circular);
    });
    expect(result).toBe(circular);
    await capture.close();
    const list = await events((await latest()).run_id);
    expect(list.find((event) => event.data["tool"] === "odd")?.data["args"]).toEqual({
      n: "10",
      half: "�x",
      nul: "a�",
    });
    expect(JSON.stringify(list)).not.toContain(LEAKED.slice(0, 8));
    const leaky = list.find((event) => event.data["tool"] === "leaky");
    expect(leaky?.data["redaction"]).toMatchObject({ status: "redacted", paths: ["/args/text"] });
    expect(problems.join()).toContain("circular");
    expect(problems.join()).toContain("it is cut");
    expect(list.at(-1)?.type).toBe("run.succeeded");
  });
});

describe("a server that is not there", () => {
  test("fail-open: the program goes on, events are kept, and sent when it is back: all of them, once", async () => {
    await server.kill();
    const { capture } = begin();
    let run_id = "";
    const work = capture.run({}, async (run) => {
      ({ run_id } = run);
      for (let i = 0; i < 250; i++) await run.tool("t", { i }, () => i);
      return "done";
    });
    expect(await work).toBe("done");
    await capture.flush(500);
    expect(capture.figures.spilled).toBeGreaterThan(0);
    server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url }, ["--port", new URL(server.url).port]);
    await until(
      "all of it is there",
      async () => (await latest().catch(() => null))?.run_id === run_id && (await latest()).state === "succeeded",
      60_000,
    );
    const list = await events(run_id);
    expect(list).toHaveLength(502);
    expect(new Set(list.map((event) => event.origin?.sequence_no)).size).toBe(502);
    await capture.close();
    expect(capture.figures).toMatchObject({ recorded: 502, lost: 0 });
  });

  test("a process that ends without a word leaves its events behind; the next one sends them", async () => {
    const env = { MODEL_URL: model.url, QUARTERDECK_URL: server.url, TMPDIR: spill };
    const child = spawn(process.execPath, [AGENT, "bye", "exit"], { env: { ...process.env, ...env } });
    const code = await new Promise((resolve) => child.once("exit", resolve));
    expect(code).toBe(3);
    const { capture } = begin({ spill: path.join(spill, `quarterdeck-${process.getuid?.() ?? "user"}`, "spill") });
    await until("it is there", async () => (await latest("self").catch(() => null))?.steps === 10, 20_000);
    await capture.close();
    const run = await latest("self");
    const list = await events(run.run_id);
    expect(list.some((event) => event.type === "tool.failed")).toBe(true);
    expect(run.state).toBe("running");
  });

  test("events are neither kept in nor taken from a folder that others can reach", async () => {
    const open = tempFolder("qd-open");
    chmodSync(open, 0o777);
    const line = {
      run_id: freshRun(),
      producer_id: "evil",
      producer_epoch: 1,
      events: [{ sequence_no: 1, type: "run.started", data: { agent: "forged" } }],
    };
    writeFileSync(path.join(open, "1-abc.jsonl"), `${JSON.stringify(line)}\n`);
    // Number 1 is a process that is not gone; another number is.
    writeFileSync(path.join(open, "999999-abc.jsonl"), `${JSON.stringify(line)}\n`);
    const { capture, sent } = begin({ spill: open });
    await capture.run({}, (run) => run.tool("t", {}, () => 1));
    await capture.close();
    expect(sent.join("")).not.toContain("forged");
    expect(problems.join()).toContain("can be reached by other users");
    const away = begin({ spill: open }, { fetch: () => Promise.reject(new Error("connect ECONNREFUSED")) });
    await away.capture.run({}, (run) => run.tool("t", {}, () => 1));
    await away.capture.close();
    expect(readdirSync(open)).toHaveLength(2);
    expect(away.capture.figures.lost).toBeGreaterThan(0);
    remove(open);
  });

  test("fail-closed: no call is made that nobody heard of", async () => {
    const calls = model.requests.length;
    const away = begin({ fail: "closed" }, { fetch: () => Promise.reject(new Error("connect ECONNREFUSED")) });
    const client = away.capture.client(openai());
    // The client wraps what its fetch throws.
    await expect(away.capture.run({}, () => client.chat.completions.create(ask("x")))).rejects.toMatchObject({
      cause: { name: "CaptureUnavailable", message: expect.stringContaining("does not answer") },
    });
    let ran = false;
    await expect(away.capture.run({}, (run) => run.tool("t", {}, () => (ran = true)))).rejects.toThrow(
      /does not answer/,
    );
    expect([model.requests.length, ran]).toEqual([calls, false]);
    await away.capture.close();
  });

  test("fail-closed: a run that was stopped on the server makes no more calls", async () => {
    const { capture } = begin({ fail: "closed" });
    let made = 0;
    const work = capture.run({}, async (run) => {
      await run.tool("t", {}, () => (made += 1));
      await server.client.act(run.run_id, "cancel");
      for (let i = 0; i < 3; i++) await run.tool("t", {}, () => (made += 1));
    });
    await expect(work).rejects.toThrow(/cancelled on the server/);
    expect(made).toBe(1);
    await capture.close();
  });
});

describe("again", () => {
  test("a program that captured itself is run again, and every call is answered from the recording", async () => {
    const env = { MODEL_URL: model.url };
    const first = await cli(["--data", data, "capture", "--agent", "self", "--", process.execPath, AGENT, "why"], {
      env,
    });
    expect([first.code, first.out]).toEqual([0, expect.stringContaining("retrieving")]);
    const run_id = /run_[0-9a-z]{26}/.exec(first.err)?.[0] ?? "";
    const list = await events(run_id);
    expect(list.filter((event) => event.type === "run.started")).toHaveLength(1);
    expect(list.find((event) => event.type === "agent.started")?.data).toEqual({ name: "self" });
    const calls = model.requests.length;
    const again = await cli(["--data", data, "replay", run_id, "--", process.execPath, AGENT, "why"], { env });
    expect(again.code, again.err).toBe(0);
    // What the tools would have said themselves is not said: they were not run.
    const said = (out: string) =>
      out.split("\n").filter((line) => !["retrieving", "working", "listing", "reading"].includes(line));
    expect(said(again.out)).toEqual(said(first.out));
    for (const word of ["working", "listing", "reading"]) expect(again.out).not.toContain(word);
    expect(model.requests.length).toBe(calls);
    const other = await cli(["--data", data, "replay", run_id, "--", process.execPath, AGENT, "how"], { env });
    expect(other.code).not.toBe(0);
  });

  test("also where what it says holds a secret, which is in neither journal", async () => {
    const env = { MODEL_URL: model.url };
    const secret = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
    const program = ["--", process.execPath, AGENT, `why ${secret}`];
    const first = await cli(["--data", data, "capture", "--agent", "secretive", ...program], { env });
    expect([first.code, first.out]).toEqual([0, expect.stringContaining("retrieving")]);
    const idIn = (text: string) => /run_[0-9a-z]{26}/.exec(text)?.[0] ?? "";
    const calls = model.requests.length;
    const again = await cli(["--data", data, "replay", idIn(first.err), ...program], { env });
    expect(again.code, again.err).toBe(0);
    expect(again.out).not.toContain("working");
    expect(model.requests.length).toBe(calls);
    const { items } = await server.client.json<{ items: Run[] }>("/runs?kind=replay&limit=1");
    const journals = await Promise.all([idIn(first.err), items[0]?.run_id ?? ""].map(events));
    expect(journals.map((list) => list.filter(({ type }) => type === "tool.requested").length)).toEqual([5, 5]);
    expect(JSON.stringify(journals)).not.toContain(secret);
  });
});
