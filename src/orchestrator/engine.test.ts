// The engine with scripted models and tools over the in-memory journal: what users rely on, case by case.
import { describe, expect, test } from "vitest";
import { freshRun, openEngine, startData, TENANT } from "../../test/support/engine.ts";
import type { Harness } from "../../test/support/engine.ts";
import type { AgentSpec, Catalog, SharedBudget, WorkflowNode, WorkflowSpec } from "../contract/catalog.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { Job, JobOutcome, JobQueue, JobResult, ModelRoute, ToolCall, ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { decodeBody } from "../core/chain.ts";
import { matchesAny } from "../core/pattern.ts";
import { Policy } from "../core/policy.ts";
import type { PolicyRule } from "../core/policy.ts";
import { verifyRun } from "../journal/verify.ts";

const tool = (name: string, over: Partial<ToolDefinition> = {}): ToolDefinition => ({
  name,
  version: 1,
  digest: `sha256:${name}`,
  kind: "http",
  description: "",
  output_schema: null,
  effect_class: "external",
  idempotent: false,
  input_schema: { type: "object", properties: { n: { type: "integer" } }, additionalProperties: false },
  timeout_ms: 1_000,
  attempts_max: 3,
  cost_micro_usd: 0,
  config: {},
  ...over,
});
const route: ModelRoute = {
  name: "m",
  version: 1,
  provider: "recorded",
  model: "m",
  base_url: null,
  api_key: null,
  recording: null,
  concurrency_max: 1,
  timeout_ms: 1_000,
  attempts_max: 2,
};
const agent = (over: Partial<AgentSpec> = {}): AgentSpec => ({
  name: "bot",
  version: 1,
  digest: "d",
  model: "m",
  instructions: "Be good.",
  tools: ["t.*"],
  final_tools: [],
  turns_max: 5,
  max_output_tokens: 100,
  params: {},
  output_schema: null,
  mode: "single",
  budget: {},
  deadline_ms: null,
  on_denied: "continue",
  ...over,
});
const node = (id: string, needs: number[], over: Partial<WorkflowNode> = {}): WorkflowNode => ({
  id,
  kind: "tool",
  needs,
  tool: "t.a",
  args: {},
  on_error: "fail",
  ...over,
});
const flow = (nodes: WorkflowNode[], over: Partial<WorkflowSpec> = {}): WorkflowSpec => ({
  name: "flow",
  version: 1,
  digest: "d",
  nodes,
  dependents: nodes.map((_, i) => nodes.flatMap((n, k) => (n.needs.includes(i) ? [k] : []))),
  output: null,
  budget: {},
  deadline_ms: null,
  ...over,
});

interface World {
  agent?: AgentSpec;
  workflow?: WorkflowSpec;
  tools?: ToolDefinition[];
  budgets?: SharedBudget[];
  priced?: boolean;
}

function catalogOf(world: World): Catalog {
  const tools = new Map(
    (world.tools ?? [tool("t.a"), tool("t.b"), tool("t.idem", { idempotent: true })]).map((t) => [t.name, t]),
  );
  const budgets = world.budgets ?? [];
  return {
    agent: () => world.agent ?? null,
    workflow: () => world.workflow ?? null,
    tool: (name) => tools.get(name) ?? null,
    toolsMatching: (patterns) => [...tools.values()].filter((t) => matchesAny(patterns, t.name)),
    model: () => route,
    budgets: () => budgets,
    modelOf: () => null,
    price: (model) =>
      world.priced === false
        ? null
        : { model, from: "2020-01-01", input_micro_per_mtok: 1_000_000, output_micro_per_mtok: 1_000_000 },
  };
}

const ALLOW: PolicyRule[] = [{ id: "all", effect: "allow" }];
const policyOf = (rules: PolicyRule[]) => new Policy({ policies: [{ name: "p", version: 1, rules }] });

type Script = (job: Job, nth: number) => JobOutcome | Promise<JobOutcome>;
const result = (value: string): JobOutcome => ({ ok: true, kind: "tool", result: value });
const says = (
  content: string | null,
  calls: ToolCall[] = [],
  usage = { input_tokens: 5, output_tokens: 5 },
): JobOutcome => ({
  ok: true,
  kind: "model",
  content,
  tool_calls: calls,
  finish_reason: "stop",
  usage,
  response_model: "m",
});
const calls = (name: string, args = "{}", id = "c1"): ToolCall => ({ id, name, arguments: args });
const fails = (cls: "transient" | "permanent" | "unknown_outcome" | "rate_limited"): JobOutcome => ({
  ok: false,
  failure: { class: cls, code: `was_${cls}`, message: cls },
});

