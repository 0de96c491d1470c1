import { expect, test } from "vitest";
import { ReplayWorld } from "../../test/support/replay-world.ts";
import type { Script } from "../../test/support/replay-world.ts";
import { draftPolicy } from "../orchestrator/manifests.ts";
import { PastReader } from "../journal/past.ts";
import { Backtests } from "./backtests.ts";

const MANIFESTS = `
kind: Tool
metadata: { name: read }
spec: { kind: http, method: GET, url: "http://localhost/a", input_schema: { type: object } }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "http://localhost/b", cost_usd: "0.25", input_schema: { type: object } }
---
kind: Tool
metadata: { name: secret }
spec: { kind: http, method: GET, url: "http://localhost/c", input_schema: { type: object } }
---
kind: Workflow
metadata: { name: order }
spec: { steps: [{ id: a, tool: read }, { id: b, tool: pay, args: { amount: 10 } }, { id: c, tool: secret, on_error: continue }, { id: d, tool: pay, args: { amount: 90 } }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: no, effect: deny, match: { tools: [secret] } }, { id: all, effect: allow }] }
`;
const draft = (rules: string) => draftPolicy(`kind: Policy\nmetadata: { name: main }\nspec: { rules: [${rules}] }\n`);
const works: Script = () => ({ ok: true, kind: "tool", result: "done" });

async function setUp() {
  const world = new ReplayWorld(MANIFESTS, works);
  await world.engine.open();
  const run_id = await world.run("workflow", "order", "x");
  const past = new PastReader({ store: world.store, governance: world.shelf });
  const backtests = new Backtests({ past, list: async () => [...world.store.runs.values()] });
  const over = (rules: string) => backtests.run(world.caller, draft(rules), {});
  return { world, run_id, backtests, over };
}

test("the policy that decided flips nothing", async () => {
  const { over } = await setUp();
  const report = await over("{ id: no, effect: deny, match: { tools: [secret] } }, { id: all, effect: allow }");
  expect(report).toMatchObject({ runs: 1, decisions: 4, flips: [], approvals_before: 0, approvals_after: 0 });
});

test("rules over the run's steps see what they saw then, also of calls that were denied or asked for", async () => {
  const rules =
    '{ id: third, effect: deny, match: { tools: [secret] }, when: "run.steps == 2" }, { id: ask, effect: require_approval, match: { tools: [pay] }, when: "run.steps == 3" }, { id: all, effect: allow }';
  const world = new ReplayWorld(
    MANIFESTS.replace("{ id: no, effect: deny, match: { tools: [secret] } }, { id: all, effect: allow }", rules),
    works,
  );
  await world.engine.open();
  const { tenant_id, project, principal } = world.caller;
  const run_id = "run_00000000000000000000000007";
  const data = {
    env: "dev",
    input: "x",
    kind: "workflow",
    project,
    requester: principal,
    target: { digest: "d", kind: "workflow", name: "order", version: 1 },
  };
  await world.engine.start({ tenant_id, run_id, command: { type: "start", data } });
  await expect.poll(() => world.engine.peek(run_id)?.reason).toBe("approval");
  const past = new PastReader({ store: world.store, governance: world.shelf });
  const backtests = new Backtests({ past, list: async () => [...world.store.runs.values()] });
  expect(await backtests.run(world.caller, draft(rules), {})).toMatchObject({
    decisions: 4,
    flips: [],
    approvals_before: 1,
    approvals_after: 1,
  });
});

test("flips, approvals and cost; only the first of a run is certain", async () => {
  const { run_id, over } = await setUp();
  const report = await over(
    '{ id: big, effect: deny, match: { tools: [pay] }, when: "args.amount > 50", reason: too_much }, { id: ask, effect: require_approval, match: { tools: [read] } }, { id: all, effect: allow }',
  );
  expect(report).toMatchObject({
    decisions: 4,
    runs_with_flips: 1,
    approvals_after: 1,
    cost_denied_micro_usd: 250_000,
  });
  expect(report.flips.map(({ step, was, now, certain }) => [step, was, now, certain])).toEqual([
    [1, "allow", "require_approval", true],
    [3, "deny", "allow", false],
    [4, "allow", "deny", false],
  ]);
  expect(report.flips[2]).toMatchObject({ run_id, name: "pay", reason: "too_much" });
});

test("a run that cannot be read is named, not left out in silence", async () => {
  const { world, backtests } = await setUp();
  const report = await backtests.run(world.caller, draft("{ id: all, effect: allow }"), {
    run_ids: ["run_01h455vb4pex5vsknk084sn02q"],
  });
  expect(report).toMatchObject({ runs: 0, skipped: [{ run_id: "run_01h455vb4pex5vsknk084sn02q" }] });
});

test("a draft that asks a person about models is a flip to approval", async () => {
  const yaml = `${MANIFESTS}
---
kind: Model
metadata: { name: m }
spec: { provider: openai, model: m-1, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Agent
metadata: { name: bot }
spec: { model: m, instructions: hi, tools: [] }
`;
  const answer: Script = () => ({
    ok: true,
    kind: "model",
    content: "done",
    tool_calls: [],
    finish_reason: "stop",
    usage: { input_tokens: 1, output_tokens: 1 },
    response_model: "m-1",
  });
  const world = new ReplayWorld(yaml, answer);
  await world.engine.open();
  await world.run("agent", "bot", "x");
  const past = new PastReader({ store: world.store, governance: world.shelf });
  const backtests = new Backtests({ past, list: async () => [...world.store.runs.values()] });
  const report = await backtests.run(
    world.caller,
    draft("{ id: ask, effect: require_approval, match: { kinds: [model] } }"),
    {},
  );
  expect(report).toMatchObject({
    approvals_before: 0,
    approvals_after: 1,
    flips: [{ was: "allow", now: "require_approval" }],
  });
});
