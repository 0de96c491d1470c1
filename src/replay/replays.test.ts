// Replay and fork over the in-memory journal: what is reused, what is refused, what reaches the world.
import childProcess from "node:child_process";
import dns from "node:dns";
import { Socket } from "node:net";
import { expect, test } from "vitest";
import { ReplayWorld } from "../../test/support/replay-world.ts";
import type { Script } from "../../test/support/replay-world.ts";
import type { JobOutcome } from "../contract/jobs.ts";
import type { StartFork } from "../contract/replay.ts";
import { decodeBody } from "../core/chain.ts";
import { redecide } from "../core/redecide.ts";
import { emptyRun } from "../core/run-state.ts";

const MANIFESTS = `
kind: Model
metadata: { name: large }
spec: { provider: openai, model: gpt-large, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Model
metadata: { name: small }
spec: { provider: openai, model: gpt-small, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Tool
metadata: { name: search }
spec: { kind: http, method: GET, url: "http://localhost/search", input_schema: { type: object } }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "http://localhost/pay", effect_class: irreversible, input_schema: { type: object } }
---
kind: Prompt
metadata: { name: tone }
spec: { text: Be polite. }
---
kind: Agent
metadata: { name: clerk }
spec: { model: large, prompt: tone, tools: [search, pay] }
---
kind: Workflow
metadata: { name: fan }
spec:
  steps:
    - parallel: [{ id: a, tool: search, args: { q: same } }, { id: b, tool: search, args: { q: same } }]
    - { id: c, tool: search, args: { q: "\${input}" } }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`;

const usage = { input_tokens: 10, output_tokens: 5 };
const says = (content: string | null, ...calls: [name: string, args: object][]): JobOutcome => ({
  ok: true,
  kind: "model",
  content,
  tool_calls: calls.map(([name, args], i) => ({ id: `c${i}`, name, arguments: JSON.stringify(args) })),
  finish_reason: "stop",
  usage,
  response_model: "m",
});

/** Searches, pays what was found, and says so; a small model pays half. */
const clerk: Script = (job) => {
  if (job.kind === "tool") return { ok: true, kind: "tool", result: job.tool.name === "pay" ? "paid" : { price: 40 } };
  const turns = job.messages.filter((message) => message.role === "assistant").length;
  if (turns === 0) return says(null, ["search", { q: "lamp" }]);
  const amount = job.route.name === "small" ? 20 : 40;
  return turns === 1 ? says(null, ["pay", { amount }]) : says(`Paid ${amount}.`);
};

const events = (world: ReplayWorld, run_id: string) =>
  world.store.rows.filter((row) => row.run_id === run_id).flatMap((row) => decodeBody(row.body));
const noSecrets = <T extends { at: number }>({ at: _at, ...event }: T) => event;

async function clerkRun(script: Script = clerk) {
  const world = new ReplayWorld(MANIFESTS, script);
  await world.engine.open();
  const run_id = await world.run("agent", "clerk", "Buy a lamp.");
  expect(world.store.runs.get(run_id)?.state).toBe("succeeded");
  const before = world.digest(run_id);
  const made = world.calls.length;
  return {
    world,
    run_id,
    /** The source is as it was, and so many calls have reached the world since. */
    untouched: (calls: number) => {
      expect(world.digest(run_id)).toBe(before);
      expect(world.calls.length - made).toBe(calls);
    },
    fork: async (request: StartFork) => world.settled(await world.replays.fork(world.caller, run_id, request)),
  };
}

test("an exact replay takes every decision again and makes no call", async () => {
  const { world, run_id, untouched } = await clerkRun();
  const session = await world.replays.start(world.caller, { run_id, mode: "exact" });
  expect(session).toMatchObject({
    state: "completed_exact",
    source_run_id: run_id,
    run_state: "succeeded",
    steps: { exact: 5, cached: 0, simulated: 0, live: 0 },
    mismatch: null,
  });
  const [first, ...rest] = events(world, session.replay_id).map(noSecrets);
  const [start, ...source] = events(world, run_id).map(noSecrets);
  expect(rest).toEqual(source);
  expect(first?.data).toMatchObject({ ...start?.data, kind: "replay" });
  expect(world.store.runs.get(session.replay_id)).toMatchObject({ cost_micro_usd: 0, source_run_id: run_id });
  untouched(0);
  // The replay of a replay is a replay of what that one replayed.
  const again = await world.replays.start(world.caller, { run_id: session.replay_id, mode: "exact" });
  expect(again).toMatchObject({ state: "completed_exact", source_run_id: run_id });
});

