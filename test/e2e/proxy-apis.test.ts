// What unmodified clients ask of the proxy besides answers: models, embeddings, counts of tokens; and what it does not take.
import path from "node:path";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { cli, remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.mjs");
const PRICES = 'prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }]';
const MANIFESTS = () => `
kind: Model
metadata: { name: small }
spec: { provider: openai-compatible, model: small-1, base_url: "${model.url}", ${PRICES} }
---
kind: Model
metadata: { name: claude }
spec: { provider: anthropic, model: claude-1, base_url: "${model.url}", ${PRICES} }
---
kind: Model
metadata: { name: secret }
spec: { provider: openai-compatible, model: secret-1, base_url: "${model.url}", ${PRICES} }
---
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: no, effect: deny, match: { models: [secret] }, reason: not_this_model }
    - { id: all, effect: allow }
`;
let model: ScriptedModel;
let data: string;
let server: Running;

beforeAll(async () => {
  model = await startScriptedModel(() => ({ content: "hello" }));
  data = tempFolder("qd-proxy-apis");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url });
  await server.client.apply(MANIFESTS());
});
afterAll(async () => {
  await server.stop();
  await model.close();
  remove(data);
});

const qd = (...args: string[]) => cli(["--data", data, ...args]);
const idIn = (text: string) => /run_[0-9a-z]{26}/.exec(text)?.[0] ?? "";
const openai = () => new OpenAI({ baseURL: `${server.url}/proxy/openai/v1`, apiKey: "any", maxRetries: 0 });

test("are captured, paid for by what went in, and answered again from the recording", async () => {
  const first = await qd("capture", "--agent", "asking", "--", "node", AGENT, "others", "What is new?");
  expect(first.code, first.err + first.out).toBe(0);
  expect(first.out.split("\n")).toEqual([
    "secret of openai-compatible",
    "small of openai-compatible",
    "claude",
    expect.stringMatching(/^(-?[\d.]+ ?){3}; (-?[\d.]+ ?){3}$/),
    expect.stringMatching(/^\d+$/),
    "",
  ]);
  const run_id = idIn(first.err);
  // 20 tokens went in; counting costs nothing.
  expect(await server.client.getRun(run_id)).toMatchObject({ steps: 2, cost_micro_usd: 20, state: "succeeded" });
  const { items } = await server.client.events(run_id);
  expect(items.filter(({ type }) => type === "model.requested").map((event) => event.data["api"])).toEqual([
    "openai.embeddings",
    "anthropic.count_tokens",
  ]);
  const before = model.requests.length;
  const again = await qd("replay", run_id, "--", "node", AGENT, "others", "What is new?");
  expect([again.code, again.out]).toEqual([0, first.out]);
  expect(again.err).toContain("completed_exact");
  expect(model.requests.length).toBe(before);
});

test("are governed like any call", async () => {
  const before = model.requests.length;
  await expect(openai().embeddings.create({ model: "secret", input: "x" })).rejects.toMatchObject({
    status: 403,
    code: "not_this_model",
  });
  expect(model.requests.length).toBe(before);
});

test("one model is shown by its name; what there is not is refused as the provider would", async () => {
  expect(await openai().models.retrieve("small")).toMatchObject({ id: "small", object: "model" });
  await expect(openai().models.retrieve("large")).rejects.toMatchObject({ status: 404, code: "NOT_FOUND" });
  const anthropic = new Anthropic({ baseURL: `${server.url}/proxy/anthropic`, apiKey: "any", maxRetries: 0 });
  expect(await anthropic.models.retrieve("claude")).toMatchObject({ id: "claude", type: "model" });
  await expect(openai().images.generate({ model: "small", prompt: "x" })).rejects.toMatchObject({
    status: 404,
    message: expect.stringContaining("POST /proxy/openai/v1/chat/completions"),
  });
  await expect(
    openai().audio.transcriptions.create({ model: "small", file: new File(["x"], "x.wav") }),
  ).rejects.toMatchObject({ status: 404, code: "NOT_FOUND" });
});
