// Tasks by intent: routed by what they mind, over real providers on the wire; what must stay at home never leaves.
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { ReplaySession } from "../../src/contract/replay.ts";
import type { Task } from "../../src/contract/tasks.ts";
import type { Fire } from "../../src/contract/triggers.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ChatAnswer, ScriptedModel } from "../support/scripted-model.ts";

let cloud: ScriptedModel;
let home: ScriptedModel;
let data: string;
let server: Running;
/** What the local model answers, in turn; then it is well again. */
let local: ChatAnswer[] = [];

const price = (usd: string) =>
  `prices: [{ from: "2020-01-01", input_usd_per_mtok: ${usd}, output_usd_per_mtok: ${usd} }]`;
const MANIFESTS = () => `
kind: Model
metadata: { name: llama }
spec: { provider: openai-compatible, model: llama-1, base_url: "${home.url}", engine: local, attempts_max: 1, ${price("0")} }
---
kind: Model
metadata: { name: big }
spec: { provider: openai-compatible, model: big-1, base_url: "${cloud.url}", attempts_max: 1, ${price("1")} }
---
kind: Model
metadata: { name: dear }
spec: { provider: openai-compatible, model: dear-1, base_url: "${cloud.url}", tier: tier2, attempts_max: 1, ${price("1")} }
---
kind: Agent
metadata: { name: writer }
spec: { model: big, instructions: You sum up., max_output_tokens: 100 }
---
kind: Intent
metadata: { name: summarise }
spec: { agent: writer, routes: [llama, dear, big], input: "Sum up \${input.text}", budget_usd: "0.01", budget_cap_usd: "0.05" }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }, { id: no-dear, effect: deny, match: { models: [dear] } }] }
`;

beforeAll(async () => {
  cloud = await startScriptedModel(({ model }) => ({ content: `${model} sums up.` }));
  home = await startScriptedModel(() => local.shift() ?? { content: "llama sums up." });
  data = tempFolder("qd-tasks");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: `${cloud.url},${home.url}` });
  await server.client.apply(MANIFESTS());
});
afterAll(async () => {
  await server?.stop();
  for (const model of [cloud, home]) await model?.close().catch(() => undefined);
  remove(data);
});
beforeEach(() => {
  local = [];
  cloud.requests.length = 0;
});

const submit = (body: object, headers: Record<string, string> = {}) =>
  server.client.json<Task>("/tasks", {
    method: "POST",
    body: { intent: "summarise", params: { text: "it" }, ...body },
    headers,
  });
const ended = (task: Task) =>
  until(`task ${task.task_id} ends`, async () => {
    const now = await server.client.json<Task>(`/tasks/${task.task_id}`);
    return ["OK", "ERROR"].includes(now.status) ? now : null;
  });
const done = async (body: object) => ended(await submit(body));
const eventsOf = async (task: Task) =>
  (await server.client.json<{ items: Event[] }>(`/runs/${task.task_id}/events`)).items;
const verified = () => server.client.json("/journal/verify", { method: "POST", body: {} });
const DOWN: ChatAnswer = { status: 500, content: "out of memory" };

test("a task is done by the first of its intent's models, and the decision is on record with its reason", async () => {
  const task = await done({ metadata: { team: "blue" }, priority: "high" });
  expect(task).toMatchObject({
    intent: "summarise@1",
    status: "OK",
    result: "llama sums up.",
    engine: { route: "hybrid", model: "llama", tier: "tier0", chosen_by: "intent", reason: "the first of summarise" },
    error: null,
  });
  const events = await eventsOf(task);
  expect(events[0]?.data).toMatchObject({ labels: { team: "blue" }, priority: 8, budget: { cost_micro_usd: 10_000 } });
  expect(events[1]).toMatchObject({
    type: "routing.decided",
    data: { model: "llama", engine: "local", reason: "the first of summarise" },
  });
  expect(home.requests.at(-1)?.messages.at(-1)?.content).toBe("Sum up it");
  expect(cloud.requests).toEqual([]);
});

test("a provider that fails is followed by the next one, past what the policy denies; and an exact replay decides the same", async () => {
  local = [DOWN];
  const task = await done({});
  expect(task).toMatchObject({
    status: "OK",
    result: "big-1 sums up.",
    engine: { model: "big", tier: "tier1", chosen_by: "fallback" },
  });
  const routed = (await eventsOf(task)).filter(({ type }) => type === "routing.decided");
  expect(routed.map(({ data: { model, reason } }) => [model, reason])).toEqual([
    ["llama", "the first of summarise"],
    ["dear", expect.stringMatching(/^llama: /)],
    ["big", "dear: denied_by_rule"],
  ]);
  expect(cloud.requests.map(({ model }) => model)).toEqual(["big-1"]);
  const body = { run_id: task.task_id, mode: "exact" };
  const replay = await server.client.json<ReplaySession>("/replays", { method: "POST", body });
  expect(replay).toMatchObject({ state: "completed_exact" });
  expect(cloud.requests).toHaveLength(1);
  expect(await verified()).toMatchObject({ ok: true });
});

