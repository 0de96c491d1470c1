// What starts runs by itself, as a user has it: schedules over kill -9, webhooks of others, events that lead to runs.
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import { HOOKS_PREFIX } from "../../src/contract/paths.ts";
import type { Run } from "../../src/contract/runs.ts";
import type { Fire, Trigger } from "../../src/contract/triggers.ts";
import { ALLOW_ALL, NOOP_AND_NAP } from "../support/manifests.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const SECRET = "of the shop";
const MANIFESTS = `${NOOP_AND_NAP}
kind: Workflow
metadata: { name: echo }
spec: { steps: [{ id: a, tool: noop }], output: { got: "\${input}" } }
---
kind: Workflow
metadata: { name: failing }
spec: { steps: [{ id: a, tool: missing }] }
---
kind: Workflow
metadata: { name: broken }
spec: { steps: [{ id: a, tool: nap, args: { ms: none } }] }
---
kind: Trigger
metadata: { name: tick }
spec: { workflow: echo, schedule: { cron: "* * * * * *" }, input: { at: "\${input.due}" }, labels: { team: night } }
---
kind: Trigger
metadata: { name: yearly }
spec: { workflow: echo, schedule: { cron: "0 0 1 1 *", timezone: Europe/Berlin } }
---
kind: Trigger
metadata: { name: order }
spec: { workflow: echo, webhook: { secret: "env:QD_SECRET_SHOP" }, input: { id: "\${input.order.id}" } }
---
kind: Trigger
metadata: { name: push }
spec: { workflow: echo, webhook: { secret: "env:QD_SECRET_SHOP", scheme: github } }
---
kind: Trigger
metadata: { name: afterwards }
spec:
  workflow: echo
  event: { types: [run.failed], targets: ["fail*"] }
  input: { run: "\${input.run_id}", why: "\${input.data.message}" }
---
kind: Trigger
metadata: { name: circle }
spec: { workflow: failing, event: { types: [run.failed] } }
---${ALLOW_ALL}`;

let data: string;
let server: Running;
const up = () => startUp(data, { QD_SECRET_SHOP: SECRET });
const qd = (...args: string[]) => cli([...args, "--url", server.url, "--as", "ada"]);
const at = <T>(path: string, body?: unknown) =>
  server.client.json<T>(path, body === undefined ? {} : { method: "POST", body });
const fires = async (name: string, query = "") =>
  (await at<{ items: Fire[] }>(`/triggers/${name}/fires${query}`)).items;
const trigger = async (name: string) =>
  (await at<{ items: Trigger[] }>("/triggers")).items.find((one) => one.name === name);
const ended = (run_id: string) =>
  until(`${run_id} ends`, async () => {
    const run = await server.client.getRun(run_id).catch(() => null);
    return run && ["succeeded", "failed"].includes(run.state) ? run : null;
  });
const eventsOf = async (run_id: string) => (await at<{ items: Event[] }>(`/runs/${run_id}/events`)).items;
const outputOf = async (run_id: string) => (await eventsOf(run_id)).at(-1)?.data["output"];

beforeAll(async () => {
  data = tempFolder("qd-triggers");
  server = await up();
  await at("/triggers");
});
afterAll(async () => {
  await server?.stop();
  remove(data);
});

test("a manifest that is no trigger is refused with what is wrong and where", async () => {
  const wrong = async (spec: string) => {
    const body = `kind: Trigger\nmetadata: { name: t }\nspec: ${spec}\n`;
    return server.client.apply(body).then(
      () => "taken",
      (error: Error) => error.message,
    );
  };
  const both = "{ workflow: w, agent: a, schedule: { cron: '0 0 * * *' } }";
  expect(await wrong(both)).toContain("exactly one of agent, workflow, intent");
  expect(await wrong("{ workflow: w }")).toContain("exactly one of schedule, webhook, event");
  expect(await wrong("{ workflow: w, schedule: { cron: '61 * * * *' } }")).toMatch(/line 3.*61 \* \* \* \*/);
  expect(await wrong("{ workflow: w, schedule: { cron: '0 0 30 2 *' } }")).toContain("never comes");
  expect(await wrong("{ workflow: w, event: { types: [run.exploded] } }")).toContain("/spec/event/types/0");
  expect(await wrong('{ workflow: w, webhook: { secret: "hunter2" } }')).toContain("/spec/webhook/secret");
  expect(await wrong(`{ workflow: w, webhook: { secret: "env:A" }, input: "\${steps.a.output}" }`)).toContain(
    "refers to nothing",
  );
});

