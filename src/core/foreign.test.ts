// Calls of agents that we do not run, at the gate: what a person or a policy said about their run holds for the next call.
import { beforeEach, describe, expect, test } from "vitest";
import { nextDue } from "./advance.ts";
import { decide } from "./decide.ts";
import { emptyRun } from "./run-state.ts";
import { ReplayWorld } from "../../test/support/replay-world.ts";
import type { EventDraft } from "../contract/events.ts";
import type { JsonObject } from "../kit/json.ts";

const MANIFESTS = `
kind: Model
metadata: { name: m }
spec: { provider: openai, model: m-1, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Model
metadata: { name: banned }
spec: { provider: openai, model: m-2, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Tool
metadata: { name: note }
spec: { kind: http, method: GET, url: "https://example.com/", input_schema: { type: object } }
---
kind: Tool
metadata: { name: burn }
spec: { kind: http, method: GET, url: "https://example.com/", input_schema: { type: object } }
---
kind: Tool
metadata: { name: burn2 }
spec: { kind: http, method: POST, url: "https://example.com/", effect_class: irreversible, input_schema: { type: object } }
---
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: never, effect: deny, block_run: true, match: { models: [banned] } }
    - { id: nor, effect: deny, block_run: true, match: { tools: [burn] } }
    - { id: all, effect: allow }
`;
const RUN = "run_00000000000000000000000001";
const ADA = { id: "ada", kind: "user" } as const;
let world: ReplayWorld;
let calls = 0;

beforeEach(async () => {
  world = new ReplayWorld(MANIFESTS, () => ({ ok: true, kind: "tool", result: "done" }));
  await world.engine.open();
  const { tenant_id, project, principal } = world.caller;
  const target = { kind: "captured", name: "stranger", version: 1 };
  const data = { env: "dev", fidelity: "wire", kind: "captured", project, requester: principal, target };
  await world.engine.start({ tenant_id, run_id: RUN, command: { type: "start", data } });
});

const types = (drafts: readonly EventDraft[]) => drafts.map((draft) => draft.type);
const decided = (command: Parameters<typeof world.engine.decided>[2]) =>
  world.engine.decided(world.caller.tenant_id, RUN, command);
function ask(model = "m", given: { recorded?: JsonObject } = {}) {
  const route = world.shelf.of({ ...world.caller, env: "dev" }).catalog.model(model);
  if (!route) throw new Error("no model");
  const call = {
    call: `call_${(calls += 1)}`,
    route,
    max_output_tokens: 10,
    bound: { micro: 1, tokens: 1 },
    recorded: {},
    ...given,
  };
  return decided({ type: "call", call });
}
const use = (tool = "note", allow: readonly string[] | null = null) =>
  decided({ type: "tool", call: { call: `call_${(calls += 1)}`, tool, args: {}, allow } });

test("a paused run takes no calls until it is resumed", async () => {
  await decided({ type: "pause", actor: ADA });
  await expect(ask()).rejects.toMatchObject({
    code: "CONFLICT",
    message: expect.stringContaining("resume it first") as string,
  });
  await expect(use()).rejects.toMatchObject({ code: "CONFLICT" });
  await decided({ type: "resume", actor: ADA });
  expect(types(await ask())).toContain("model.requested");
});

test("a run that nobody adds to ends by itself, unless a person has paused it", async () => {
  const { tenant_id, project, principal } = world.caller;
  const { catalog, policy } = world.shelf.of({ tenant_id, project, env: "dev" });
  const ledger = { check: () => null, moved: () => [] };
  const at = (now_us: number) => ({ catalog, policy, ledger, now_us, random: () => 0 });
  const run = emptyRun(tenant_id, RUN);
  const target = { kind: "captured", name: "stranger", version: 1 };
  const data = { env: "dev", fidelity: "wire", kind: "captured", project, requester: principal, target };
  decide(run, { type: "start", data }, at(1));
  decide(run, { type: "pause", actor: ADA }, at(2));
  expect(nextDue(run)).toBe(0);
  expect(decide(run, { type: "tick" }, at(3_600_000_000))).toEqual([]);
  decide(run, { type: "resume", actor: ADA }, at(3_600_000_000));
  const due = nextDue(run);
  expect(types(decide(run, { type: "tick" }, at(due)))).toEqual(["run.succeeded"]);
});

test("a run that is being cancelled takes no more calls while the last one is in flight", async () => {
  await ask();
  await decided({ type: "cancel", reason: "enough", actor: ADA });
  expect(world.engine.peek(RUN)?.state).toBe("running");
  await expect(ask()).rejects.toMatchObject({ code: "RUN_TERMINAL" });
  await expect(use()).rejects.toMatchObject({ code: "RUN_TERMINAL" });
});

test("the end waits for a call that is in flight, so that what it costs is paid", async () => {
  const end = { type: "end", state: "succeeded", code: "", message: "" } as const;
  const [, asked] = await ask();
  expect(types(await decided(end))).toEqual(["run.stopping"]);
  await expect(ask()).rejects.toMatchObject({ code: "RUN_TERMINAL" });
  const { tenant_id } = world.caller;
  const outcome = {
    ok: true as const,
    kind: "model" as const,
    content: "yes",
    tool_calls: [],
    finish_reason: "stop",
    usage: { input_tokens: 3, output_tokens: 2 },
    response_model: "m-1",
  };
  const step = asked?.step ?? 0;
  await world.engine.result({ tenant_id, run_id: RUN, step, attempt: 1, kind: "model", duration_ms: 1, outcome });
  expect(world.store.runs.get(RUN)).toMatchObject({ state: "succeeded", reason: null, cost_micro_usd: 7 });
});

