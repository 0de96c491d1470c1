// Which models a task is done with: what it minds is never relaxed, and the same gives the same.
import { expect, test } from "vitest";
import type { IntentSpec } from "../contract/catalog.ts";
import { isAppError } from "../contract/errors.ts";
import type { ModelRoute } from "../contract/jobs.ts";
import type { TaskRequest } from "../contract/tasks.ts";
import { routeTask } from "./routing.ts";

const MODELS: Record<string, Partial<ModelRoute>> = {
  cloud: { p95_ms: 900 },
  premium: { tier: "tier2" },
  llama: { engine: "local", p95_ms: 2_500 },
  tiny: { engine: "local", p95_ms: 300 },
};
const catalog = {
  model: (name: string) => (MODELS[name] ? ({ name, version: 1, model: name, ...MODELS[name] } as ModelRoute) : null),
};
const intent = (over: Partial<IntentSpec> = {}): IntentSpec => ({
  name: "summarise",
  version: 3,
  agent: "writer",
  routes: ["cloud", "llama", "premium", "tiny"],
  tiers: null,
  privacy: "allow-api",
  p95_ms: null,
  budget_micro_usd: 20_000,
  budget_cap_micro_usd: 200_000,
  input: undefined,
  ...over,
});
const route = (task: Pick<TaskRequest, "preferred_engine" | "sla">, over: Partial<IntentSpec> = {}) =>
  routeTask(intent(over), task, catalog);
const names = (...args: Parameters<typeof route>) => route(...args).order.map(({ model }) => model);

test("what minds nothing is done as the intent lists its models", () => {
  expect(route({})).toMatchObject({
    intent: "summarise@3",
    chosen_by: "intent",
    reason: "the first of summarise",
    left_out: [],
  });
  expect(names({})).toEqual(["cloud", "llama", "premium", "tiny"]);
  expect(route({}).order.map(({ engine, tier }) => `${engine}/${tier}`)).toEqual([
    "api/tier1",
    "local/tier0",
    "api/tier2",
    "local/tier0",
  ]);
});

test("a preference moves models, and leaves none out", () => {
  expect(names({ preferred_engine: "local" })).toEqual(["llama", "tiny", "cloud", "premium"]);
  expect(names({ preferred_engine: "api" })).toEqual(["cloud", "premium", "llama", "tiny"]);
  expect(names({ preferred_engine: "hybrid" })).toEqual(["llama", "tiny", "cloud", "premium"]);
  expect(route({ preferred_engine: "local" })).toMatchObject({
    chosen_by: "task",
    reason: "the first of summarise as local is preferred",
  });
});

test("local-only leaves nothing that is somebody else's, whoever of task and intent says so, and whatever is preferred", () => {
  const only = { sla: { privacy: "local-only" }, preferred_engine: "api" } as const;
  expect(names(only)).toEqual(["llama", "tiny"]);
  expect(names({ sla: { privacy: "allow-api" } }, { privacy: "local-only" })).toEqual(["llama", "tiny"]);
  expect(names({ sla: { privacy: "hybrid" }, preferred_engine: "api" })).toEqual(["llama", "tiny", "cloud", "premium"]);
  expect(route(only).left_out).toEqual([
    { model: "cloud", why: "it is not local" },
    { model: "premium", why: "it is not local" },
  ]);
});

test("tiers, latency and models that are not there", () => {
  expect(names({}, { tiers: ["tier0", "tier1"] })).toEqual(["cloud", "llama", "tiny"]);
  // What says nothing of its latency is not known to be too slow.
  expect(names({ sla: { p95_ms: 900 } })).toEqual(["cloud", "premium", "tiny"]);
  expect(names({ sla: { p95_ms: 899 } }, { p95_ms: 10 })).toEqual(["premium", "tiny"]);
  expect(names({}, { p95_ms: 400 })).toEqual(["premium", "tiny"]);
  expect(route({}, { routes: ["gone", "tiny"] })).toMatchObject({
    chosen_by: "task",
    reason: "the first of summarise; left out: gone",
  });
});

test("where none is left the refusal says why of each", () => {
  let refused: unknown;
  try {
    route({ sla: { privacy: "local-only", p95_ms: 100 } });
  } catch (error) {
    refused = error;
  }
  expect(isAppError(refused, "RUN_REFUSED") && refused.message).toBe(
    "No model of intent summarise is left: cloud: it is not local; llama: 95 of 100 of its calls take up to 2500 ms, 100 are asked for; premium: it is not local; tiny: 95 of 100 of its calls take up to 300 ms, 100 are asked for",
  );
});

test("the same gives the same", () => {
  const task = { preferred_engine: "hybrid", sla: { p95_ms: 900, privacy: "hybrid" } } as const;
  expect(route(task)).toEqual(route(structuredClone(task)));
});
