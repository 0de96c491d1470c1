// Forks with one thing changed: the diff must name that thing. And what a diff says of runs that are equal, or partly so.
import { expect, test } from "vitest";
import { ReplayWorld } from "../../test/support/replay-world.ts";
import type { Script } from "../../test/support/replay-world.ts";
import type { Cause, RunDiff } from "../contract/diff.ts";
import type { JobOutcome } from "../contract/jobs.ts";
import type { StartFork } from "../contract/replay.ts";
import { Turn } from "../kit/turn.ts";
import { seams } from "../../test/support/engine.ts";
import { Diffs } from "./diffs.ts";

const MODEL = (name: string) => `
kind: Model
metadata: { name: ${name} }
spec: { provider: openai, model: ${name}, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---`;
const MANIFESTS = `${MODEL("large")}${MODEL("small")}
kind: Tool
metadata: { name: find }
spec: { kind: http, method: GET, url: "http://localhost/find", input_schema: { type: object } }
---
kind: Tool
metadata: { name: stock }
spec: { kind: http, method: GET, url: "http://localhost/stock", input_schema: { type: object } }
---
kind: Prompt
metadata: { name: tone }
spec: { text: Be polite. }
---
kind: Agent
metadata: { name: clerk }
spec: { model: large, prompt: tone, tools: [find, stock] }
---
kind: Workflow
metadata: { name: report }
spec: { steps: [{ id: a, tool: find, args: { q: "\${input}" } }, { id: b, tool: stock, args: { of: "\${steps.a.output}" } }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`;

const answer = (content: string | null, ...calls: [string, object][]): JobOutcome => ({
  ok: true,
  kind: "model",
  content,
  tool_calls: calls.map(([name, args], i) => ({ id: `c${i}`, name, arguments: JSON.stringify(args) })),
  finish_reason: "stop",
  usage: { input_tokens: 10, output_tokens: 5 },
  response_model: "m",
});

/** Finds documents, looks at the stock, answers; each word of its world shows in what it says. */
const clerk: Script = (job) => {
  if (job.kind === "tool" && job.tool.name === "find") {
    const top_k = Number(job.args["top_k"] ?? 3);
    const documents = Array.from({ length: top_k }, (_, i) => ({ id: `d${i}`, score: 1 - i / 10, text: `text ${i}` }));
    return { ok: true, kind: "tool", result: { documents } };
  }
  if (job.kind === "tool") return { ok: true, kind: "tool", result: { left: 7, by: job.tool.config["url"] ?? "" } };
  const turns = job.messages.filter((message) => message.role === "assistant").length;
  if (turns === 0) return answer(null, ["find", { q: "lamp" }]);
  if (turns === 1) return answer(null, ["stock", { id: "d0" }]);
  const said = job.messages.map((message) => `${message.role}: ${String(message.content)}`).join("\n");
  return answer(`${job.route.name} ${JSON.stringify(job.params)} heard ${said}`);
};

async function setUp(script: Script = clerk) {
  const world = new ReplayWorld(MANIFESTS, script);
  await world.engine.open();
  const diffs = new Diffs({
    store: world.store,
    turn: new Turn(seams.clock, 1),
    governance: world.shelf,
    find: async (_caller, run_id) => world.store.runs.get(run_id) ?? null,
    siblings: async (_caller, target) => [...world.store.runs.values()].filter((run) => run.target === target),
  });
  const run_id = await world.run("agent", "clerk", "A lamp.");
  expect(world.store.runs.get(run_id)?.state).toBe("succeeded");
  const forked = async (request: StartFork, of = run_id): Promise<RunDiff> => {
    const session = await world.settled(await world.replays.fork(world.caller, of, request));
    return diffs.compare(world.caller, of, session.replay_id);
  };
  return { world, diffs, run_id, forked };
}

