// The registry, policy and budget of the simulated world.
import type { AgentSpec, Catalog, WorkflowSpec } from "../../src/contract/catalog.ts";
import type { ModelRoute, ToolDefinition } from "../../src/contract/jobs.ts";
import type { PolicySet } from "../../src/core/policy.ts";
import type { JsonObject } from "../../src/kit/json.ts";
import { matchesAny } from "../../src/core/pattern.ts";

const tool = (name: string, idempotent: boolean, cost_micro_usd: number): ToolDefinition => ({
  name,
  version: 1,
  digest: `sha256:${name}`,
  kind: "http",
  description: "",
  input_schema: { type: "object" },
  output_schema: null,
  effect_class: name === "read" ? "read" : "external",
  idempotent,
  timeout_ms: 1_000,
  attempts_max: 3,
  cost_micro_usd,
  config: {},
});

export const TOOLS = new Map(
  [
    tool("read", true, 100),
    tool("pay", false, 5_000),
    tool("approve_me", false, 3_000),
    tool("forbidden", false, 0),
    tool("send", true, 700),
  ].map((t) => [t.name, t]),
);

const route: ModelRoute = {
  name: "sim",
  version: 1,
  provider: "recorded",
  model: "sim",
  base_url: null,
  api_key: null,
  recording: null,
  concurrency_max: 1,
  timeout_ms: 1_000,
  attempts_max: 4,
};

/** Stays at home: what a task that minds may be done with. */
const SPARE: ModelRoute = { ...route, name: "spare", engine: "local" };

/** How an agent's run is routed, where it is a task: by its id, so that no history draws another number for it. */
export function routingOf(run_id: string): JsonObject | null {
  const code = run_id.charCodeAt(run_id.length - 1);
  if (code % 3 !== 0) return null;
  const order = [
    { engine: "api", model: "sim", tier: "tier1" },
    { engine: "local", model: "spare", tier: "tier0" },
  ];
  // One in two has come to mind what it is told since it was routed: the first of its models is denied then.
  const privacy = code % 2 === 0 ? "local-only" : "allow-api";
  return { chosen_by: "intent", intent: "any@1", left_out: [], order, privacy, reason: "the first of any" };
}

const agent: AgentSpec = {
  name: "bot",
  version: 1,
  digest: "d",
  model: "sim",
  instructions: "",
  tools: ["*"],
  final_tools: [],
  turns_max: 6,
  max_output_tokens: 50,
  params: {},
  output_schema: null,
  mode: "single",
  budget: { cost_micro_usd: 30_000 },
  deadline_ms: null,
  on_denied: "continue",
  concurrency_max: null,
};

const node = (id: string, name: string, needs: number[]) => ({
  id,
  kind: "tool" as const,
  needs,
  tool: name,
  args: { id },
  on_error: "continue" as const,
});
const flow = (name: string, nodes: ReturnType<typeof node>[]): WorkflowSpec => ({
  name,
  version: 1,
  digest: "d",
  nodes,
  dependents: nodes.map((_, i) => nodes.flatMap((n, k) => (n.needs.includes(i) ? [k] : []))),
  output: null,
  budget: { cost_micro_usd: 40_000 },
  deadline_ms: null,
});
const flows = new Map(
  [
    flow("line", [node("a", "read", []), node("b", "pay", [0]), node("c", "approve_me", [1]), node("d", "send", [2])]),
    flow("fan", [
      node("a", "read", []),
      node("b", "pay", [0]),
      node("c", "send", [0]),
      node("d", "forbidden", [0]),
      node("e", "pay", [1, 2, 3]),
    ]),
  ].map((f) => [f.name, f]),
);

/** Model calls that may cost more than this need a person. */
export const DEAR_MICRO_USD = 900;

/** The shared budget is small on purpose: it must be hit. */
export const SHARED_LIMIT = 60_000;

export function simCatalog(): Catalog {
  const budgets = [
    {
      name: "all",
      scope: "project" as const,
      subject: "*",
      period: "total" as const,
      limit_micro_usd: SHARED_LIMIT,
      limit_tokens: null,
      thresholds: [80],
      action: "stop" as const,
    },
  ];
  return {
    agent: (name) => (name === "bot" ? agent : null),
    workflow: (name) => flows.get(name) ?? null,
    tool: (name) => TOOLS.get(name) ?? null,
    toolsMatching: (patterns) => [...TOOLS.values()].filter((t) => matchesAny(patterns, t.name)),
    model: (name) => (name === "sim" ? route : name === "spare" ? SPARE : null),
    budgets: () => budgets,
    intent: () => null,
    modelOf: () => null,
    price: (model) => ({
      model,
      from: "2020-01-01",
      input_micro_per_mtok: 1_000_000,
      output_micro_per_mtok: 2_000_000,
    }),
  };
}

export const SIM_POLICY: PolicySet = {
  policies: [
    {
      name: "sim",
      version: 1,
      rules: [
        { id: "models", effect: "allow", match: { kinds: ["model"] } },
        // A long conversation costs more: that is what a person is asked about.
        {
          id: "dear",
          effect: "require_approval",
          match: { kinds: ["model"] },
          when: `call_cost > ${DEAR_MICRO_USD / 1_000_000}`,
          approval_ttl_ms: 5_000,
        },
        { id: "tools", effect: "allow", match: { tools: ["read", "pay", "send"] }, when: "run.tool_calls < 30" },
        { id: "ask", effect: "require_approval", match: { tools: ["approve_me"] }, approval_ttl_ms: 5_000 },
        { id: "never", effect: "deny", match: { tools: ["forbidden"] } },
      ],
    },
  ],
};