test("a decision that was recorded otherwise is found, with the field that differs", async () => {
  const { world, run_id } = await clerkRun();
  // What nobody can do to a journal, done to the one in memory: the run's own decision is another than its inputs give.
  const row = world.store.rows.find((one) => one.run_id === run_id && one.body.includes('"amount":40'));
  if (!row) throw new Error("no payment");
  const appends = world.store.rows
    .filter((one) => one.run_id === run_id)
    .map((one) =>
      decodeBody(
        one === row
          ? Buffer.from(one.body.toString().replace('"args":{"amount":40}', '"args":{"amount":4}'))
          : one.body,
      ),
    );
  const { mismatch } = redecide({
    appends,
    begin: () => emptyRun(world.caller.tenant_id, run_id),
    governed: () => [world.shelf.of({ ...world.caller, env: "dev" })],
  });
  expect(mismatch).toMatchObject({ paths: ["/data/args/amount"], step: 4 });
});

test("what governed the run then governs its replay: a policy and a prompt that changed since change nothing", async () => {
  const { world, run_id, untouched } = await clerkRun();
  await new Promise((resolve) => setTimeout(resolve, 5));
  world.shelf.apply(`
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: none, effect: deny }] }
---
kind: Prompt
metadata: { name: tone }
spec: { text: Be rude. }
`);
  const exact = await world.replays.start(world.caller, { run_id, mode: "exact" });
  expect(exact.state).toBe("completed_exact");
  // A cached replay is a run of today.
  const cached = await world.settled(await world.replays.start(world.caller, { run_id, mode: "cached" }));
  expect(cached).toMatchObject({ run_state: "policy_blocked" });
  untouched(0);
});

test("a cached replay finds every outcome by signature and makes no call", async () => {
  const { world, run_id, untouched } = await clerkRun();
  const session = await world.settled(await world.replays.start(world.caller, { run_id, mode: "cached" }));
  expect(session).toMatchObject({ state: "completed_cached", run_state: "succeeded", steps: { cached: 5, live: 0 } });
  const label = events(world, session.replay_id).find((event) => event.type === "tool.completed")?.data["determinism"];
  expect(label).toMatchObject({ mode: "cached", reason: "cache_hit_signature_match", source: { run_id } });
  expect(world.store.runs.get(session.replay_id)).toMatchObject({ cost_micro_usd: 0, tokens: 0, kind: "replay" });
  untouched(0);
});

test("a cached replay stops where nothing was recorded, and says which field differs", async () => {
  const { world, run_id, untouched } = await clerkRun();
  await new Promise((resolve) => setTimeout(resolve, 5));
  world.shelf.apply(
    MANIFESTS.split("---")
      .find((part) => part.includes("name: search"))
      ?.replace("/search", "/find") ?? "",
  );
  const session = await world.settled(await world.replays.start(world.caller, { run_id, mode: "cached" }));
  expect(session).toMatchObject({
    state: "failed_execution",
    reason: "signature_mismatch",
    failed_step: 1,
    run_state: "failed",
    mismatch: { paths: ["/request/tools/1/digest"] },
  });
  untouched(0);
});

test("payloads stand in for outcomes, and are labelled", async () => {
  const { world, run_id, untouched } = await clerkRun();
  const simulate = [{ tool: "search", result: { price: 99 } }];
  const stopped = await world.settled(await world.replays.start(world.caller, { run_id, mode: "simulated", simulate }));
  // The model was never asked about a lamp for 99.
  expect(stopped).toMatchObject({
    state: "failed_execution",
    reason: "signature_mismatch",
    failed_step: 3,
    steps: { simulated: 1, cached: 1 },
  });
  const answered = await world.settled(
    await world.replays.start(world.caller, {
      run_id,
      mode: "simulated",
      simulate: [...simulate, { model: "large", step: 3, result: "Too dear." }],
    }),
  );
  expect(answered).toMatchObject({
    state: "completed_mixed",
    run_state: "succeeded",
    steps: { simulated: 2, cached: 1, live: 0 },
  });
  untouched(0);
});

