// Runs that wait for long cost little more than their ids, and go on as if they had been there all the time.
import { describe, expect, test } from "vitest";
import { freshRun, startData, TENANT } from "../../test/support/engine.ts";
import { agent, ALLOW, calls, flow, node, open, result, says } from "../../test/support/scripted-engine.ts";
import type { PolicyRule } from "../core/policy.ts";

const ASK: PolicyRule[] = [...ALLOW, { id: "ask", effect: "require_approval", match: { tools: ["t.a"] } }];
const grace = { id: "grace", kind: "human_reviewer" as const };
const PARK_MS = 20;

async function waiting(how: { rules?: PolicyRule[]; wait_ms?: number } = {}) {
  const nodes = [
    node("w", [], how.wait_ms === undefined ? {} : { kind: "wait", delay_ms: how.wait_ms }),
    node("b", [0], { tool: "t.b" }),
  ];
  const h = await open({ workflow: flow(nodes) }, () => result("x"), how.rules ?? ASK, { park_after_ms: PARK_MS });
  const run_id = freshRun();
  const command = { type: "start" as const, data: startData("workflow", "flow") };
  await h.engine.start({ tenant_id: TENANT, run_id, command });
  const parked = () => expect.poll(() => h.engine.stateOf(run_id)).toBeNull();
  const approve = (by = grace) =>
    h.engine.command(TENANT, run_id, { type: "approve", number: 1, decision: "approved", note: "", actor: by });
  const ended = () => expect.poll(() => h.store.runs.get(run_id)?.state, { timeout: 5_000 }).toBe("succeeded");
  return { h, run_id, parked, approve, ended };
}

describe("a run that waits", () => {
  test("for a person is parked, and goes on with their word", async () => {
    const { h, run_id, parked, approve, ended } = await waiting();
    await parked();
    expect([h.engine.openRuns, h.engine.peek(run_id)]).toEqual([1, null]);
    await approve();
    await ended();
    expect(h.engine.openRuns).toBe(0);
    expect(h.jobs.map((job) => job.step)).toEqual([1, 2]);
  });

  test("for its time wakes by itself", async () => {
    const { parked, ended } = await waiting({ rules: ALLOW, wait_ms: 300 });
    await parked();
    await ended();
  });

  test("is read once, however many ask for it at a time; one word counts", async () => {
    const { h, parked, approve, ended } = await waiting();
    let reads = 0;
    const readRun = h.store.readRun.bind(h.store);
    h.store.readRun = (...given) => {
      reads += 1;
      return readRun(...given);
    };
    await parked();
    const said = await Promise.allSettled(Array.from({ length: 20 }, () => approve()));
    expect(said.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(reads).toBe(1);
    await ended();
  });

  test("is parked again when what was said of it changed nothing", async () => {
    const { h, run_id, parked, approve } = await waiting();
    await parked();
    await expect(approve({ ...grace, id: "ada" })).rejects.toMatchObject({ code: "SELF_APPROVAL" });
    expect(h.engine.stateOf(run_id)).not.toBeNull();
    await parked();
    expect(await h.engine.command(TENANT, run_id, { type: "cancel", reason: "", actor: grace })).toMatchObject({
      state: "cancelled",
    });
  });

  test("and cannot be read just now stays parked, and whoever asked is told", async () => {
    const { h, parked, approve, ended } = await waiting();
    await parked();
    const readRun = h.store.readRun.bind(h.store);
    h.store.readRun = () => Promise.reject(new Error("the database is away"));
    await expect(approve()).rejects.toThrow("the database is away");
    h.store.readRun = readRun;
    await approve();
    await ended();
  });

  test("is not parked while a call is out, or while its outcome is in doubt", async () => {
    const h = await open(
      { agent: agent() },
      (job) =>
        job.kind === "model"
          ? says(null, [calls("t.a")])
          : { ok: false, failure: { class: "unknown_outcome", code: "x", message: "x" } },
      ALLOW,
      { park_after_ms: PARK_MS },
    );
    const run_id = freshRun();
    const command = { type: "start" as const, data: startData("agent", "bot") };
    await h.engine.start({ tenant_id: TENANT, run_id, command });
    await expect.poll(() => h.store.runs.get(run_id)?.reason).toBe("in_doubt");
    await new Promise((resolve) => setTimeout(resolve, PARK_MS * 4));
    expect(h.engine.states.map((state) => state.run_id)).toEqual([run_id]);
  });
});
