// Seven stories that capture, replay and diff were built for, each from the trouble to the answer, with the built program: an
// agent of somebody else captured; a server that is away; the same again; another prompt; another find; a failure in CI that
// travels; a payload that nobody could look at.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { RunDiff } from "../../src/contract/diff.ts";
import type { ReplaySession } from "../../src/contract/replay.ts";
import { sha256Hex } from "../../src/kit/hash.ts";
import { Client } from "../../src/sdk/client.ts";
import { startCapture } from "../../src/sdk/capture/index.ts";
import { processHost } from "../../src/sdk/capture/host.ts";
import { cli, remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.mjs");
const PRICES = 'prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }]';
let ledger: Ledger;
let model: ScriptedModel;
let data: string;
let config: string;
let server: Running;

const MANIFESTS = () => `
kind: Model
metadata: { name: large }
spec: { provider: openai-compatible, model: large-1, base_url: "${model.url}", ${PRICES} }
---
kind: Tool
metadata: { name: docs.search }
spec: { kind: http, method: POST, url: "${ledger.url}/idem", effect_class: read, idempotent: true, input_schema: { type: object, properties: { q: { type: string } } } }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object, properties: { amount: { type: integer } } } }
---
kind: Agent
metadata: { name: clerk }
spec: { model: large, instructions: You pay invoices., tools: [docs.search, pay] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`;

/** More encodings in each other than are undone: what it holds cannot be known. */
function layered(text: string): string {
  let layers = text;
  for (let n = 0; n < 12; n++) layers = Buffer.from(layers).toString("base64");
  return layers;
}
const RIDDLE = layered("an answer that nobody can look into, and some more of it");

const start = (args: string[] = []) =>
  startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: `${ledger.url},${model.url}` }, ["--config", config, ...args]);
/** Before the command: what follows `--` belongs to the process. */
const as = (token: string, ...args: string[]) => cli(["--data", data, "--token", token, ...args]);
const qd = (...args: string[]) => as("all", ...args);
const client = () => new Client({ url: server.url, token: "all" });
const idIn = (text: string): string => /run_[0-9a-z]{26}/.exec(text)?.[0] ?? "";
const typesOf = async (run_id: string) => (await client().events(run_id)).items.map((event) => event.type);
const payments = async () => Object.keys((await ledger.counts()).once).length;
const diffOf = async (a: string, b: string) => client().json<RunDiff>("/diffs", { method: "POST", body: { a, b } });

beforeAll(async () => {
  ledger = await startLedger(0);
  model = await startScriptedModel(({ messages }) => {
    const said = JSON.stringify(messages);
    if (said.includes("overload")) return { status: 503 };
    if (said.includes("riddle")) return { content: RIDDLE };
    if (!said.includes("invoices")) return { content: `Answer to ${messages.length} messages.` };
    const results = messages.filter((message) => message.role === "tool").length;
    if (results === 0)
      return { call: { name: "docs.search", args: { q: said.includes("half") ? "halves" : "terms" } } };
    if (results === 1 && !said.includes("nothing is due")) return { call: { name: "pay", args: { amount: 40 } } };
    return { content: results === 1 ? "Nothing was due." : "It is paid." };
  });
  data = tempFolder("qd-scenarios");
  config = path.join(data, "config.yaml");
  const credential = (token: string, permissions: string) =>
    `  - { principal: ${token}, token_sha256: ${sha256Hex(token)}, permissions: [${permissions}] }\n`;
  const some = '"proxy:call", "runs:read", "runs:replay", "journal:export"';
  writeFileSync(config, `credentials:\n${credential("all", '"*"')}${credential("some", some)}`);
  server = await start();
  await client().apply(MANIFESTS());
});
afterAll(async () => {
  await server.stop();
  ledger.stop();
  await model.close();
  remove(data);
});

test("1: an agent that knows nothing of this is a whole run: each call, its tokens, its cost, verified", async () => {
  const { code, out, err } = await qd("capture", "--", "node", AGENT, "chat", "What is new?", "2");
  expect([code, out]).toEqual([0, "Answer to 1 messages.\nAnswer to 3 messages.\n"]);
  const run = await client().getRun(idIn(err));
  expect(run).toMatchObject({ kind: "captured", state: "succeeded", steps: 2 });
  expect(run.cost_micro_usd).toBe(2 * (20 * 1 + 10 * 2));
  const { items } = await client().events(run.run_id);
  expect(items.filter((event) => event.type === "model.completed").map((event) => event.data)).toMatchObject([
    { content: "Answer to 1 messages.", usage: { input_tokens: 20, output_tokens: 10 } },
    { content: "Answer to 3 messages.", usage: { input_tokens: 20, output_tokens: 10 } },
  ]);
  expect((await qd("verify", run.run_id)).code).toBe(0);
});