test("a fork with another model: what is before is its past, what follows is made anew, and writes are not", async () => {
  const { world, run_id, fork, untouched } = await clerkRun();
  const session = await fork({ step: 3, overrides: { model: "small" } });
  // The small model was called; the payment it wanted was never recorded and is not made.
  expect(session).toMatchObject({
    state: "failed_execution",
    reason: "write_not_permitted",
    failed_step: 4,
    steps: { live: 1 },
    fork_step: 3,
  });
  expect(world.calls.at(-1)).toMatchObject({ kind: "model", route: { name: "small" } });
  untouched(1);
  const simulated = await fork({
    step: 3,
    overrides: { model: "small" },
    simulate: [{ tool: "pay", result: "paid half" }],
  });
  expect(simulated).toMatchObject({
    state: "completed_mixed",
    run_state: "succeeded",
    steps: { live: 2, simulated: 1 },
  });
  expect(events(world, simulated.replay_id).at(-1)?.data["output"]).toBe("Paid 20.");
  expect(events(world, simulated.replay_id).some((event) => (event.step ?? 9) < 3)).toBe(false);
  expect(world.store.runs.get(run_id)?.state).toBe("succeeded");
});

test("a fork that changes nothing reuses everything: taint is a matter of signatures alone", async () => {
  const { fork, untouched } = await clerkRun();
  expect(await fork({ step: 2 })).toMatchObject({ state: "completed_cached", steps: { cached: 4, live: 0 } });
  untouched(0);
});

test("another result of a tool: what follows from it is not reused, what does not is", async () => {
  const { world, fork, untouched } = await clerkRun();
  const session = await fork({
    step: 2,
    simulate: [
      { tool: "search", step: 2, result: { price: 41 } },
      { tool: "pay", result: "paid" },
    ],
  });
  expect(session).toMatchObject({ state: "completed_mixed", steps: { simulated: 2, cached: 0, live: 2 } });
  const sent = world.calls.at(-1);
  expect(JSON.stringify(sent)).toContain("41");
  untouched(2);
});

test("instructions, a prompt's version, parameters and the input reach the model that is called", async () => {
  const { world, fork } = await clerkRun();
  world.shelf.apply("kind: Prompt\nmetadata: { name: tone }\nspec: { text: Be brief. }\n");
  const simulate = [{ tool: "pay", result: "paid" }];
  const sentBy = async (request: StartFork) => {
    const from = world.calls.length;
    await fork(request);
    return world.calls[from];
  };
  expect(await sentBy({ step: 3, overrides: { instructions: "Be rude." }, simulate })).toMatchObject({
    messages: [{ role: "system", content: "Be rude." }, { role: "user" }, { role: "assistant" }, { role: "tool" }],
  });
  expect(await sentBy({ step: 3, overrides: { prompts: { tone: 2 } }, simulate })).toMatchObject({
    messages: [{ content: "Be brief." }, {}, {}, {}],
  });
  expect(await sentBy({ step: 3, overrides: { params: { temperature: 0 } }, simulate })).toMatchObject({
    params: { temperature: 0 },
  });
  expect(await sentBy({ step: 1, overrides: { input: "Buy two." }, simulate })).toMatchObject({
    messages: [{ role: "system" }, { role: "user", content: "Buy two." }],
  });
});

test("arguments of a tool are replaced: other settings of a retriever are another call", async () => {
  const { world, fork } = await clerkRun();
  const session = await fork({
    step: 2,
    overrides: { arguments: { search: { top_k: 3 } } },
    simulate: [{ tool: "pay", result: "paid" }],
  });
  expect(session.steps).toMatchObject({ live: 1, cached: 2, simulated: 1 });
  expect(world.calls.find((job) => job.kind === "tool" && job.args["top_k"] === 3)).toBeDefined();
});

test("a budget and a policy of the fork's own hold for it", async () => {
  const { world, fork } = await clerkRun();
  expect(await fork({ step: 3, overrides: { budget: { model_calls: 0 } }, reuse: "none" })).toMatchObject({
    run_state: "budget_exceeded",
  });
  world.shelf.apply(
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: no, effect: deny, match: { tools: [pay] } }, { id: all, effect: allow }] }\n",
  );
  const session = await fork({ step: 3, overrides: { policies: { main: 2 } } });
  expect(events(world, session.replay_id).find((event) => event.type === "tool.denied")).toBeDefined();
  expect(await fork({ step: 3, overrides: { policies: { main: 1 } } })).toMatchObject({ state: "completed_cached" });
});