test("a schedule fires each second, once each, also over a kill -9; a paused one does not, and fires by hand", async () => {
  await server.client.apply(MANIFESTS);
  await until("it fired three times", async () => (await fires("tick")).length >= 3);
  await server.kill();
  server = await up();
  const before = (await fires("tick")).length;
  await until("it goes on", async () => (await fires("tick")).length >= before + 2);
  const paused = await qd("triggers", "pause", "tick");
  expect([paused.code, paused.out]).toEqual([0, expect.stringContaining("paused by ada") as unknown]);
  await until("all have begun", async () => (await fires("tick")).every(({ state }) => state === "started"));
  const all = await fires("tick", "?limit=200");
  const due = all.map(({ due_at }) => Date.parse(due_at)).sort((a, b) => a - b);
  expect(new Set(due).size).toBe(due.length);
  // Down for less than a minute: what was due meanwhile was only late, and none was left out.
  expect((due.at(-1) ?? 0) - (due[0] ?? 0)).toBe((due.length - 1) * 1000);
  const { items } = await at<{ items: Run[] }>("/runs?target=echo&limit=200");
  const ours = items.filter(({ requester }) => requester === "trigger:tick");
  expect(new Set(ours.map(({ run_id }) => run_id))).toEqual(new Set(all.map(({ run_id }) => run_id)));
  const [first] = all;
  await ended(first?.run_id ?? "");
  expect(await outputOf(first?.run_id ?? "")).toEqual({ got: { at: first?.due_at } });
  expect((await eventsOf(first?.run_id ?? ""))[0]?.data).toMatchObject({
    labels: { team: "night" },
    trigger: { name: "tick", cause: "schedule", key: first?.due_at },
  });

  await new Promise((resolve) => setTimeout(resolve, 2_500));
  expect((await fires("tick", "?limit=200")).length).toBe(all.length);
  const byHand = await qd("triggers", "fire", "tick", "--input", '{"due": "now"}', "--json");
  const fire = JSON.parse(byHand.out) as Fire;
  expect(fire).toMatchObject({ cause: "manual", state: "started" });
  await ended(fire.run_id);
  expect(await outputOf(fire.run_id)).toEqual({ got: { at: "now" } });
  expect(await trigger("tick")).toMatchObject({ paused: true, next_at: null, last_run_id: fire.run_id });
  await at("/triggers/tick/resume", {});
  await until("it fires again", async () => (await fires("tick", "?limit=1"))[0]?.cause === "schedule");
  await at("/triggers/tick/pause", {});
});

test("next and last are shown in the schedule's own time", async () => {
  const yearly = await trigger("yearly");
  const year = new Date().getUTCFullYear();
  expect(yearly).toMatchObject({
    on: "schedule",
    when: "0 0 1 1 * Europe/Berlin",
    target: "workflow/echo",
    last_at: null,
  });
  expect(Date.parse(yearly?.next_at ?? "")).toBe(Date.parse(`${year}-12-31T23:00:00Z`));
  const listed = await qd("triggers", "list");
  expect(listed.out).toMatch(/order\s+dev\s+webhook\s+POST \/hooks\/dev\/order\s+workflow\/echo/);
});

test("the same key by hand twice is one run", async () => {
  const once = () =>
    server.client.json<Fire>("/triggers/yearly/fire", {
      method: "POST",
      body: {},
      headers: { "idempotency-key": "k1" },
    });
  const [one, two] = [await once(), await once()];
  expect(one.run_id).toBe(two.run_id);
  expect(await fires("yearly")).toHaveLength(1);
});

