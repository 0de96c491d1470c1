// Secrets in the tool calls of agents that we do not run: the tool gets its arguments and the agent its results as they are;
// the journal, its artifacts and whoever approves see neither. Also over a kill, a remote worker and a replay.
import { createServer } from "node:http";
import type { Server } from "node:http";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { Approval, Run } from "../../src/contract/runs.ts";
import { Client as Api } from "../../src/sdk/client.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.mjs");
const ASKED = `ghp_${"a1B2".repeat(9)}`;
const TOLD = `ghp_${"z9Y8".repeat(9)}`;
const LARGE = 20_000;
let echo: Server;
let origin: string;
let data: string;
let server: Running;
/** Bodies that reached the tools. */
const reached: string[] = [];

const tool = (name: string, more = "") => `
kind: Tool
metadata: { name: ${name} }
spec: { kind: http, method: POST, url: "${origin}/${name}", effect_class: write, attempts_max: 1, input_schema: { type: object }${more} }
---`;
const MANIFESTS = () => `${["push", "ask", "large"].map((name) => tool(name)).join("")}
${tool("far", ", runs_on: [far]")}
${tool("fails")}
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: ask, effect: require_approval, match: { tools: [ask] }, reason: money }
    # The policy sees what was asked for.
    - { id: gitlab, effect: deny, match: { tools: [push] }, when: 'args.token.startsWith("glpat")', reason: not_that_one }
    - { id: all, effect: allow }
`;

const up = () => startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: origin });
beforeAll(async () => {
  echo = createServer((req, res) => {
    let text = "";
    req.on("data", (chunk: Buffer) => (text += chunk.toString()));
    req.on("end", () => {
      reached.push(text);
      const fails = req.url === "/fails";
      res.writeHead(fails ? 400 : 200, { "content-type": "application/json" });
      const filler = req.url === "/push" || req.url === "/ask" ? "" : "lorem ipsum ".repeat(LARGE / 12);
      res.end(fails ? `no ${TOLD}` : JSON.stringify({ filler, token: TOLD }));
    });
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => echo.once("listening", resolve));
  origin = `http://127.0.0.1:${(echo.address() as AddressInfo).port}`;
  data = tempFolder("qd-mcp-privacy");
  server = await up();
  await server.client.apply(MANIFESTS());
});
afterAll(async () => {
  await server?.stop();
  echo?.close();
  remove(data);
});

async function call(agent: string, name: string, args: object, wait_ms = 20_000) {
  const client = new Client({ name: "test", version: "1" });
  const requestInit = { headers: { "quarterdeck-agent": agent } };
  await client.connect(new StreamableHTTPClientTransport(new URL(`${server.url}/mcp`), { requestInit }));
  const _meta = { "quarterdeck/wait_ms": wait_ms };
  const result = await client.callTool({ name, arguments: { ...args }, _meta });
  await client.close();
  const [block] = result.content as { type: string; text: string }[];
  return { is_error: result.isError === true, text: block?.text ?? "" };
}
const runOf = async (agent: string) =>
  (await server.client.json<{ items: Run[] }>(`/runs?target=${agent}`)).items[0] as Run;
const eventsOf = async (run_id: string): Promise<Event[]> => (await server.client.events(run_id)).items;
const of = (events: readonly Event[], type: string) => events.find((event) => event.type === type)?.data;

/** Every file of the data folder that says it: artifacts, the database's own files and its log. */
function filesWith(text: string, folder = data): string[] {
  return readdirSync(folder).flatMap((name) => {
    const file = path.join(folder, name);
    if (statSync(file).isDirectory()) return filesWith(text, file);
    return statSync(file).isFile() && contentOf(file).includes(text) ? [file] : [];
  });
}

/** Artifacts that compress well are kept compressed. */
function contentOf(file: string): Buffer {
  const bytes = readFileSync(file);
  return file.endsWith(".gz") ? gunzipSync(bytes) : bytes;
}

test("a secret in arguments and result reaches the tool and the agent, and nothing that is kept", async () => {
  const answer = await call("pusher", "push", { branch: "main", token: ASKED });
  expect(answer).toEqual({ is_error: false, text: JSON.stringify({ filler: "", token: TOLD }) });
  expect(JSON.parse(reached.at(-1) ?? "")).toEqual({ branch: "main", token: ASKED });
  const list = await eventsOf((await runOf("pusher")).run_id);
  expect(of(list, "tool.requested")).toMatchObject({
    args: { branch: "main", token: expect.not.stringContaining(ASKED) },
    redaction: { status: "redacted", rules: ["github"], paths: ["/args/token"] },
  });
  expect(of(list, "tool.completed")).toMatchObject({ redaction: { rules: ["github"], paths: ["/result/token"] } });
  expect([...filesWith(ASKED), ...filesWith(TOLD)]).toEqual([]);
  // An exported run leaves the box behind: elsewhere nobody could open it.
  const box = of(list, "tool.requested")?.["args_box"] as { digest: string };
  const file = path.join(data, "run.jsonl");
  await cli(["--data", data, "export", (await runOf("pusher")).run_id, "-o", file]);
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { type: string; digest?: string });
  expect(
    lines.filter((line) => line.type === "artifact" || line.type === "missing").map((line) => line.digest),
  ).not.toContain(box.digest);
  // What holds nothing is recorded as it is.
  await call("pusher", "push", { branch: "main", token: "none" });
  const [plain] = (await eventsOf((await runOf("pusher")).run_id)).filter(
    ({ type, data: { args } }) => type === "tool.requested" && (args as { token?: string }).token === "none",
  );
  expect(Object.keys(plain?.data ?? {}).sort()).toEqual(["args", "tool"]);
});

