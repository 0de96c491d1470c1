// Agents and workflows with scripted models and tools: an engine over the in-memory journal, and runs taken to their end.
import { expect } from "vitest";
import type { AgentSpec, Catalog, SharedBudget, WorkflowNode, WorkflowSpec } from "../../src/contract/catalog.ts";
import type { StoredEvent } from "../../src/contract/events.ts";
import type {
  Job,
  JobOutcome,
  JobQueue,
  JobResult,
  ModelRoute,
  ToolCall,
  ToolDefinition,
} from "../../src/contract/jobs.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { matchesAny } from "../../src/core/pattern.ts";
import { Policy } from "../../src/core/policy.ts";
import type { PolicyRule } from "../../src/core/policy.ts";
import { verifyRun } from "../../src/journal/verify.ts";
import { freshRun, openEngine, startData, TENANT } from "./engine.ts";
import type { Harness } from "./engine.ts";

export const tool = (name: string, over: Partial<ToolDefinition> = {}): ToolDefinition => ({
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
export const route: ModelRoute = {
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
export const agent = (over: Partial<AgentSpec> = {}): AgentSpec => ({
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
  concurrency_max: null,
  ...over,
});
export const node = (id: string, needs: number[], over: Partial<WorkflowNode> = {}): WorkflowNode => ({
  id,
  kind: "tool",
  needs,
  tool: "t.a",
  args: {},
  on_error: "fail",
  ...over,
});
export const flow = (nodes: WorkflowNode[], over: Partial<WorkflowSpec> = {}): WorkflowSpec => ({
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

export interface World {
  agent?: AgentSpec;
  workflow?: WorkflowSpec;
  tools?: ToolDefinition[];
  budgets?: SharedBudget[];
  priced?: boolean;
}

export function catalogOf(world: World): Catalog {
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
    intent: () => null,
    modelOf: () => null,
    price: (model) =>
      world.priced === false
        ? null
        : { model, from: "2020-01-01", input_micro_per_mtok: 1_000_000, output_micro_per_mtok: 1_000_000 },
  };
}

export const ALLOW: PolicyRule[] = [{ id: "all", effect: "allow" }];
export const policyOf = (rules: PolicyRule[]) => new Policy({ policies: [{ name: "p", version: 1, rules }] });

export type Script = (job: Job, nth: number) => JobOutcome | Promise<JobOutcome>;
export const result = (value: string): JobOutcome => ({ ok: true, kind: "tool", result: value });
export const says = (
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
export const calls = (name: string, args = "{}", id = "c1"): ToolCall => ({ id, name, arguments: args });
export const fails = (cls: "transient" | "permanent" | "unknown_outcome" | "rate_limited"): JobOutcome => ({
  ok: false,
  failure: { class: cls, code: `was_${cls}`, message: cls },
});

export async function open(
  world: World,
  script: Script,
  rules = ALLOW,
  extra: { park_after_ms?: number } = {},
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
    ...extra,
  });
  const events = (id: string) =>
    harness.store.rows.filter((row) => row.run_id === id).flatMap((row) => decodeBody(row.body));
  return { ...harness, events, jobs, report: (results) => report(results) };
}

export async function finish(
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
