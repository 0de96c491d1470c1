// A run that is more urgent starts at the next step of the others; those go on afterwards from where they were.
import { afterEach, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import type { Run } from "../../src/contract/runs.ts";
import { ALLOW_ALL, NOOP_AND_NAP } from "../support/manifests.ts";
import { remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const STEPS = 6;
const steps = Array.from({ length: STEPS }, (_, i) => `{ id: s${i}, tool: nap, args: { ms: 250 } }`).join(", ");
const MANIFESTS = `${NOOP_AND_NAP}
kind: Workflow
metadata: { name: long }
spec: { steps: [${steps}] }
---
kind: Workflow
metadata: { name: wide }
spec: { steps: [{ parallel: [${steps}] }] }
---
kind: Workflow
metadata: { name: urgent }
spec: { steps: [{ id: a, tool: noop }] }
---${ALLOW_ALL}`;
const ONE = { QUARTERDECK_CONCURRENCY: "1" };

let data: string;
let server: Running;
let worker: WorkerProcess | null = null;
afterEach(async () => {
  await worker?.kill();
  worker = null;
  await server.stop();
  remove(data);
});

const eventsOf = async (run: Run) => (await server.client.events(run.run_id)).items;
const done = (events: readonly Event[]) => events.filter(({ type }) => type === "tool.completed");
const ended = (run: Run) =>
  until(`${run.run_id} ends`, async () => (await server.client.getRun(run.run_id)).state === "succeeded");
const time = (event: Event | undefined) => Date.parse(event?.recorded_at ?? "");

async function overtaken(workflow: string): Promise<void> {
  const low = await server.client.startRun({ workflow, priority: 1 });
  await until("two of its steps are done", async () => done(await eventsOf(low)).length >= 2);
  const high = await server.client.startRun({ workflow: "urgent", priority: 9 });
  await ended(high);
  const urgent = await eventsOf(high);
  const [from, to] = [time(urgent[0]), time(done(urgent)[0])];
  await ended(low);
  const events = await eventsOf(low);
  const between = done(events).filter((event) => time(event) > from && time(event) <= to);
  expect([workflow, between.length <= 1]).toEqual([workflow, true]);
  // It went on from where it was: nothing was made again.
  expect(done(events)).toHaveLength(STEPS);
  expect(events.filter(({ type }) => type === "tool.requested")).toHaveLength(STEPS);
  expect(time(events.at(-1))).toBeGreaterThan(to);
}

test("in one process", async () => {
  data = tempFolder("qd-priority");
  server = await startUp(data, ONE);
  await server.client.apply(MANIFESTS);
  for (const workflow of ["long", "wide"]) await overtaken(workflow);
});

test("with a remote worker, and over a kill -9 of the server while it is overtaken", async () => {
  data = tempFolder("qd-priority");
  server = await startUp(data, { QUARTERDECK_ROLE: "control" });
  const port = new URL(server.url).port;
  await server.client.apply(MANIFESTS);
  const token = await mint(server, "one");
  worker = await startWorker(tempFolder("qd-worker"), { control: server.url, token, env: ONE });
  for (const workflow of ["long", "wide"]) await overtaken(workflow);

  const low = await server.client.startRun({ workflow: "wide", priority: 1 });
  await until("two of its steps are done", async () => done(await eventsOf(low)).length >= 2);
  const high = await server.client.startRun({ workflow: "urgent", priority: 9 });
  await server.kill();
  server = await startUp(data, { QUARTERDECK_ROLE: "control" }, ["--port", port]);
  await ended(high);
  await ended(low);
  expect(done(await eventsOf(low))).toHaveLength(STEPS);
  expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
});