test("the policy decides about what was asked for, not about what is recorded", async () => {
  const refused = await call("denied", "push", { token: `glpat-${"x7Yz".repeat(5)}` });
  expect(refused).toEqual({ is_error: true, text: "Denied by policy: not_that_one" });
  expect(JSON.stringify(await eventsOf((await runOf("denied")).run_id))).not.toContain("x7Yzx7Yz");
});

test("who approves sees no secret; the call is made with it, also when the server was killed meanwhile", async () => {
  const waits = await call("payer", "ask", { eur: 5, token: ASKED }, 100);
  expect(waits.text).toContain("needs the approval");
  const { items } = await server.client.json<{ items: Approval[] }>("/approvals?state=pending");
  expect(JSON.stringify(items)).not.toContain(ASKED);
  expect(JSON.stringify(items)).toContain('"eur":5');
  const before = reached.length;
  await server.kill();
  server = await up();
  await new Api({ url: server.url, principal: "bob" }).decide(items[0]?.approval_id ?? "", "approve", "fine");
  await until("it is made", async () => reached.length > before);
  expect(JSON.parse(reached.at(-1) ?? "")).toEqual({ eur: 5, token: ASKED });
  // Who asks again has the outcome of that call, and no second one is made.
  expect(await call("payer", "ask", { eur: 5, token: ASKED })).toMatchObject({ is_error: false });
  expect(reached.length).toBe(before + 1);
  expect(filesWith(ASKED)).toEqual([]);
});

test("a call whose arguments are gone is not made with those that are shown", async () => {
  await call("loser", "ask", { eur: 6, token: ASKED }, 100);
  const run = await runOf("loser");
  const { items } = await server.client.json<{ items: Approval[] }>("/approvals?state=pending");
  const box = of(await eventsOf(run.run_id), "tool.proposed")?.["args_box"] as { digest: string };
  const [file = ""] = filesOf(box.digest);
  await server.kill();
  writeFileSync(file, "something else");
  server = await up();
  const before = reached.length;
  await new Api({ url: server.url, principal: "bob" }).decide(items[0]?.approval_id ?? "", "approve", "fine");
  const list = await until("it is refused", async () => {
    const now = await eventsOf(run.run_id);
    return of(now, "tool.denied") ? now : null;
  });
  expect(of(list, "tool.denied")).toMatchObject({ reason: "args_lost" });
  expect(reached.length).toBe(before);
});

/** Files of an artifact. */
function filesOf(digest: string): string[] {
  const hex = digest.replace("sha256:", "").slice(2);
  const below = (folder: string): string[] =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      const file = path.join(folder, entry.name);
      return entry.isDirectory() ? below(file) : entry.name.startsWith(hex) ? [file] : [];
    });
  return below(path.join(data, "artifacts"));
}

test("a large result is an artifact without the secret, here and from a worker far away; a failure says none", async () => {
  const token = await mint(server, "far", ["far"]);
  const folder = tempFolder("qd-mcp-privacy-worker");
  const env = { QUARTERDECK_PRIVATE_ORIGINS: origin };
  const worker = await startWorker(folder, { control: server.url, token, args: ["--labels", "far"], env });
  for (const name of ["large", "far"]) {
    const answer = await call(name, name, { token: ASKED });
    expect(JSON.parse(answer.text), name).toMatchObject({ token: TOLD });
    expect(answer.text.length).toBeGreaterThan(LARGE - 100);
    const completed = of(await eventsOf((await runOf(name)).run_id), "tool.completed");
    expect(completed, name).toMatchObject({ redaction: { paths: ["/result/token"] }, result_ref: {} });
    const [kept = ""] = filesOf((completed?.["result_ref"] as { digest: string } | undefined)?.digest ?? "");
    expect(contentOf(kept).length).toBeGreaterThan(LARGE - 100);
  }
  const failed = await call("failing", "fails", { token: ASKED });
  expect(failed).toMatchObject({ is_error: true, text: expect.not.stringContaining(TOLD) });
  expect([...filesWith(TOLD), ...filesWith(ASKED), ...filesWith(TOLD, folder)]).toEqual([]);
  await worker.stop();
  remove(folder);
});

test("a process that calls with a secret is run again, and its replay keeps none either", async () => {
  const qd = (...args: string[]) => cli(["--data", data, ...args]);
  const calls = JSON.stringify([["push", { token: ASKED }]]);
  const idIn = (text: string) => /run_[0-9a-z]{26}/.exec(text)?.[0] ?? "";
  const first = await qd("capture", "--agent", "tooled", "--", "node", AGENT, "tools", calls);
  expect([first.code, first.out]).toEqual([0, expect.stringContaining(TOLD)]);
  const before = reached.length;
  const again = await qd("replay", idIn(first.err), "--", "node", AGENT, "tools", calls);
  expect([again.code, again.err]).toEqual([0, expect.stringContaining("completed_exact")]);
  // The result is given as it was recorded.
  expect(again.out).not.toContain(TOLD);
  const other = calls.replace(ASKED, `ghp_${"q5W6".repeat(9)}`);
  expect((await qd("replay", idIn(first.err), "--", "node", AGENT, "tools", other)).code).not.toBe(0);
  expect(reached.length).toBe(before);
  expect([...filesWith(ASKED), ...filesWith(TOLD), ...filesWith("q5W6q5W6")]).toEqual([]);
  const verified = await server.client.json("/journal/verify", { method: "POST", body: {} });
  expect(verified).toMatchObject({ ok: true });
});
