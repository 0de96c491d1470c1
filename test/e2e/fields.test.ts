// Rules for single fields, from a configuration file: what they take away is nowhere, the client gets its answer all the same.
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { IngestAnswer } from "../../src/contract/ingest.ts";
import type { Run } from "../../src/contract/runs.ts";
import { freshRun } from "../support/engine.ts";
import { cli, remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

let data: string;
let server: Running;
let model: ScriptedModel;

beforeAll(async () => {
  data = tempFolder("qd-fields");
  model = await startScriptedModel(() => ({ content: "The diagnosis is confidential-7731." }));
  const config = path.join(data, "config.yaml");
  writeFileSync(
    config,
    `private_origins: ["${new URL(model.url).origin}"]
fields:
  - { type: model.completed, path: /content, do: hash_only }
  - { type: model.requested, path: /request/messages, do: drop }
  - { type: "tool.*", path: /**/ssn, do: drop }
  - { path: /result/mail, do: redact_required }
  - { path: /result, do: raw_allowed }
`,
  );
  server = await startUp(data, {}, ["--config", config]);
  await server.client.apply(`
kind: Model
metadata: { name: large }
spec: { provider: openai-compatible, model: large-1, base_url: "${model.url}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`);
});
afterAll(async () => {
  await server.stop();
  await model.close();
  remove(data);
});

/** Whether a text is in any file of the data folder. */
const isOnDisk = (text: string): boolean => spawnSync("grep", ["-rqaF", text, data]).status === 0;
const latest = async (): Promise<Run> => {
  const answer = await fetch(`${server.url}/api/v1/runs?limit=1`);
  return ((await answer.json()) as { items: Run[] }).items[0] as Run;
};

test.each([false, true])("through the proxy, stream: %s", async (stream) => {
  const body = { model: "large-1", stream, messages: [{ role: "user", content: "patient-4242 asks" }] };
  const answer = await fetch(`${server.url}/proxy/openai/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer x", "quarterdeck-session": String(stream) },
    body: JSON.stringify(body),
  });
  expect([answer.status, (await answer.text()).includes("confidential")]).toEqual([200, true]);
  const { items } = await server.client.events((await latest()).run_id);
  const [asked, said] = ["model.requested", "model.completed"].map((type) =>
    items.find((event) => event.type === type),
  );
  expect(asked?.data["request"]).toMatchObject({ model: "large-1" });
  expect(asked?.data["request"]).not.toHaveProperty("messages");
  expect(asked?.redaction).toMatchObject({ paths: ["/request/messages"], rules: ["field:drop"] });
  expect(said?.data).toMatchObject({
    content: null,
    raw_withheld: true,
    content_hmac: expect.stringMatching(/^[0-9a-f]{64}$/),
  });
});

test("through the ingest API", async () => {
  const run_id = freshRun();
  const result = { ssn: "ssn-078-05-1120", mail: "reach me at ada@example.com", token: "no rule looks here" };
  const events = [
    { sequence_no: 1, type: "run.started", data: { agent: "a" } },
    { sequence_no: 2, type: "tool.requested", step_id: "t", data: { tool: "x", args: { deep: [{ ssn: "ssn-1" }] } } },
    { sequence_no: 3, type: "tool.completed", step_id: "t", data: { result } },
  ];
  const answer = await fetch(`${server.url}/api/v1/runs/${run_id}/events`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ producer_id: "p", events }),
  });
  expect(((await answer.json()) as IngestAnswer).items.map((item) => item.status)).toEqual(
    events.map(() => "committed"),
  );
  const { items } = await server.client.events(run_id);
  expect(items[1]?.data["args"]).toEqual({ deep: [{}] });
  expect(items[2]?.data["result"]).toEqual({
    mail: expect.stringMatching(/^reach me at \[redacted:/),
    token: "no rule looks here",
  });
});

test("what was taken away is nowhere on the disk, nor in an export", async () => {
  const file = path.join(data, "all.jsonl");
  expect((await cli(["export", "--all", "-o", file], { data })).code).toBe(0);
  await server.client.json("/journal/verify", { method: "POST", body: {} });
  for (const text of ["patient-4242", "confidential-7731", "ssn-078-05-1120", "ada@example.com"])
    expect([text, isOnDisk(text)]).toEqual([text, false]);
  expect(isOnDisk("no rule looks here")).toBe(true);
});

test("a rule that is none is refused by its field", async () => {
  const config = path.join(data, "bad.yaml");
  writeFileSync(config, "fields: [{ path: no-slash, do: hide }]\n");
  const refused = await cli(["up", "--config", config, "--port", "0", "--data", path.join(data, "other")]);
  expect([refused.code, refused.err]).toEqual([2, expect.stringContaining("/fields/0")]);
});