test("2: the server is away in the middle: the program goes on, and all of it is there afterwards, once", async () => {
  const host = { ...processHost(), env: {}, on: () => () => undefined };
  const spill = path.join(data, "spill");
  const capture = startCapture(
    { agent: "steady", url: server.url, token: "all", spill, onProblem: () => undefined },
    host,
  );
  let run_id = "";
  const said = await capture.run({ input: "count" }, async (run) => {
    ({ run_id } = run);
    for (let i = 0; i < 30; i++) {
      if (i === 10) await capture.flush(2_000).then(() => server.kill());
      await run.tool("count", { i }, () => i);
    }
    return "thirty";
  });
  expect(said).toBe("thirty");
  server = await start(["--port", new URL(server.url).port]);
  await until(
    "its end is there",
    async () =>
      (
        await client()
          .getRun(run_id)
          .catch(() => null)
      )?.state === "succeeded",
  );
  await capture.close();
  const { items } = await client().events(run_id);
  expect(items).toHaveLength(62);
  expect(new Set(items.map((event) => event.origin?.sequence_no)).size).toBe(62);
  expect(items.filter((event) => event.type === "tool.completed").map((event) => event.data["result"])).toEqual(
    Array.from({ length: 30 }, (_, i) => i),
  );
});

test("3: the process again, with the same answers and no call leaving", async () => {
  const first = await qd("capture", "--", "node", AGENT, "chat", "What was that?", "2");
  const before = model.requests.length;
  const again = await qd("replay", idIn(first.err), "--", "node", AGENT, "chat", "What was that?", "2");
  expect([again.code, again.out]).toEqual([0, expect.stringContaining(first.out)]);
  expect(model.requests.length).toBe(before);
  const session = await client().json<ReplaySession>(`/replays/${idIn(again.err)}`);
  expect(session).toMatchObject({ state: "completed_exact", steps: { exact: 2, live: 0 } });
});

/** A run of the clerk that has paid, and how often was paid then. */
async function paidRun(): Promise<{ run_id: string; paid: number }> {
  const { run_id } = await client().startRun({ agent: "clerk", input: "Pay the lamp." });
  await until("it is paid", async () => (await client().getRun(run_id)).state === "succeeded");
  return { run_id, paid: await payments() };
}

test("4: would another prompt have done otherwise? The fork says so, and the difference names the prompt", async () => {
  const { run_id, paid } = await paidRun();
  const args = ["--instructions", "You pay half of invoices.", "--simulate", 'pay={"n":1}'];
  const fork = await qd("fork", run_id, "--step", "1", ...args, "--json");
  expect(fork.code).toBe(0);
  const { replay_id } = JSON.parse(fork.out) as ReplaySession;
  const diff = await diffOf(run_id, replay_id);
  expect(diff.attribution?.primary).toMatchObject({ cause: "prompt" });
  expect(await payments()).toBe(paid);
  expect(await typesOf(run_id)).toContain("run.succeeded");
});

test("5: would another find have done otherwise? The difference names what was found, and nothing is paid", async () => {
  const { run_id, paid } = await paidRun();
  const fork = await qd(
    "fork",
    run_id,
    "--step",
    "2",
    "--simulate",
    'docs.search={"terms":"nothing is due"}',
    "--json",
  );
  expect(fork.code).toBe(0);
  const { replay_id } = JSON.parse(fork.out) as ReplaySession;
  await until("the fork has ended", async () => (await client().getRun(replay_id)).state === "succeeded");
  const { items } = await client().events(replay_id);
  expect(items.at(-1)).toMatchObject({ type: "run.succeeded", data: { output: "Nothing was due." } });
  expect((await diffOf(run_id, replay_id)).attribution?.primary).toMatchObject({ cause: "tool_result" });
  expect(await payments()).toBe(paid);
});

test("6: a failure in CI leaves a file; elsewhere it is imported and runs again as it was; a changed byte is refused", async () => {
  const file = path.join(data, "failed.jsonl");
  const failed = await qd("capture", "--bundle-on-fail", file, "--", "node", AGENT, "chat", "overload");
  expect(failed.code).toBe(7);
  const run_id = idIn(failed.err);
  const elsewhere = tempFolder("qd-scenarios-2");
  const other = await startUp(elsewhere);
  const there = (...args: string[]) => cli(["--data", elsewhere, ...args]);
  try {
    expect((await there("import", file)).code).toBe(0);
    const again = await there("replay", run_id, "--", "node", AGENT, "chat", "overload");
    // The process ends as it did: with what the provider said then.
    expect([again.code, again.out]).toEqual([7, expect.stringContaining(failed.out)]);
    const bytes = readFileSync(file, "utf8");
    const changed = path.join(data, "changed.jsonl");
    writeFileSync(changed, bytes.replace("overload", "overloaD"));
    expect(await there("import", changed)).toMatchObject({ code: 2, err: expect.stringMatching(/line \d+/) });
  } finally {
    await other.stop();
    remove(elsewhere);
  }
});