test("a write is made in a fork only when the operator, a rule and a person say so", async () => {
  const { world, run_id, fork } = await clerkRun();
  const overrides = { model: "small" };
  const refusedByRule = await fork({ step: 3, overrides, live_writes: true });
  expect(events(world, refusedByRule.replay_id).find((event) => event.type === "tool.denied")?.data["reason"]).toBe(
    "write_not_permitted",
  );
  world.shelf.apply(
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: all, effect: allow, replay_live: true }] }\n",
  );
  const asked = await fork({ step: 3, overrides, live_writes: true });
  expect(asked).toMatchObject({ state: "running", run_state: "waiting" });
  const paid = () => world.calls.filter((job) => job.kind === "tool" && job.tool.name === "pay").length;
  const before = paid();
  await world.engine.command(world.caller.tenant_id, asked.replay_id, {
    type: "approve",
    number: 1,
    decision: "approved",
    note: "",
    actor: { id: "grace", kind: "human_reviewer" },
  });
  expect(await world.settled(asked)).toMatchObject({ state: "completed_mixed", run_state: "succeeded" });
  expect(paid() - before).toBe(1);
  expect(world.store.runs.get(run_id)?.state).toBe("succeeded");
});

test("a policy's own payload answers what nothing was recorded for", async () => {
  const { world, fork, untouched } = await clerkRun();
  world.shelf.apply(
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: pay, effect: allow, match: { tools: [pay] }, simulate: pretended }, { id: all, effect: allow }] }\n",
  );
  const session = await fork({ step: 3, overrides: { model: "small" } });
  expect(session).toMatchObject({ state: "completed_mixed", steps: { live: 2, simulated: 1 } });
  const label = events(world, session.replay_id).find((event) => event.type === "tool.completed")?.data["determinism"];
  expect(label).toEqual({ mode: "simulated", reason: "simulation_policy_fallback" });
  untouched(2);
});

test("parallel branches do not swap their answers", async () => {
  let n = 0;
  const world = new ReplayWorld(MANIFESTS, () => ({ ok: true, kind: "tool", result: (n += 1) }));
  await world.engine.open();
  const run_id = await world.run("workflow", "fan", "x");
  const session = await world.settled(await world.replays.start(world.caller, { run_id, mode: "cached" }));
  expect(session).toMatchObject({ state: "completed_cached", steps: { cached: 3 } });
  const results = (id: string) =>
    events(world, id)
      .filter((event) => event.type === "tool.completed")
      .map((event) => `${event.step}: ${String(event.data["result"])}`)
      .toSorted();
  expect(results(session.replay_id)).toEqual(results(run_id));
  const fork = await world.settled(
    await world.replays.fork(world.caller, run_id, { step: 3, overrides: { input: "y" } }),
  );
  expect(fork).toMatchObject({ state: "completed_mixed", steps: { live: 1, cached: 0 } });
  expect(world.calls.at(-1)).toMatchObject({ args: { q: "y" } });
});

test("a call in flight where a fork begins ends as it did in the source", async () => {
  let n = 0;
  const world = new ReplayWorld(MANIFESTS, () => ({ ok: true, kind: "tool", result: (n += 1) }));
  await world.engine.open();
  const run_id = await world.run("workflow", "fan", "x");
  const session = await world.settled(await world.replays.fork(world.caller, run_id, { step: 2 }));
  expect(session).toMatchObject({ state: "completed_cached", steps: { exact: 1, cached: 2, live: 0 } });
});

