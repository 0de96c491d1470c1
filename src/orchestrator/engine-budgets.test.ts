// Budgets of runs and of projects in the engine: what is covered runs, and not one micro-dollar more.
import { describe, expect, test } from "vitest";
import { agent, finish, flow, node, open, result, says, tool } from "../../test/support/scripted-engine.ts";
import type { World } from "../../test/support/scripted-engine.ts";
import type { SharedBudget } from "../contract/catalog.ts";

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