const NEXT = {
  tone: "kind: Prompt\nmetadata: { name: tone }\nspec: { text: Be brief. }\n",
  stock:
    'kind: Tool\nmetadata: { name: stock }\nspec: { kind: http, method: GET, url: "http://localhost/stock2", input_schema: { type: object } }\n',
  deny: "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: no, effect: deny, match: { tools: [stock] } }, { id: all, effect: allow }] }\n",
  block:
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: no, effect: deny, match: { models: [large] } }, { id: all, effect: allow }] }\n",
};

/** One change each, with the cause that must be named. */
const SINGLE: [what: string, request: StartFork, cause: Cause, apply?: keyof typeof NEXT][] = [
  ["instructions from the start", { step: 1, overrides: { instructions: "Be rude." } }, "prompt"],
  ["instructions in the middle", { step: 3, overrides: { instructions: "Be rude." } }, "prompt"],
  ["instructions at the end", { step: 5, overrides: { instructions: "Be rude." } }, "prompt"],
  ["a prompt's version from the start", { step: 1, overrides: { prompts: { tone: 2 } } }, "prompt", "tone"],
  ["a prompt's version at the end", { step: 5, overrides: { prompts: { tone: 2 } } }, "prompt", "tone"],
  ["the input", { step: 1, overrides: { input: "Two lamps." } }, "input"],
  ["another model from the start", { step: 1, overrides: { model: "small" } }, "model"],
  ["another model at the end", { step: 5, overrides: { model: "small" } }, "model"],
  ["a parameter from the start", { step: 1, overrides: { params: { temperature: 1 } } }, "model_parameters"],
  ["a parameter at the end", { step: 5, overrides: { params: { seed: 7 } } }, "model_parameters"],
  ["the limit of the answer", { step: 5, overrides: { max_output_tokens: 99 } }, "model_parameters"],
  ["fewer documents", { step: 2, overrides: { arguments: { find: { top_k: 1 } } } }, "retrieval"],
  ["more documents", { step: 2, overrides: { arguments: { find: { top_k: 9 } } } }, "retrieval"],
  [
    "other documents",
    { step: 2, simulate: [{ tool: "find", result: { documents: [{ id: "x", score: 1, text: "t" }] } }] },
    "retrieval",
  ],
  ["another argument of a tool", { step: 4, overrides: { arguments: { stock: { id: "d9" } } } }, "tool_arguments"],
  ["another result of a tool", { step: 4, simulate: [{ tool: "stock", result: { left: 0 } }] }, "tool_result"],
  ["a tool that fails", { step: 4, simulate: [{ tool: "stock", result: "down", is_error: true }] }, "tool_result"],
  ["another implementation of a tool", { step: 4, overrides: { tools: { stock: 2 } } }, "tool_definition", "stock"],
  ["a policy that denies a tool", { step: 4, overrides: { policies: { main: 2 } } }, "policy", "deny"],
  ["a policy that denies the model", { step: 5, overrides: { policies: { main: 2 } } }, "policy", "block"],
  ["a budget that ends it", { step: 5, overrides: { budget: { model_calls: 0 } }, reuse: "none" }, "budget"],
  ["another answer of the model", { step: 5, simulate: [{ model: "large", result: "Sold out." }] }, "model_answer"],
];

test("the one thing that a fork changed is named as the cause", async () => {
  const wrong: string[] = [];
  for (const [what, request, cause, apply] of SINGLE) {
    const { world, forked } = await setUp();
    if (apply) world.shelf.apply(NEXT[apply]);
    const { attribution, equal } = await forked(request);
    if (equal || attribution.primary?.cause !== cause)
      wrong.push(`${what}: ${attribution.primary?.cause}, not ${cause}`);
  }
  expect(wrong).toEqual([]);
  expect(SINGLE.length).toBeGreaterThanOrEqual(20);
});