function signed(id: string, body: string, secret = SECRET): Record<string, string> {
  const time = String(Math.floor(Date.now() / 1000));
  const mac = createHmac("sha256", secret).update(`${id}.${time}.${body}`).digest("base64");
  return { "webhook-id": id, "webhook-timestamp": time, "webhook-signature": `v1,${mac}` };
}
const post = (name: string, headers: Record<string, string>, body: string | Uint8Array) =>
  fetch(`${server.url}${HOOKS_PREFIX}/dev/${name}`, { method: "POST", headers, body: body as string });

test("a signed webhook starts a run, and only one however often it is sent; an unsigned one starts none", async () => {
  const body = JSON.stringify({ order: { id: 7 } });
  const answers = await Promise.all(Array.from({ length: 8 }, () => post("order", signed("msg_1", body), body)));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
  const told = (await Promise.all(answers.map((answer) => answer.json()))) as Fire[];
  expect(new Set(told.map(({ run_id }) => run_id)).size).toBe(1);
  const [{ run_id } = { run_id: "" }] = told;
  expect(await ended(run_id)).toMatchObject({ state: "succeeded", requester: "trigger:order" });
  expect(await outputOf(run_id)).toEqual({ got: { id: 7 } });
  for (const [headers, status] of [
    [signed("msg_2", body, "of somebody else"), 401],
    [{}, 400],
  ] as const)
    expect((await post("order", headers, body)).status).toBe(status);
  expect((await post("tick", signed("msg_3", body), body)).status).toBe(404);
  expect(await fires("order")).toHaveLength(1);
  // Different ones at once, each of them twice, are as many runs.
  const many = Array.from({ length: 30 }, (_, i) => post("order", signed(`many_${i >> 1}`, body), body));
  expect((await Promise.all(many)).map(({ status }) => status)).toEqual(many.map(() => 202));
  expect(await fires("order", "?limit=200")).toHaveLength(16);
  // Said truthfully, but of no use to this trigger.
  const useless = (await (await post("order", signed("msg_4", "[]"), "[]")).json()) as Fire;
  expect(useless).toMatchObject({ state: "refused", reason: expect.stringContaining("input.order.id") as unknown });
});

test("a webhook that says no type, and one of GitHub's", async () => {
  const body = JSON.stringify({ ref: "refs/heads/main" });
  const mac = createHmac("sha256", SECRET).update(body).digest("hex");
  const headers = { "x-github-delivery": "d1", "x-hub-signature-256": `sha256=${mac}` };
  const answer = await post("push", headers, Buffer.from(body));
  expect(answer.status).toBe(202);
  const { run_id } = (await answer.json()) as Fire;
  await ended(run_id);
  expect(await outputOf(run_id)).toEqual({ got: { ref: "refs/heads/main" } });
});

test("a webhook that comes while its trigger is paused is refused, and taken when it is sent again afterwards", async () => {
  await at("/triggers/push/pause", {});
  const body = "{}";
  const mac = createHmac("sha256", SECRET).update(body).digest("hex");
  const send = () => post("push", { "x-github-delivery": "d2", "x-hub-signature-256": `sha256=${mac}` }, body);
  expect((await send()).status).toBe(409);
  await at("/triggers/push/resume", {});
  expect((await send()).status).toBe(202);
});

test("the end of a run starts another, also when the server was killed in between; no run starts itself again for ever", async () => {
  const failed = await server.client.startRun({ workflow: "failing", input: {} });
  await server.kill();
  server = await up();
  await ended(failed.run_id);
  const fire = await until("it led to a run", async () =>
    (await fires("afterwards")).find(({ key }) => key.startsWith(`${failed.run_id}/`)),
  );
  await until("that has begun", async () => (await fires("afterwards")).every(({ state }) => state === "started"));
  await ended(fire.run_id);
  expect(await outputOf(fire.run_id)).toEqual({ got: { run: failed.run_id, why: expect.any(String) as unknown } });
  expect((await eventsOf(fire.run_id))[0]?.data["trigger"]).toMatchObject({
    cause: "event",
    run_id: failed.run_id,
    depth: 1,
  });
  // What `circle` starts fails too: that leads to `afterwards` once more, and to nothing else.
  const circles = await until("it went round once", async () => {
    const found = await fires("circle");
    return found.length > 0 && found.every(({ state }) => state === "started") ? found : null;
  });
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(await fires("circle")).toHaveLength(circles.length);
  expect(circles).toHaveLength(1);
});