test("a fork goes on after a crash, and a fork of a fork has both pasts", async () => {
  const { world, run_id, fork } = await clerkRun();
  const simulate = [{ tool: "pay", result: "paid half" }];
  const first = await fork({ step: 3, overrides: { model: "small" }, simulate });
  const second = await world.settled(
    await world.replays.fork(world.caller, first.replay_id, { step: 5, overrides: { instructions: "Be rude." } }),
  );
  expect(second).toMatchObject({ run_state: "succeeded", source_run_id: first.replay_id });
  expect(world.calls.at(-1)).toMatchObject({ kind: "model", route: { name: "small" } });
  const asked = world.calls.at(-1);
  expect(asked?.kind === "model" && asked.messages.length).toBe(6);
  await expect(world.replays.fork(world.caller, first.replay_id, { step: 1 })).rejects.toThrow(run_id);
  const exact = await world.replays.start(world.caller, { run_id: second.replay_id, mode: "exact" });
  expect(exact).toMatchObject({ state: "completed_exact" });
  // Waiting for approval, its process dies; the next one knows its past.
  world.shelf.apply(
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: all, effect: allow, replay_live: true }] }\n",
  );
  const waiting = await fork({ step: 3, overrides: { model: "small" }, live_writes: true });
  expect(waiting.run_state).toBe("waiting");
  await world.restart();
  const actor = { id: "grace", kind: "human_reviewer" as const };
  await world.engine.command(world.caller.tenant_id, waiting.replay_id, {
    type: "approve",
    number: 1,
    decision: "approved",
    note: "",
    actor,
  });
  expect(await world.settled(waiting)).toMatchObject({ run_state: "succeeded" });
});

test.each<[string, StartFork, string]>([
  ["a step that is not there", { step: 99 }, "fork_point_not_found"],
  ["an input after the beginning", { step: 3, overrides: { input: "x" } }, "change_before_fork_point"],
  [
    "a payload for a step before",
    { step: 3, simulate: [{ tool: "search", step: 2, result: 1 }] },
    "change_before_fork_point",
  ],
  ["a model that is not there", { step: 3, overrides: { model: "none" } }, "override_not_applicable"],
  ["a version that is not there", { step: 3, overrides: { tools: { search: 9 } } }, "override_not_applicable"],
])("refused, and the source unchanged: %s", async (_what, request, reason) => {
  const { world, run_id, untouched } = await clerkRun();
  await expect(world.replays.fork(world.caller, run_id, request)).rejects.toMatchObject({
    code: "REPLAY_REFUSED",
    details: { reason },
  });
  untouched(0);
});

test("a run that has not ended, or whose artifact is gone, cannot be replayed", async () => {
  const digest = `sha256:${"0".repeat(64)}`;
  const { world, run_id } = await clerkRun((job) =>
    job.kind === "tool" ? { ok: true, kind: "tool", result: "long", result_ref: { digest, bytes: 9 } } : clerk(job),
  );
  await expect(world.replays.start(world.caller, { run_id, mode: "exact" })).rejects.toMatchObject({
    details: { reason: "artifact_missing", digest },
  });
  world.artifacts.add(digest);
  expect((await world.replays.start(world.caller, { run_id, mode: "exact" })).state).toBe("completed_exact");
  world.shelf.apply(
    "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: all, effect: require_approval, match: { kinds: [tool] } }, { id: m, effect: allow }] }\n",
  );
  const open = await world.run("agent", "clerk", "wait");
  await expect(world.replays.start(world.caller, { run_id: open, mode: "exact" })).rejects.toMatchObject({
    details: { reason: "source_not_ended" },
  });
});

test("an exact replay opens no socket, asks for no name and starts no process", async () => {
  const { world, run_id } = await clerkRun();
  const opened: string[] = [];
  const watch = (target: object, name: string): (() => void) => {
    const original: unknown = Reflect.get(target, name);
    Reflect.set(target, name, function (this: unknown, ...args: unknown[]) {
      opened.push(name);
      return (original as (...rest: unknown[]) => unknown).apply(this, args);
    });
    return () => void Reflect.set(target, name, original);
  };
  const undo = [
    watch(Socket.prototype, "connect"),
    watch(dns, "lookup"),
    watch(childProcess, "spawn"),
    watch(globalThis, "fetch"),
  ];
  try {
    const session = await world.replays.start(world.caller, { run_id, mode: "exact" });
    expect(session.state).toBe("completed_exact");
    const probe = new Socket();
    probe.on("error", () => undefined);
    probe.connect(1, "127.0.0.1").destroy();
  } finally {
    for (const back of undo) back();
  }
  // The watch works: the probe's own attempt was seen, and nothing else.
  expect(opened).toEqual(["connect"]);
});