async function open(
  world: World,
  script: Script,
  rules = ALLOW,
): Promise<Harness & { events(id: string): StoredEvent[]; jobs: Job[]; report: (r: JobResult[]) => void }> {
  const jobs: Job[] = [];
  let report: (results: JobResult[]) => void = () => undefined;
  const queue = (deliver: (results: readonly JobResult[]) => void): JobQueue => {
    report = deliver;
    return {
      dispatch: (batch) => {
        for (const job of batch) {
          jobs.push(job);
          const { tenant_id, run_id, step, attempt, kind } = job;
          void Promise.resolve(script(job, jobs.length - 1)).then((outcome) =>
            deliver([{ tenant_id, run_id, step, attempt, kind, duration_ms: 1, outcome }]),
          );
        }
      },
      abort: () => undefined,
    };
  };
  const harness = await openEngine({
    catalog: catalogOf(world),
    policy: rules.length === 0 ? null : policyOf(rules),
    queue,
  });
  const events = (id: string) =>
    harness.store.rows.filter((row) => row.run_id === id).flatMap((row) => decodeBody(row.body));
  return { ...harness, events, jobs, report: (results) => report(results) };
}

async function finish(
  harness: Harness,
  kind: "agent" | "workflow",
  extra = {},
): Promise<{ id: string; state: string; reason: string | null; output: unknown }> {
  const id = freshRun();
  await harness.engine.start({
    tenant_id: TENANT,
    run_id: id,
    command: { type: "start", data: startData(kind, kind === "agent" ? "bot" : "flow", "go", extra) },
  });
  for (let i = 0; i < 400; i++) {
    const run = harness.store.runs.get(id);
    if (run && !["running", "waiting"].includes(run.state)) {
      const rows = await harness.store.readRun(null, id, 1, 1_000);
      expect(verifyRun(rows)).toHaveProperty("events");
      const end = rows.flatMap((row) => decodeBody(row.body)).findLast((event) => event.type.startsWith("run."));
      return { id, state: run.state, reason: run.reason, output: end?.data["output"] };
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return {
    id,
    state: harness.store.runs.get(id)?.state ?? "none",
    reason: harness.store.runs.get(id)?.reason ?? null,
    output: null,
  };
}

describe("an agent", () => {
  test("calls tools in parallel; results enter the conversation in the order of the calls, whichever came first", async () => {
    const h = await open({ agent: agent() }, async (job) => {
      if (job.kind === "model")
        return job.messages.length === 2
          ? says(null, [calls("t.a", '{"n":1}', "x"), calls("t.b", '{"n":2}', "y")])
          : says("done");
      if (job.tool.name === "t.a") await new Promise((resolve) => setTimeout(resolve, 30));
      return result(job.tool.name);
    });
    expect(await finish(h, "agent")).toMatchObject({ state: "succeeded", output: "done" });
    const last = h.jobs.at(-1);
    expect(last?.kind === "model" && last.messages.slice(2)).toMatchObject([
      { role: "assistant" },
      { role: "tool", call_id: "x", content: "t.a" },
      { role: "tool", call_id: "y", content: "t.b" },
    ]);
  });

  test.each<[string, ToolCall, PolicyRule[], string]>([
    ["a tool outside its list", calls("other"), ALLOW, "unknown_tool"],
    ["a tool it does not list", calls("x.listed"), ALLOW, "not_in_allowlist"],
    ["arguments that are no JSON", calls("t.a", "{broken"), ALLOW, "invalid_arguments"],
    ["arguments that do not fit", calls("t.a", '{"n":"x"}'), ALLOW, "invalid_arguments"],
    [
      "a call that a rule denies",
      calls("t.a"),
      [...ALLOW, { id: "no", effect: "deny", match: { tools: ["t.a"] }, reason: "not_today" }],
      "not_today",
    ],
  ])("%s is denied, the model is told, and the run goes on", async (_name, call, rules, reason) => {
    const h = await open(
      { agent: agent(), tools: [tool("t.a"), tool("x.listed")] },
      (job) => (job.kind === "model" && job.messages.length === 2 ? says(null, [call]) : says("sorry")),
      rules,
    );
    const { id, state } = await finish(h, "agent");
    expect(state).toBe("succeeded");
    expect(h.events(id).find((event) => event.type === "tool.denied")?.data["reason"]).toBe(reason);
    expect(h.jobs.some((job) => job.kind === "tool")).toBe(false);
    const last = h.jobs.at(-1);
    expect(last?.kind === "model" && last.messages.at(-1)).toMatchObject({ role: "tool", is_error: true });
  });

  test("a rule that blocks ends the run as policy_blocked; so does a model without price, and no policy at all", async () => {
    const once: Script = (job) => (job.kind === "model" ? says(null, [calls("t.a")]) : result("x"));
    const block = await open({ agent: agent() }, once, [
      ...ALLOW,
      { id: "no", effect: "deny", match: { tools: ["t.a"] }, block_run: true },
    ]);
    expect(await finish(block, "agent")).toMatchObject({ state: "policy_blocked" });
    expect(await finish(await open({ agent: agent(), priced: false }, once), "agent")).toMatchObject({
      state: "policy_blocked",
      reason: "no_price",
    });
    expect(await finish(await open({ agent: agent() }, once, []), "agent")).toMatchObject({
      state: "policy_blocked",
      reason: "policy_unavailable",
    });
  });

  test("an answer that does not fit its schema is asked for again, and fails when it never fits", async () => {
    const output_schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] };
    const learns = await open({ agent: agent({ output_schema }) }, (_job, n) =>
      says(n === 0 ? "no json" : '```json\n{"ok":true}\n```'),
    );
    expect(await finish(learns, "agent")).toMatchObject({ state: "succeeded", output: { ok: true } });
    const never = await open({ agent: agent({ output_schema }) }, () => says("{}"));
    expect(await finish(never, "agent")).toMatchObject({ state: "failed", reason: "output_invalid" });
    expect(never.jobs).toHaveLength(LIMITS.structured_output_retries + 2 - 1 + 0);
  });

  test("its turns are limited", async () => {
    const h = await open({ agent: agent({ turns_max: 3 }) }, (job) =>
      job.kind === "model" ? says(null, [calls("t.a")]) : result("x"),
    );
    expect(await finish(h, "agent")).toMatchObject({ state: "failed", reason: "too_many_turns" });
    expect(h.jobs.filter((job) => job.kind === "model")).toHaveLength(3);
  });

  test.each([
    [LIMITS.tool_calls_per_turn_max, "succeeded"],
    [LIMITS.tool_calls_per_turn_max + 1, "failed"],
  ])("%i tool calls in one turn: %s", async (count, state) => {
    const h = await open({ agent: agent() }, (job) =>
      job.kind === "model"
        ? job.messages.length === 2
          ? says(
              null,
              Array.from({ length: count }, (_, i) => calls("t.idem", "{}", `c${i}`)),
            )
          : says("done")
        : result("x"),
    );
    expect((await finish(h, "agent")).state).toBe(state);
  });

  test("a failing model is tried again and then ends the run; a failing tool is told to the model", async () => {
    const model = await open({ agent: agent() }, () => fails("transient"));
    expect(await finish(model, "agent")).toMatchObject({ state: "failed", reason: "was_transient" });
    expect(model.jobs.map((job) => job.attempt)).toEqual([1, 2]);
    const broken = await open({ agent: agent() }, (job) =>
      job.kind === "tool" ? fails("permanent") : job.messages.length === 2 ? says(null, [calls("t.a")]) : says("I see"),
    );
    expect(await finish(broken, "agent")).toMatchObject({ state: "succeeded", output: "I see" });
  });

  test("a provider that charges more than the bound is settled truthfully, and the run stops", async () => {
    const h = await open({ agent: agent() }, () => says("hi", [], { input_tokens: 5, output_tokens: 90_000 }));
    const { id, state } = await finish(h, "agent");
    expect(state).toBe("budget_exceeded");
    expect(h.events(id).map((event) => event.type)).toContain("budget.overrun");
    expect(h.store.runs.get(id)?.cost_micro_usd).toBe(90_005);
  });
});