test("7: a payload that nobody could look at is not kept, and its run stays here until somebody who may says otherwise", async () => {
  const layers = layered("a word that nobody will see, and some more of them");
  const asked = await qd("capture", "--", "node", AGENT, "chat", layers);
  expect([asked.code, asked.out]).toEqual([0, "Answer to 1 messages.\n"]);
  const run_id = idIn(asked.err);
  const { items } = await client().events(run_id);
  const unseen = items.find((event) => event.type === "model.requested");
  expect(unseen).toMatchObject({ redaction: { status: "failed" } });
  expect(JSON.stringify(items)).not.toContain(layers.slice(0, 64));

  const file = path.join(data, "risk.jsonl");
  const again = ["replay", run_id, "--", "node", AGENT, "chat", layers];
  expect(await qd("export", run_id, "-o", file)).toMatchObject({
    code: 1,
    err: expect.stringContaining("PRIVACY_RISK"),
  });
  for (const refused of [await qd(...again), await qd("replay", run_id)])
    expect(refused).toMatchObject({ code: 2, err: expect.stringContaining("could not be redacted") });

  const override = ["runs", "override-privacy", run_id, "--reason", "the customer agreed"];
  expect(await as("some", ...override)).toMatchObject({ code: 3, err: expect.stringContaining("privacy:override") });
  expect((await qd("runs", "override-privacy", run_id)).code).toBe(2);
  expect((await qd(...override)).code).toBe(0);
  expect((await client().events(run_id)).items.at(-1)).toMatchObject({
    type: "privacy.overridden",
    actor: { id: "all", kind: "user" },
    data: { reason: "the customer agreed" },
  });
  expect(await client().getRun(run_id)).toMatchObject({ state: "succeeded" });
  expect((await as("some", "export", run_id, "-o", file)).code).toBe(0);
  expect((await qd("verify", "--file", file)).code).toBe(0);
  expect(await qd(...again)).toMatchObject({ code: 0, out: expect.stringContaining("Answer to 1 messages.") });
  // What came is there for who may.
  expect(await as("some", "runs", "quarantined", run_id)).toMatchObject({ code: 3 });
  const shown = await qd("runs", "quarantined", run_id, "--json");
  expect(JSON.parse(shown.out)).toMatchObject({
    items: [{ seq: unseen?.seq, type: "model.requested", at: "/request" }],
  });
  expect(shown.out).toContain(layers.slice(0, 64));
  // There is nothing left to override, here or where nothing was ever hidden.
  expect(await qd(...override)).toMatchObject({ code: 1, err: expect.stringContaining("nothing to override") });
});

test("7: an answer that nobody could look at is given again once somebody who may has said so, and is nowhere in plain sight", async () => {
  const asked = await qd("capture", "--", "node", AGENT, "chat", "a riddle");
  expect([asked.code, asked.out]).toEqual([0, `${RIDDLE}\n`]);
  const run_id = idIn(asked.err);
  const hidden = async (id: string) =>
    expect(JSON.stringify((await client().events(id)).items)).not.toContain(RIDDLE.slice(0, 64));
  await hidden(run_id);
  expect(await qd("runs", "quarantined", run_id)).toMatchObject({
    code: 1,
    err: expect.stringContaining("PRIVACY_RISK"),
  });
  const may = async (id: string) =>
    expect((await qd("runs", "override-privacy", id, "--reason", "the customer agreed")).code).toBe(0);
  await may(run_id);
  const again = await qd("replay", run_id, "--", "node", AGENT, "chat", "a riddle");
  expect([again.code, again.out]).toEqual([0, expect.stringContaining(RIDDLE)]);
  // The replay has no more in plain sight than its source, and what it has is its own.
  const replay_id = idIn(again.err);
  await hidden(replay_id);
  await may(replay_id);
  for (const id of [run_id, replay_id])
    expect((await qd("runs", "quarantined", id, "--json")).out).toContain(RIDDLE.slice(0, 64));
  // Elsewhere nobody has the key: the file says what there was, and not what it said.
  const file = path.join(data, "riddle.jsonl");
  expect((await qd("export", run_id, "--profile", "full", "-o", file)).code).toBe(0);
  expect((await qd("verify", "--file", file)).code).toBe(0);
  expect(readFileSync(file, "utf8")).not.toContain('"type":"artifact"');
});