test.each([
  ["model", () => ask("banned")],
  ["tool", () => use("burn")],
])("a policy that blocks the run for a %s call ends it", async (_kind, call) => {
  const drafts = await call();
  expect(types(drafts).at(-1)).toBe("run.policy_blocked");
});

test("a call that is in doubt is not made again by asking again, until a person has said what became of it", async () => {
  const lost = { class: "unknown_outcome", code: "timeout", message: "no answer" } as const;
  world.world = () => ({ ok: false, failure: lost });
  await use("burn2");
  await world.rests(RUN);
  expect(world.engine.peek(RUN)).toMatchObject({ state: "waiting", reason: "in_doubt" });
  const [, , denied] = await use("burn2");
  expect(denied).toMatchObject({ type: "tool.denied", data: { reason: "in_doubt" } });
  expect(world.calls).toHaveLength(1);
  // Another call is another matter.
  expect(types(await use("note"))).toContain("tool.requested");
  world.world = () => ({ ok: true, kind: "tool", result: "done" });
  const resolution = { outcome: "failed", message: "it was not there", note: "" } as const;
  await decided({ type: "resolve", step: 1, resolution, actor: { id: "bob", kind: "user" } });
  expect(types(await use("burn2"))).toContain("tool.requested");
});

test("a tool call passes the allowlist of an agent that is known, and is made by our workers", async () => {
  expect(types(await use("note", ["read.*"]))).toEqual(["tool.proposed", "policy.decided", "tool.denied"]);
  expect(types(await use("note", ["no*"]))).toEqual(["policy.decided", "tool.requested"]);
  expect(world.calls).toMatchObject([{ kind: "tool", tool: { name: "note" } }]);
});

const ASKING = MANIFESTS.replace(
  "    - { id: all, effect: allow }",
  "    - { id: ask, effect: require_approval, match: { models: [m] } }\n    - { id: all, effect: allow }",
);
const approve = (number: number, decision: "approved" | "rejected" = "approved") =>
  decided({ type: "approve", number, decision, note: "", actor: { id: "grace", kind: "human_reviewer" } });

describe("a model call that needs approval", () => {
  const signed = (signature: string) => ({ recorded: { signature } });
  beforeEach(() => {
    world.shelf.apply(ASKING);
  });

  test("waits; who asks again is not asked for twice, and makes the call once it is approved", async () => {
    expect(types(await ask("m", signed("s")))).toEqual([
      "model.proposed",
      "policy.decided",
      "human.approval_requested",
      "run.waiting",
    ]);
    expect(await ask("m", signed("s"))).toEqual([]);
    expect(types(await approve(1))).toEqual(["human.approval_resolved", "run.running"]);
    const made = await ask("m", signed("s"));
    expect(types(made)).toEqual(["policy.decided", "model.requested"]);
    expect([made[1]?.step, made[1]?.call]).toEqual([1, `call_${calls}`]);
    // The approval was for one call.
    expect(types(await ask("m", signed("s")))).toContain("human.approval_requested");
  });

  test("another request, or the same one to another model, is another call", async () => {
    await ask("m", signed("s"));
    expect(types(await ask("m", signed("t")))).toContain("human.approval_requested");
    expect(types(await ask("banned", signed("s")))).toContain("model.denied");
  });

  test("one that is rejected is denied, and one that nobody comes for ends with its approval", async () => {
    await ask("m", signed("s"));
    expect(types(await approve(1, "rejected"))).toEqual(["human.approval_resolved", "model.denied", "run.running"]);
    await ask("m", signed("t"));
    await approve(2);
    const state = world.engine.stateOf(RUN);
    const due = state ? nextDue(state) : 0;
    expect(due).toBe(state?.steps.get(2)?.granted?.expires_us);
    const late = decide(
      structuredClone({ ...state, past: null }) as NonNullable<typeof state>,
      { type: "tick" },
      {
        ...world.shelf.of({ ...world.caller, env: "dev" }),
        now_us: due,
        random: () => 0,
        ledger: { check: () => null, moved: () => [] },
      },
    );
    expect(late[0]).toMatchObject({ type: "model.denied", step: 2, data: { reason: "approval_expired" } });
  });

  test("a deny that came meanwhile wins, and so does a model that has changed", async () => {
    await ask("m", signed("s"));
    await approve(1);
    const policy = ASKING.slice(ASKING.indexOf("kind: Policy"));
    world.shelf.apply(policy.replace("block_run: true, match: { models: [banned]", "match: { models: [banned, m]"));
    expect((await ask("m", signed("s"))).at(-1)).toMatchObject({ type: "model.denied", call: `call_${calls}` });
    world.shelf.apply(policy);
    await ask("m", signed("t"));
    await approve(2);
    world.shelf.apply(ASKING.replace("model: m-1", "model: m-9"));
    const step = world.engine.stateOf(RUN)?.steps.get(2);
    expect(step?.granted).not.toBeNull();
    // It has another version now, so that nobody was asked about it yet.
    expect(types(await ask("m", signed("t")))).toContain("human.approval_requested");
  });
});