describe("a workflow", () => {
  test("runs branches side by side and joins", async () => {
    const h = await open(
      {
        workflow: flow([
          node("a", []),
          node("b", [0]),
          node("c", [0]),
          node("d", [1, 2], { args: { n: "${steps.b.output}" } }),
        ]),
      },
      (job) => ({ ok: true, kind: "tool", result: job.step }),
    );
    expect(await finish(h, "workflow")).toMatchObject({ state: "succeeded" });
    const order = h.jobs.map((job) => job.kind === "tool" && job.args);
    expect(order.at(-1)).toEqual({ n: 2 });
    expect(h.jobs).toHaveLength(4);
  });

  test("a transient failure is tried again with another attempt, a permanent one is not", async () => {
    const flaky = await open({ workflow: flow([node("a", [])]) }, (_job, n) =>
      n < 2 ? fails("transient") : result("ok"),
    );
    expect(await finish(flaky, "workflow")).toMatchObject({ state: "succeeded" });
    expect(flaky.jobs.map((job) => job.attempt)).toEqual([1, 2, 3]);
    expect(new Set(flaky.jobs.map((job) => job.kind === "tool" && job.idempotency_key)).size).toBe(1);
    const broken = await open({ workflow: flow([node("a", [])]) }, () => fails("permanent"));
    expect(await finish(broken, "workflow")).toMatchObject({ state: "failed", reason: "was_permanent" });
    expect(broken.jobs).toHaveLength(1);
  });

  test("an unknown outcome is in doubt for a tool that is not idempotent, and tried again for one that is", async () => {
    const idem = await open({ workflow: flow([node("a", [], { tool: "t.idem" })]) }, (_job, n) =>
      n === 0 ? fails("unknown_outcome") : result("ok"),
    );
    expect(await finish(idem, "workflow")).toMatchObject({ state: "succeeded" });
    const h = await open({ workflow: flow([node("a", [])]) }, () => fails("unknown_outcome"));
    const { id, state, reason } = await finish(h, "workflow");
    expect([state, reason, h.jobs.length]).toEqual(["waiting", "in_doubt", 1]);
    const actor = { id: "ada", kind: "user" as const };
    await h.engine.command(TENANT, id, {
      type: "resolve",
      step: 1,
      resolution: { outcome: "completed", result: "seen", note: "" },
      actor,
    });
    expect(h.store.runs.get(id)?.state).toBe("succeeded");
  });

  test("on_error continue goes on without the step; a reference to nothing fails it", async () => {
    const h = await open({ workflow: flow([node("a", [], { on_error: "continue" }), node("b", [0])]) }, (_job, n) =>
      n === 0 ? fails("permanent") : result("ok"),
    );
    expect(await finish(h, "workflow")).toMatchObject({ state: "succeeded" });
    const lost = await open(
      { workflow: flow([node("a", []), node("b", [0], { args: { n: "${steps.a.output.nope}" } })]) },
      () => result("x"),
    );
    expect(await finish(lost, "workflow")).toMatchObject({ state: "failed", reason: "unresolved_reference" });
  });

  test("a result that is late, doubled or of another attempt is refused and changes nothing", async () => {
    const h = await open({ workflow: flow([node("a", []), node("b", [0])]) }, (job) =>
      job.step === 1 ? result("one") : new Promise<JobOutcome>(() => undefined),
    );
    const id = freshRun();
    await h.engine.start({
      tenant_id: TENANT,
      run_id: id,
      command: { type: "start", data: startData("workflow", "flow") },
    });
    await new Promise((resolve) => setTimeout(resolve, 30));
    const before = h.events(id).length;
    const base = { tenant_id: TENANT, run_id: id, kind: "tool" as const, duration_ms: 1, outcome: result("forged") };
    h.report([
      { ...base, step: 1, attempt: 1 },
      { ...base, step: 2, attempt: 2 },
      { ...base, step: 3, attempt: 1 },
      { ...base, step: 2, attempt: 1, tenant_id: "ten_other" },
      { ...base, step: 2, attempt: 1, kind: "model" },
    ]);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(h.events(id)).toHaveLength(before);
  });

  test("a result after a cancel is recorded as raced, and the state stays", async () => {
    let answer: (outcome: JobOutcome) => void = () => undefined;
    const h = await open(
      { workflow: flow([node("a", [])]) },
      () => new Promise<JobOutcome>((resolve) => (answer = resolve)),
    );
    const id = freshRun();
    await h.engine.start({
      tenant_id: TENANT,
      run_id: id,
      command: { type: "start", data: startData("workflow", "flow") },
    });
    await h.engine.command(TENANT, id, { type: "cancel", reason: "", actor: { id: "ada", kind: "user" } });
    await new Promise((resolve) => setTimeout(resolve, LIMITS.stop_grace_ms + 100));
    expect(h.store.runs.get(id)?.state).toBe("cancelled");
    answer(result("too late"));
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(h.events(id).at(-1)).toMatchObject({ type: "journal.late", data: { reason: "cancel_raced" } });
    expect(h.store.runs.get(id)?.state).toBe("cancelled");
  });
});