test("a local-only task never reaches the cloud: not when its model fails, not when it is tried again, not in a fork", async () => {
  local = [DOWN, DOWN];
  const task = await done({ sla: { privacy: "local-only" }, preferred_engine: "api" });
  expect(task).toMatchObject({
    status: "ERROR",
    engine: { route: "local", model: "llama" },
    error: { message: expect.any(String) as unknown },
  });
  const again = await server.client.act(task.task_id, "retry");
  expect(await ended({ ...task, task_id: again.run_id })).toMatchObject({
    status: "ERROR",
    engine: { route: "local" },
  });

  const good = await done({ sla: { privacy: "local-only" } });
  expect(good).toMatchObject({ status: "OK", result: "llama sums up." });
  const fork = await cli(["fork", good.task_id, "--step", "1", "--model", "big", "--json", "--url", server.url]);
  const session = JSON.parse(fork.out) as ReplaySession;
  const run = await until("the fork ends", async () => {
    const found = await server.client.getRun(session.replay_id);
    return ["succeeded", "failed", "policy_blocked"].includes(found.state) ? found : null;
  });
  expect([run.state, run.reason]).toEqual(["policy_blocked", "privacy_local_only"]);
  expect(cloud.requests).toEqual([]);
});

test("a model that has become somebody else's is not asked by a task that was routed before", async () => {
  local = [{ content: "", call: { name: "missing", args: {} }, delay_ms: 1_500 }];
  const task = await submit({ sla: { privacy: "local-only" } });
  const sold = MANIFESTS().replace("engine: local, ", "").replaceAll(home.url, cloud.url).split("---")[0] ?? "";
  await server.client.apply(sold);
  expect(await ended(task)).toMatchObject({ status: "ERROR", error: { code: "privacy_local_only" } });
  expect(cloud.requests).toEqual([]);
  await server.client.apply(MANIFESTS());
});

test("while it goes on it is shown with the model that is asked", async () => {
  local = [DOWN];
  const first = await submit({});
  expect(["PENDING", "RUNNING", "OK"]).toContain(first.status);
  expect(await ended(first)).toMatchObject({ status: "OK", engine: { model: "big" } });
  local = [{ content: "slow", delay_ms: 800 }];
  const slow = await submit({ sla: { privacy: "local-only" } });
  expect(await server.client.json<Task>(`/tasks/${slow.task_id}`)).toMatchObject({
    status: "RUNNING",
    engine: {
      route: "local",
      model: "llama",
      chosen_by: "task",
      reason: "the first of summarise; left out: dear, big",
    },
    result: null,
    error: null,
  });
  expect(await ended(slow)).toMatchObject({ status: "OK", result: "slow" });
});

test("what it may cost holds, and never passes what the intent allows", async () => {
  const dear = await done({ preferred_engine: "api", sla: { budget_usd: "0.000001" } });
  expect(dear).toMatchObject({ status: "ERROR", run_state: "budget_exceeded" });
  const task = await done({ sla: { budget_usd: "1000" } });
  expect((await eventsOf(task))[0]?.data["budget"]).toEqual({ cost_micro_usd: 50_000 });
  expect(cloud.requests).toEqual([]);
});

test("what cannot be done is refused and says why; the same key is one task; a run that is none is not found", async () => {
  const refused = (body: object) =>
    submit(body).then(
      () => "taken",
      (error: Error) => error.message,
    );
  expect(await refused({ intent: "fly" })).toContain("There is no intent fly in environment dev");
  expect(await refused({ params: {} })).toContain("${input.text} refers to nothing");
  expect(await refused({ sla: { privacy: "secret" } })).toContain("/sla/privacy");
  const key = { "idempotency-key": "task-1" };
  const [one, two] = [await submit({}, key), await submit({}, key)];
  expect(one.task_id).toBe(two.task_id);
  const run = await server.client.startRun({ agent: "writer", input: "hello" });
  await expect(server.client.json(`/tasks/${run.run_id}`)).rejects.toThrow("was not asked for as a task");
});

test("a trigger can have a task done", async () => {
  await server.client.apply(`kind: Trigger
metadata: { name: digest }
spec: { intent: summarise, priority: 1, input: { text: "\${input.due}" }, schedule: { cron: "0 0 1 1 *" } }
`);
  const { run_id } = await server.client.json<Fire>("/triggers/digest/fire", {
    method: "POST",
    body: { input: { due: "today" } },
  });
  const task = await ended({ task_id: run_id } as Task);
  expect(task).toMatchObject({ status: "OK", engine: { model: "llama" } });
  expect(home.requests.at(-1)?.messages.at(-1)?.content).toBe("Sum up today");
  expect((await eventsOf(task))[0]?.data).toMatchObject({
    priority: 1,
    requester: "trigger:digest",
    trigger: { name: "digest" },
  });
});

test("on the command line", async () => {
  const asked = await cli([
    "task",
    "summarise",
    "--params",
    '{"text": "this"}',
    "--privacy",
    "hybrid",
    "--url",
    server.url,
  ]);
  expect([asked.code, asked.out]).toEqual([
    0,
    expect.stringMatching(/OK run_[\s\S]*llama \(hybrid, tier0\)[\s\S]*llama sums up\./),
  ]);
  local = [DOWN];
  const failed = await cli([
    "task",
    "summarise",
    "--params",
    '{"text": "x"}',
    "--privacy",
    "local-only",
    "--url",
    server.url,
  ]);
  expect(failed.code).toBe(1);
});
