// Runs are sealed some time after their end, and single events of them proven offline; over a restart.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EventProof } from "../../src/contract/journal-routes.ts";
import type { Run } from "../../src/contract/runs.ts";
import { freshRun } from "../support/engine.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const GRACE_MS = 1_500;
const MANIFESTS = `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Workflow
metadata: { name: order }
spec: { steps: [{ id: a, tool: noop }] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
`;
let data: string;
let server: Running;
const up = () => startUp(data, { QUARTERDECK_SEAL_AFTER_MS: String(GRACE_MS) });
const qd = (...args: string[]) => cli(["--data", data, ...args]);

beforeAll(async () => {
  data = tempFolder("qd-sealing");
  server = await up();
  await server.client.apply(MANIFESTS);
});
afterAll(async () => {
  await server?.stop();
  remove(data);
});

async function observed(): Promise<string> {
  const run_id = freshRun();
  const events = [
    { type: "run.started", data: { agent: "helper", input: "hello" } },
    { type: "tool.requested", step_id: "t1", data: { tool: "search", args: { q: "private" } } },
    { type: "tool.completed", step_id: "t1", data: { result: "found" } },
    { type: "run.succeeded", data: { output: "done" } },
  ].map((event, i) => ({ sequence_no: i + 1, ...event }));
  const body = { producer_id: "prd_1", events };
  const answer = await server.client.json(`/runs/${run_id}/events`, { method: "POST", body });
  expect(answer).toMatchObject({ state: "succeeded" });
  return run_id;
}
const runOf = (run_id: string) => server.client.json<Run>(`/runs/${run_id}`);

test("a captured run is sealed after its grace, also when the server was killed meanwhile; its events are proven offline", async () => {
  const run_id = await observed();
  expect(await runOf(run_id)).toMatchObject({ sealed: false });
  const early = await qd("prove", run_id, "3");
  expect([early.code, early.err]).toEqual([1, expect.stringContaining("may still be added to")]);
  await server.kill();
  server = await up();
  await until("it is sealed", async () => (await runOf(run_id)).sealed);
  const late = {
    producer_id: "prd_2",
    events: [{ sequence_no: 1, type: "step.started", step_id: "x", data: { name: "x" } }],
  };
  expect(await server.client.json(`/runs/${run_id}/events`, { method: "POST", body: late })).toMatchObject({
    items: [{ error: { code: "RUN_SEALED" } }],
  });
  const file = path.join(data, "proof.json");
  expect((await qd("prove", run_id, "3", "-o", file)).code).toBe(0);
  const text = readFileSync(file, "utf8");
  expect(text).toContain("found");
  // Nothing else of the run is given away.
  expect(text).not.toContain("private");
  const { seal } = JSON.parse(text) as EventProof;
  const checked = await cli(["verify", "--file", file, "--key", seal.key_id]);
  expect([checked.code, checked.out]).toEqual([0, expect.stringMatching(/proven.*\n.*found/)]);
  expect((await cli(["verify", "--file", file, "--key", "ed25519:0000000000000000"])).code).toBe(1);
  writeFileSync(file, text.replace("found", "lost!"));
  const forged = await cli(["verify", "--file", file]);
  expect([forged.code, forged.out]).toEqual([1, expect.stringContaining("does not lead to the root")]);
  expect((await qd("prove", run_id, "99")).code).toBe(4);
});

test("a run of our own is sealed when somebody asks for a proof; sealed runs verify, are exported and replayed", async () => {
  const started = await server.client.json<Run>("/runs", { method: "POST", body: { workflow: "order" } });
  await until("it has ended", async () => (await runOf(started.run_id)).state === "succeeded");
  const proof = JSON.parse((await qd("prove", started.run_id, "2")).out) as EventProof;
  expect(JSON.parse(proof.event)).toMatchObject({ seq: 2, type: "policy.decided" });
  expect(await runOf(started.run_id)).toMatchObject({ sealed: true });
  const captured = await observed();
  await until("it is sealed", async () => (await runOf(captured)).sealed);
  for (const run_id of [started.run_id, captured]) {
    // What has to be put right is said after what is recorded; what was proven before still is.
    const amended = await qd(
      "--as",
      "ada",
      "runs",
      "amend",
      run_id,
      "--note",
      "The price was of last year.",
      "--about",
      "2",
    );
    expect([amended.code, amended.err]).toEqual([0, ""]);
    const last = (await server.client.events(run_id)).items.at(-1);
    expect(last).toMatchObject({
      type: "journal.amended",
      actor: { id: "ada", kind: "user" },
      data: { about: 2, note: "The price was of last year." },
    });
    expect(await qd("runs", "amend", run_id, "--note", "x", "--about", "99")).toMatchObject({
      code: 4,
      err: expect.stringContaining("no event 99"),
    });
    expect((await qd("runs", "amend", run_id, "--note", "x", "--about", "none")).code).toBe(2);
    expect(await runOf(run_id)).toMatchObject({ state: "succeeded", sealed: true });
    expect((await qd("prove", run_id, "2")).code).toBe(0);
    const file = path.join(data, `${run_id}.jsonl`);
    expect((await qd("export", run_id, "-o", file)).code).toBe(0);
    expect((await cli(["verify", "--file", file])).code).toBe(0);
    const again = await qd("replay", run_id);
    expect([again.code, again.out], run_id).toEqual([0, expect.stringContaining("completed_exact")]);
  }
  expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
  const diff = await qd("diff", captured, captured);
  expect(diff.code).toBe(0);
});
