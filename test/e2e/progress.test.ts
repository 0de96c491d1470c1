// What a call says while it is being made: tokens of a model and notes of a tool, from workers in this process and from remote
// ones, to whoever watches the run. The journal has the outcome alone.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { Progress } from "../../src/contract/progress.ts";
import { cli, remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const WORDS = Array.from({ length: 12 }, (_, i) => `word${i} `);
const ANSWER = WORDS.join("").trim();
/** An MCP server whose tool tells how far it is. */
const SLOW = `
import { createInterface } from "node:readline";
const send = (message) => console.log(JSON.stringify({ jsonrpc: "2.0", ...message }));
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (method === "initialize") send({ id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } } });
  if (method === "tools/list") send({ id, result: { tools: [{ name: "work", inputSchema: { type: "object" } }] } });
  if (method !== "tools/call") continue;
  for (let progress = 1; progress <= 3; progress++) {
    send({ method: "notifications/progress", params: { progressToken: params._meta.progressToken, progress, total: 3, message: "part" } });
    await new Promise((resolve) => setTimeout(resolve, 120));
  }
  send({ id, result: { content: [{ type: "text", text: "worked" }] } });
}`;

describe.each(["all", "control"])("role %s", (role) => {
  const data = tempFolder("qd-progress");
  let model: ScriptedModel;
  let server: Running;
  let worker: WorkerProcess | null = null;

  beforeAll(async () => {
    model = await startScriptedModel(({ messages }) =>
      messages.some(({ role: who }) => who === "tool")
        ? { content: ANSWER, pause_ms: 40 }
        : { call: { name: "slow__work", args: {} } },
    );
    const slow = path.join(data, "slow.mjs");
    writeFileSync(slow, SLOW);
    server = await startUp(data, { QUARTERDECK_ROLE: role, QUARTERDECK_PRIVATE_ORIGINS: model.url });
    await server.client.apply(`
kind: Model
metadata: { name: m }
spec: { provider: openai-compatible, model: m-1, base_url: "${model.url}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Tool
metadata: { name: slow }
spec: { kind: mcp, transport: stdio, command: ["node", "${slow}"], tools: [{ name: work, effect_class: read, idempotent: true }] }
---
kind: Agent
metadata: { name: a }
spec: { model: m, instructions: be quick, tools: ["slow.*"] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
`);
    if (role === "all") return;
    worker = await startWorker(path.join(data, "worker"), {
      control: server.url,
      token: await mint(server, "hand"),
      env: { QUARTERDECK_PRIVATE_ORIGINS: model.url },
    });
  });
  afterAll(async () => {
    await worker?.stop();
    await server.stop();
    await model.close();
    remove(data);
  });

  test("who watches sees it as it comes; who does not ask for it sees events alone", async () => {
    const { run_id } = await server.client.startRun({ agent: "a", input: "go" });
    const seen: (Progress | Event)[] = [];
    const plain: Event[] = [];
    const both = [
      (async () => {
        for await (const event of server.client.watch(run_id, 0, (said) => seen.push(said))) seen.push(event);
      })(),
      (async () => {
        for await (const event of server.client.watch(run_id)) plain.push(event);
      })(),
    ];
    await Promise.all(both);
    const said = seen.filter((one): one is Progress => "kind" in one && !("seq" in one));
    const tokens = said.filter(({ kind }) => kind === "tokens");
    expect(tokens.map(({ text }) => text).join("")).toBe(ANSWER);
    // Gathered for a moment, and still in many parts.
    expect(tokens.length).toBeGreaterThan(3);
    expect(tokens.length).toBeLessThan(WORDS.length);
    const notes = said.filter(({ kind }) => kind === "note");
    expect(notes.map(({ text }) => text)).toContain("part (2 of 3)");
    const answered = seen.findLastIndex((one) => "type" in one && one.type === "model.completed");
    expect(seen.findLastIndex((one) => !("seq" in one))).toBeLessThan(answered);
    expect(plain.every((event) => event.seq > 0)).toBe(true);
    expect(plain.map((event) => event.type)).not.toContain("tool.progress");
  });

  test("run --tokens prints it before what came of it", async () => {
    const { out, code } = await cli(["run", "a", "--input", "go", "--tokens", "--url", server.url]);
    expect(code).toBe(0);
    expect(out).toMatch(/part \(2 of 3\)[^]*← worked[^]*\n {6}word0 word1 [^]*word11\n[^]*◆ model word0/);
  });
});

test("a worker tells only of jobs that it has", async () => {
  const data = tempFolder("qd-progress-foreign");
  const server = await startUp(data);
  const token = await mint(server, "hand");
  const item = {
    tenant_id: "ten_0000000000e008000000000001",
    run_id: "run_00000000000000000000000001",
    step: 1,
    attempt: 1,
  };
  const tell = (body: object) =>
    fetch(`${server.url}/api/v1/worker/progress`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ instance: "w", ...body }),
    });
  const taken = await tell({ items: [{ ...item, kind: "tokens", text: "not mine" }] });
  expect([taken.status, await taken.json()]).toEqual([200, { taken: 0 }]);
  expect((await tell({ items: [{ ...item, kind: "shout", text: "?" }] })).status).toBe(400);
  await server.stop();
  remove(data);
});
