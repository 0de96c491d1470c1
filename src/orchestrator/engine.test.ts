// The engine with scripted models and tools over the in-memory journal: what users rely on, case by case.
import { describe, expect, test } from "vitest";
import { freshRun, startData, TENANT } from "../../test/support/engine.ts";
import {
  ALLOW,
  agent,
  calls,
  fails,
  finish,
  flow,
  node,
  open,
  result,
  says,
  tool,
} from "../../test/support/scripted-engine.ts";
import type { Script } from "../../test/support/scripted-engine.ts";
import type { JobOutcome, ToolCall } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { PolicyRule } from "../core/policy.ts";

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

  test("that is ending takes no approvals: nothing is called after everybody was told that nothing will be", async () => {
    const rules: PolicyRule[] = [...ALLOW, { id: "ask", effect: "require_approval", match: { tools: ["t.a"] } }];
    let release: () => void = () => undefined;
    const slow = new Promise<JobOutcome>((resolve) => (release = () => resolve(result("late"))));
    const h = await open(
      { agent: agent() },
      (job) => (job.kind === "model" ? says(null, [calls("t.a", "{}", "x"), calls("t.b", "{}", "y")]) : slow),
      rules,
    );
    const run_id = freshRun();
    const command = { type: "start" as const, data: startData("agent", "bot") };
    await h.engine.start({ tenant_id: TENANT, run_id, command });
    await expect.poll(() => h.jobs.length).toBe(2);
    const grace = { id: "grace", kind: "human_reviewer" as const };
    await h.engine.command(TENANT, run_id, { type: "cancel", reason: "", actor: grace });
    const approval = { type: "approve" as const, number: 1, decision: "approved" as const, note: "", actor: grace };
    await expect(h.engine.command(TENANT, run_id, approval)).rejects.toMatchObject({ code: "RUN_TERMINAL" });
    release();
    await expect.poll(() => h.store.runs.get(run_id)?.state).toBe("cancelled");
    expect(h.jobs.map((job) => (job.kind === "tool" ? job.tool.name : "model"))).toEqual(["model", "t.b"]);
  });

  describe("a model call that needs approval", () => {
    const ASK: PolicyRule[] = [...ALLOW, { id: "ask", effect: "require_approval", match: { kinds: ["model"] } }];
    const grace = { id: "grace", kind: "human_reviewer" as const };
    const asked = async (h: Awaited<ReturnType<typeof open>>) => {
      const run_id = freshRun();
      const command = { type: "start" as const, data: startData("agent", "bot") };
      const { state, reason } = await h.engine.start({ tenant_id: TENANT, run_id, command });
      expect([state, reason, h.jobs]).toEqual(["waiting", "approval", []]);
      const answer = (decision: "approved" | "rejected") =>
        h.engine.command(TENANT, run_id, { type: "approve", number: 1, decision, note: "", actor: grace });
      return { run_id, answer };
    };

    test("is made once it is approved; who approves sees what is said", async () => {
      const h = await open({ agent: agent() }, () => says("done"), ASK);
      const { run_id, answer } = await asked(h);
      const [row] = [...h.store.approvals.values()];
      expect(JSON.parse(row?.shown ?? "{}")).toMatchObject({
        model: "m@1",
        args: { last: { content: "go", role: "user" }, messages: 2 },
      });
      await answer("approved");
      await expect.poll(() => h.store.runs.get(run_id)?.state).toBe("succeeded");
      expect(
        h
          .events(run_id)
          .filter((event) => event.type.startsWith("model."))
          .map((event) => event.type),
      ).toEqual(["model.proposed", "model.requested", "model.completed"]);
    });

    test("ends the run when it is rejected: an agent has no way on without its model", async () => {
      const h = await open({ agent: agent() }, () => says("done"), ASK);
      const { run_id, answer } = await asked(h);
      expect(await answer("rejected")).toMatchObject({ state: "policy_blocked", reason: "approval_rejected" });
      expect(h.events(run_id).some((event) => event.type === "model.denied")).toBe(true);
      expect(h.jobs).toEqual([]);
    });

    test("of a workflow fails its node, whose `on_error` says what follows", async () => {
      const nodes = [node("a", [], { kind: "model", model: "m", prompt: "hi", on_error: "continue" }), node("b", [0])];
      const h = await open({ workflow: flow(nodes) }, () => result("x"), ASK);
      const run_id = freshRun();
      const command = { type: "start" as const, data: startData("workflow", "flow") };
      await h.engine.start({ tenant_id: TENANT, run_id, command });
      await h.engine.command(TENANT, run_id, {
        type: "approve",
        number: 1,
        decision: "rejected",
        note: "",
        actor: grace,
      });
      await expect.poll(() => h.store.runs.get(run_id)?.state).toBe("succeeded");
      expect(h.jobs.map((job) => job.kind)).toEqual(["tool"]);
    });
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