test("a run and itself, and a run and its exact replay, differ in nothing but what was paid", async () => {
  const { world, diffs, run_id } = await setUp();
  expect(await diffs.compare(world.caller, run_id, run_id)).toMatchObject({
    equal: true,
    changes: [],
    attribution: { primary: null },
  });
  const { replay_id } = await world.replays.start(world.caller, { run_id, mode: "exact" });
  expect(await diffs.compare(world.caller, run_id, replay_id)).toMatchObject({
    equal: true,
    inserted: 0,
    removed: 0,
    changed: 0,
  });
});

test("sections say what differs, and why one cannot be computed", async () => {
  const { forked } = await setUp();
  const diff = await forked({ step: 2, overrides: { arguments: { find: { top_k: 2 } } } });
  const status = Object.fromEntries(diff.sections.map(({ section, status: is }) => [section, is]));
  expect(status).toMatchObject({
    prompt: "equal",
    retrieval: "different",
    output: "different",
    input: "equal",
    policy: "equal",
  });
  expect(diff.changes.find((change) => change.section === "retrieval")).toMatchObject({
    paths: ["/documents/d2"],
    before: { removed: { d2: 3 } },
    after: { inserted: {} },
  });
  const { world, diffs } = await setUp();
  const a = await world.run("workflow", "report", "x");
  const b = await world.run("workflow", "report", "y");
  const plain = await diffs.compare(world.caller, a, b);
  expect(plain.sections.find((one) => one.section === "prompt")).toMatchObject({
    status: "not_recorded",
    note: "the prompts were not recorded",
  });
  expect(plain.attribution.primary).toMatchObject({ cause: "input" });
});

test("confidence is high for a change that was made, lower where runs of the same input differ by themselves", async () => {
  const { forked, world, run_id } = await setUp();
  const request: StartFork = { step: 5, overrides: { model: "small" } };
  expect((await forked(request)).attribution.confidence).toBe("high");
  let n = 0;
  world.world = (job) => (job.kind === "model" && job.messages.length > 4 ? answer(`Say ${(n += 1)}`) : clerk(job));
  await world.run("agent", "clerk", "A lamp.");
  await world.run("agent", "clerk", "A lamp.");
  const noisy = await forked(request, run_id);
  expect(noisy.attribution).toMatchObject({ confidence: "medium", primary: { cause: "model" } });
  expect(noisy.attribution.because.join()).toContain("other runs of the same input differ too");
  const answerOnly = await forked({ step: 5, simulate: [{ model: "large", result: "No." }] });
  expect(answerOnly.attribution.confidence).toBe("low");
});

test("what a hint names is where the change is", async () => {
  const { forked, run_id } = await setUp();
  const { attribution, first_divergence } = await forked({
    step: 4,
    simulate: [{ tool: "stock", result: { left: 0 } }],
  });
  expect(attribution.primary).toMatchObject({
    a: { run_id, step: 4, name: "stock" },
    b: { step: 4 },
    paths: ["/result"],
  });
  expect(first_divergence).toMatchObject({ a: { step: 4 }, message: 5 });
});

test("a call that a person approved, taken over without asking again, was not decided otherwise", async () => {
  const { world, diffs } = await setUp();
  world.shelf.apply(
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: ask, effect: require_approval, match: { tools: [stock] }, reason: careful }, { id: all, effect: allow }] }\n",
  );
  const run_id = await world.run("agent", "clerk", "A lamp.");
  const actor = { id: "grace", kind: "human_reviewer" as const };
  const command = { type: "approve" as const, number: 1, decision: "approved" as const, note: "", actor };
  await world.engine.command(world.caller.tenant_id, run_id, command);
  await world.rests(run_id);
  const request: StartFork = { step: 4, overrides: { instructions: "Be rude." } };
  const session = await world.settled(await world.replays.fork(world.caller, run_id, request));
  expect(session.steps).toMatchObject({ cached: 1, live: 1 });
  const diff = await diffs.compare(world.caller, run_id, session.replay_id);
  expect(diff.attribution.primary).toMatchObject({ cause: "prompt" });
  expect(diff.sections.find((one) => one.section === "policy")).toMatchObject({ status: "equal" });
});
