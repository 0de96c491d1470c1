// Limits of a run at n and at n + 1, on the pure core.
import { expect, test } from "vitest";
import type { Catalog, WorkflowSpec } from "../contract/catalog.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import { AppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { readManifests } from "../orchestrator/manifests.ts";
import { decide } from "./decide.ts";
import { Policy } from "./policy.ts";
import { emptyRun } from "./run-state.ts";

const tool: ToolDefinition = {
  name: "t",
  version: 1,
  digest: "d",
  kind: "builtin",
  description: "",
  input_schema: { type: "object" },
  output_schema: null,
  effect_class: "read",
  idempotent: true,
  timeout_ms: 1,
  attempts_max: 1,
  cost_micro_usd: 0,
  config: {},
};
const workflow: WorkflowSpec = {
  name: "w",
  version: 1,
  digest: "d",
  dependents: [[], []],
  output: null,
  budget: {},
  deadline_ms: null,
  nodes: ["a", "b"].map((id) => ({ id, kind: "tool", needs: [], tool: "t", args: {}, on_error: "fail" })),
};
const catalog: Catalog = {
  agent: () => null,
  workflow: () => workflow,
  tool: () => tool,
  toolsMatching: () => [],
  model: () => null,
  budgets: () => [],
  intent: () => null,
  modelOf: () => null,
  price: () => null,
};
const ctx = {
  now_us: 1,
  random: () => 0,
  catalog,
  policy: new Policy({ policies: [{ name: "p", version: 1, rules: [{ id: "a", effect: "allow" as const }] }] }),
  ledger: { check: () => null, moved: () => [] },
};

test.each([
  [LIMITS.steps_per_run_max - 2, "running"],
  [LIMITS.steps_per_run_max - 1, "failed"],
])("after %i steps, two more: %s", (before, state) => {
  const run = emptyRun("t", "r");
  decide(
    run,
    {
      type: "start",
      data: { env: "dev", kind: "workflow", project: "p", requester: "r", target: { name: "w", version: 1 } },
    },
    { ...ctx, catalog: { ...catalog, workflow: () => ({ ...workflow, nodes: [] }) } },
  );
  const full = emptyRun("t", "r");
  full.step_count = before;
  const events = decide(
    full,
    {
      type: "start",
      data: { env: "dev", kind: "workflow", project: "p", requester: "r", target: { name: "w", version: 1 } },
    },
    ctx,
  );
  expect(events.filter((event) => event.type === "tool.requested")).toHaveLength(state === "running" ? 2 : 1);
  expect(full.stopping?.to ?? full.state).toBe(state);
});

const document = (n: number) =>
  Array.from({ length: n }, (_, i) => `kind: Prompt\nmetadata: { name: p${i} }\nspec: { text: x }`).join("\n---\n");
const rules = (n: number) =>
  `kind: Policy\nmetadata: { name: p }\nspec:\n  rules:\n${Array.from({ length: n }, (_, i) => `    - { id: r${i}, effect: allow }`).join("\n")}`;
const steps = (n: number) =>
  `kind: Workflow\nmetadata: { name: w }\nspec:\n  steps:\n${Array.from({ length: n }, (_, i) => `    - { id: s${i}, tool: t }`).join("\n")}`;
const name = (n: number) => `kind: Prompt\nmetadata: { name: ${"n".repeat(n)} }\nspec: { text: x }`;

test.each<[string, (n: number) => string, number]>([
  ["documents in a file", document, LIMITS.manifest_documents_max],
  ["rules in a policy", rules, LIMITS.rules_per_policy_max],
  ["steps in a workflow", steps, LIMITS.workflow_steps_max],
  ["characters in a name", name, LIMITS.name_chars_max],
])("%s: n is taken, n + 1 is refused", (_what, text, n) => {
  expect(readManifests(text(n)).length).toBeGreaterThan(0);
  expect(() => readManifests(text(n + 1))).toThrow(AppError);
});

test("a file of manifests may be as large as the limit, and not one byte more", () => {
  const padded = (size: number) => `${document(1)}\n#`.padEnd(size, "x");
  expect(readManifests(padded(LIMITS.manifest_bytes_max))).toHaveLength(1);
  expect(() => readManifests(padded(LIMITS.manifest_bytes_max + 1))).toThrow("larger than");
});

test("a provider's Retry-After is honoured up to its limit", () => {
  const due = (retry_after_ms: number): number => {
    const run = emptyRun("t", "r");
    const flaky = { ...ctx, catalog: { ...catalog, tool: () => ({ ...tool, attempts_max: 2 }) } };
    decide(
      run,
      {
        type: "start",
        data: { env: "dev", kind: "workflow", project: "p", requester: "r", target: { name: "w", version: 1 } },
      },
      flaky,
    );
    const failure = { class: "rate_limited" as const, code: "http_429", message: "later", retry_after_ms };
    const result = { tenant_id: "t", run_id: "r", step: 1, attempt: 1, kind: "tool" as const, duration_ms: 1 };
    const events = decide(run, { type: "result", result: { ...result, outcome: { ok: false, failure } } }, flaky);
    return Number(events.find((event) => event.type === "step.retry_scheduled")?.data["due"]);
  };
  expect(due(LIMITS.retry_after_ms_max)).toBe(1 + LIMITS.retry_after_ms_max * 1000);
  expect(due(LIMITS.retry_after_ms_max + 1)).toBe(1 + LIMITS.retry_after_ms_max * 1000);
});