describe("budgets", () => {
  const limit = (micro: number, action: SharedBudget["action"] = "stop"): SharedBudget[] => [
    {
      name: "all",
      scope: "project",
      subject: "*",
      period: "total",
      limit_micro_usd: micro,
      limit_tokens: null,
      thresholds: [80],
      action,
    },
  ];

  test("1,000 calls at once on one limit: as many as it covers run, not one micro-dollar more, and none is leaked", async () => {
    const price = 7;
    const h = await open(
      {
        workflow: flow([node("a", [])]),
        tools: [tool("t.a", { cost_micro_usd: price })],
        budgets: limit(333 * price + 3),
      },
      async () => {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
        return result("x");
      },
    );
    const states = (await Promise.all(Array.from({ length: 1_000 }, () => finish(h, "workflow")))).map(
      (run) => run.state,
    );
    expect(states.filter((state) => state === "succeeded")).toHaveLength(333);
    expect(states.filter((state) => state === "budget_exceeded")).toHaveLength(667);
    expect([...h.store.budgets.values()]).toMatchObject([{ spent_micro_usd: 333 * price, reserved_micro_usd: 0 }]);
  });

  test("the action says what happens at the limit", async () => {
    const world = (action: SharedBudget["action"]): World => ({
      workflow: flow([node("a", [], { on_error: "continue" })]),
      tools: [tool("t.a", { cost_micro_usd: 10 })],
      budgets: limit(5, action),
    });
    for (const [action, state] of [
      ["stop", "budget_exceeded"],
      ["deny", "succeeded"],
      ["warn", "succeeded"],
    ] as const) {
      const h = await open(world(action), () => result("x"));
      expect((await finish(h, "workflow")).state, action).toBe(state);
      expect(h.jobs.length, action).toBe(action === "warn" ? 1 : 0);
    }
  });

  test("each limit of a run stops it by itself", async () => {
    const cases: [string, object, string][] = [
      ["cost_micro_usd", { cost_micro_usd: 9 }, "run.cost_micro_usd"],
      ["tool_calls", { tool_calls: 0 }, "run.tool_calls"],
      ["model_calls", { model_calls: 0 }, "run.model_calls"],
      ["total_tokens", { total_tokens: 3 }, "run.total_tokens"],
      ["active_ms", { active_ms: 1 }, "run.active_ms"],
    ];
    for (const [name, budget, reason] of cases) {
      const isTool = name === "tool_calls" || name === "cost_micro_usd";
      const h = await open(
        {
          agent: agent(),
          workflow: flow([node("a", []), node("b", [0])]),
          tools: [tool("t.a", { cost_micro_usd: 10 })],
        },
        async () => {
          await new Promise((resolve) => setTimeout(resolve, 5));
          return name === "active_ms" ? result("x") : says("x");
        },
      );
      expect(await finish(h, isTool || name === "active_ms" ? "workflow" : "agent", { budget }), name).toMatchObject({
        state: "budget_exceeded",
        reason,
      });
    }
  });

  test("a threshold warns once", async () => {
    const h = await open(
      {
        workflow: flow([node("a", []), node("b", [0]), node("c", [1])]),
        tools: [tool("t.a", { cost_micro_usd: 10 })],
        budgets: limit(35),
      },
      () => result("x"),
    );
    const { id } = await finish(h, "workflow");
    expect(h.events(id).filter((event) => event.type === "budget.warned")).toHaveLength(1);
  });
});

test("a payload that has no stored form fails its run, not the engine", async () => {
  const h = await open({ workflow: flow([node("a", [])]) }, (_job, n) =>
    n === 0 ? { ok: true, kind: "tool", result: "nul\0" } : result("fine"),
  );
  expect(await finish(h, "workflow")).toMatchObject({ state: "failed", reason: "unrecordable" });
  expect(await finish(h, "workflow")).toMatchObject({ state: "succeeded" });
});

test("an append may have n bytes and not n + 1", async () => {
  const h = await open({ workflow: flow([node("a", [])]) }, () => result("fine"));
  const bytesOf = (id: string) => h.store.rows.find((row) => row.run_id === id)?.body.length ?? 0;
  const start = async (size: number) => {
    const run_id = freshRun();
    const data = startData("workflow", "workflow", "x".repeat(size));
    await h.engine.start({ tenant_id: TENANT, run_id, command: { type: "start", data } });
    return run_id;
  };
  const around = bytesOf(await start(0));
  const fits = LIMITS.append_bytes_max - around;
  expect(bytesOf(await start(fits))).toBe(LIMITS.append_bytes_max);
  await expect(start(fits + 1)).rejects.toMatchObject({ code: "PAYLOAD_TOO_LARGE" });
});