test("what failed before a trigger was there, or while it was held up, starts nothing", async () => {
  await at("/triggers/afterwards/pause", {});
  const held = await server.client.startRun({ workflow: "failing", input: {} });
  await ended(held.run_id);
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  await at("/triggers/afterwards/resume", {});
  const later = `kind: Trigger
metadata: { name: later }
spec: { workflow: echo, event: { types: [run.failed] } }
`;
  await server.client.apply(later);
  const failed = await server.client.startRun({ workflow: "failing", input: {} });
  await until("both saw it", async () =>
    (await Promise.all([fires("later"), fires("afterwards")])).every((found) =>
      found.some(({ key }) => key.startsWith(failed.run_id)),
    ),
  );
  for (const name of ["later", "afterwards"])
    expect((await fires(name)).filter(({ key }) => key.startsWith(held.run_id))).toEqual([]);
});

test("a condition tells which events are meant; one that is none is refused", async () => {
  const meant = (when: string) => `kind: Trigger
metadata: { name: meant }
spec: { workflow: echo, event: { types: [run.failed], when: ${JSON.stringify(when)} } }
`;
  const refused = await server.client.apply(meant("data.code ==")).catch((error: Error) => error.message);
  expect(refused).toContain("data.code ==");
  await server.client.apply(meant('target == "failing" && data.code == "unknown_tool"'));
  expect((await trigger("meant"))?.when).toBe('run.failed when target == "failing" && data.code == "unknown_tool"');
  const other = await server.client.startRun({ workflow: "broken" });
  const failed = await server.client.startRun({ workflow: "failing", input: {} });
  await ended(other.run_id);
  await until("it saw the one", async () => (await fires("meant")).some(({ key }) => key.startsWith(failed.run_id)));
  await until("others saw both", async () => (await fires("later")).some(({ key }) => key.startsWith(other.run_id)));
  expect((await fires("meant")).filter(({ key }) => key.startsWith(other.run_id))).toEqual([]);
});

test("a trigger of another environment is another one: it is there once it is promoted", async () => {
  expect(await at("/triggers/yearly/fire", { env: "prod" }).catch((error: Error) => error.message)).toContain(
    "There is no trigger yearly in environment prod",
  );
  await at("/registry/promote", { kind: "Trigger", name: "yearly", version: 1, env: "prod" });
  expect(await at("/triggers/yearly/fire", { env: "prod" }).catch((error: Error) => error.message)).toContain(
    "There is no workflow echo in environment prod",
  );
});

test("a backup brings its triggers along, held up; the export of one run brings none", async () => {
  const file = path.join(data, "all.jsonl");
  const one = path.join(data, "one.jsonl");
  const [fire] = await fires("tick");
  expect((await qd("export", "--all", "-o", file)).code).toBe(0);
  expect((await qd("export", fire?.run_id ?? "", "-o", one)).code).toBe(0);
  expect(readFileSync(one, "utf8")).not.toContain('"Trigger"');
  const elsewhere = tempFolder("qd-triggers-copy");
  const copy = await startUp(elsewhere, { QD_SECRET_SHOP: SECRET });
  const there = (name: string) =>
    copy.client
      .json<{ items: Trigger[] }>("/triggers")
      .then(({ items }) => items.find((each) => each.name === name && each.env === "dev"));
  expect((await cli(["import", file, "--url", copy.url])).code).toBe(0);
  expect(await there("tick")).toMatchObject({ paused: true, paused_by: "import" });
  await copy.client.json("/triggers/tick/resume", { method: "POST", body: {} });
  await until("it fires there", async () => typeof (await there("tick"))?.last_run_id === "string");
  await copy.stop();
  remove(elsewhere);
});

test("the journal of all of it verifies", async () => {
  expect(await at("/journal/verify", {})).toMatchObject({ ok: true });
});
