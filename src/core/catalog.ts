// Builds the catalog of one project and environment from registry rows. Pure; built once per apply, then only read.
import type {
  AgentSpec,
  Catalog,
  IntentSpec,
  PriceRow,
  RunBudget,
  SharedBudget,
  WorkflowNode,
  WorkflowSpec,
} from "../contract/catalog.ts";
import { lacking } from "../contract/capabilities.ts";
import type { Capability } from "../contract/capabilities.ts";
import { AppError } from "../contract/errors.ts";
import type { EffectClass } from "../contract/events.ts";
import type { ModelRoute, ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_METHODS } from "../contract/mcp-methods.ts";
import type {
  AgentManifest,
  BudgetManifest,
  ManifestKind,
  ModelManifest,
  PolicyManifest,
  PromptManifest,
  RegistryItem,
  ToolManifest,
  WorkflowManifest,
} from "../contract/manifests.ts";
import type { IntentManifest } from "../contract/tasks.ts";
import { LIST_PRICES } from "../contract/prices.ts";
import type { DiscoveredTool } from "../contract/tools.ts";
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { parseUsd } from "../kit/money.ts";
import { conditionText } from "./condition-json.ts";
import { matchesAny } from "./pattern.ts";
import type { Effect, PolicyRule, PolicySet } from "./policy.ts";

export interface RegistrySnapshot {
  readonly items: readonly RegistryItem[];
  /** `kind/name` -> version that this environment uses. */
  readonly current: ReadonlyMap<string, number>;
}

/** What built-in tools are; given from outside, since core knows no worker. */
export type BuiltinTable = Readonly<
  Record<
    string,
    {
      description: string;
      input_schema: JsonObject;
      effect_class: EffectClass;
      idempotent: boolean;
      requires?: readonly Capability[];
    }
  >
>;

export function usd(value: string | number | undefined): number | null {
  if (value === undefined) return null;
  const micro = parseUsd(typeof value === "number" ? value.toFixed(6) : value);
  if (micro === null) throw new AppError("MANIFEST_INVALID", `${value} is no USD amount with at most six decimals`);
  return micro;
}

export function effectClass(value: string | undefined, otherwise: EffectClass): EffectClass {
  if (value === "none") return "read";
  if (value === "destructive") return "irreversible";
  return (value as EffectClass | undefined) ?? otherwise;
}

function runBudget(spec: AgentManifest["budget"]): RunBudget {
  if (!spec) return {};
  const { cost_usd, ...rest } = spec;
  const cost = usd(cost_usd);
  return { ...rest, ...(cost === null ? {} : { cost_micro_usd: cost }) };
}

function agentSpec(item: RegistryItem, prompts: (name: string) => string): AgentSpec {
  const spec = item.spec as AgentManifest;
  const { temperature, top_p, seed } = spec;
  return {
    name: item.name,
    version: item.version,
    digest: item.digest,
    model: spec.model,
    instructions: spec.instructions ?? (spec.prompt === undefined ? "" : prompts(spec.prompt)),
    tools: spec.tools ?? [],
    final_tools: spec.final_tools ?? [],
    turns_max: spec.turns_max ?? LIMITS.model_turns_default,
    max_output_tokens: spec.max_output_tokens ?? LIMITS.max_output_tokens_default,
    params: {
      ...(temperature === undefined ? {} : { temperature }),
      ...(top_p === undefined ? {} : { top_p }),
      ...(seed === undefined ? {} : { seed }),
    },
    output_schema: (spec.output_schema as JsonObject | undefined) ?? null,
    mode: spec.mode ?? "single",
    budget: runBudget(spec.budget),
    deadline_ms: spec.deadline_ms ?? null,
    on_denied: spec.on_denied ?? "continue",
    concurrency_max: spec.concurrency_max ?? null,
    ...(spec.capabilities === undefined ? {} : { capabilities: spec.capabilities }),
  };
}

interface ToolCommon {
  description?: string | undefined;
  effect_class?: string | undefined;
  idempotent?: boolean | undefined;
  runs_on?: string[] | undefined;
  requires?: Capability[] | undefined;
  concurrency_max?: number | undefined;
  timeout_ms?: number | undefined;
  attempts_max?: number | undefined;
  cost_usd?: string | number | undefined;
}

function definition(
  item: RegistryItem,
  name: string,
  common: ToolCommon,
  rest: Pick<ToolDefinition, "kind" | "description" | "input_schema" | "output_schema" | "config" | "digest">,
  defaults: { effect_class: EffectClass; idempotent?: boolean; requires?: readonly Capability[] },
): ToolDefinition {
  const requires = [...new Set([...(defaults.requires ?? []), ...(common.requires ?? [])])].sort();
  const effect_class = effectClass(common.effect_class, defaults.effect_class);
  return {
    ...rest,
    name,
    version: item.version,
    description: common.description ?? rest.description,
    effect_class,
    // Only reading is safe to repeat unless somebody says so.
    idempotent: common.idempotent ?? defaults.idempotent ?? effect_class === "read",
    timeout_ms: common.timeout_ms ?? LIMITS.tool_timeout_ms_default,
    attempts_max: common.attempts_max ?? 3,
    cost_micro_usd: usd(common.cost_usd) ?? 0,
    ...(common.concurrency_max === undefined ? {} : { concurrency_max: common.concurrency_max }),
    ...(common.runs_on?.length ? { runs_on: common.runs_on.toSorted() } : {}),
    ...(requires.length > 0 ? { requires } : {}),
  };
}

/** Tools of one Tool item: one, or those of an MCP server under `item.tool`. */
function toolsOf(item: RegistryItem, builtins: BuiltinTable): ToolDefinition[] {
  const spec = item.spec as ToolManifest & { definitions?: readonly DiscoveredTool[] };
  if (spec.kind === "http") {
    const config: JsonObject = { method: spec.method, url: spec.url, headers: { ...spec.headers } };
    const effect_class = spec.method === "GET" ? ("read" as const) : ("external" as const);
    const defaults = { effect_class, requires: ["network" as const] };
    const output_schema = (spec.output_schema as JsonObject | undefined) ?? null;
    return [
      definition(
        item,
        item.name,
        spec,
        {
          kind: "http",
          description: "",
          input_schema: spec.input_schema as JsonObject,
          output_schema,
          config,
          digest: item.digest,
        },
        defaults,
      ),
    ];
  }
  if (spec.kind === "builtin") {
    const builtin = builtins[spec.builtin];
    if (!builtin) return [];
    const config: JsonObject = { builtin: spec.builtin, root: spec.root ?? "" };
    return [
      definition(
        item,
        item.name,
        spec,
        {
          kind: "builtin",
          description: builtin.description,
          input_schema: builtin.input_schema,
          output_schema: null,
          config,
          digest: item.digest,
        },
        builtin,
      ),
    ];
  }
  return mcpTools(item, spec);
}

/** A server over stdio is a process that we start. */
const serverNeeds = ({ transport }: { transport: "stdio" | "http" }): readonly Capability[] => [
  transport === "stdio" ? "subprocess" : "network",
];

/** Tools of an MCP server that were discovered when it was applied. */
function mcpTools(
  item: RegistryItem,
  spec: Extract<ToolManifest, { kind: "mcp" }> & { definitions?: readonly DiscoveredTool[] },
): ToolDefinition[] {
  const server: JsonObject =
    spec.transport === "stdio"
      ? { transport: "stdio", command: [...spec.command], cwd: spec.cwd ?? null, env: { ...spec.env } }
      : { transport: "http", url: spec.url, headers: { ...spec.headers } };
  const discovered = new Map(spec.definitions?.map((tool) => [tool.name, tool]));
  const tools = spec.tools.flatMap((entry) => {
    const found = discovered.get(entry.name);
    if (!found) return [];
    const config: JsonObject = { server, tool: entry.name, definition: found.digest };
    return [
      definition(
        item,
        `${item.name}.${entry.name}`,
        entry,
        {
          kind: "mcp",
          description: found.description,
          input_schema: found.input_schema,
          output_schema: found.output_schema,
          config,
          digest: found.digest,
        },
        { effect_class: "external", requires: serverNeeds(spec) },
      ),
    ];
  });
  return [...tools, ...mcpQuestions(item, spec, server)];
}

/** Resources, prompts and completions of an MCP server, where its manifest asks for them: reading, unless it says otherwise. */
function mcpQuestions(
  item: RegistryItem,
  spec: Extract<ToolManifest, { kind: "mcp" }>,
  server: JsonObject,
): ToolDefinition[] {
  return MCP_METHODS.flatMap(({ name, method, offer, description, input_schema }) => {
    const asked = spec[offer] ?? false;
    if (asked === false) return [];
    const config: JsonObject = { server, method };
    const digest = digestOf(canonicalJson({ method, input_schema }));
    const parts = { kind: "mcp" as const, description, input_schema, output_schema: null, config, digest };
    return [
      definition(item, `${item.name}.${name}`, asked === true ? {} : asked, parts, {
        effect_class: "read",
        requires: serverNeeds(spec),
      }),
    ];
  });
}

function modelRoute(item: RegistryItem): ModelRoute {
  const spec = item.spec as ModelManifest;
  return {
    name: item.name,
    version: item.version,
    provider: spec.provider,
    model: spec.model,
    base_url: spec.base_url ?? null,
    api_key: spec.api_key ?? null,
    recording: spec.recording ?? null,
    concurrency_max: spec.concurrency_max ?? 16,
    timeout_ms: spec.timeout_ms ?? LIMITS.model_timeout_ms_default,
    attempts_max: spec.attempts_max ?? 3,
    ...(spec.runs_on?.length ? { runs_on: spec.runs_on.toSorted() } : {}),
    ...(spec.fallback?.length ? { fallback: spec.fallback } : {}),
    ...(spec.engine === undefined ? {} : { engine: spec.engine }),
    ...(spec.tier === undefined ? {} : { tier: spec.tier }),
    ...(spec.p95_ms === undefined ? {} : { p95_ms: spec.p95_ms }),
  };
}

function intentSpec(item: RegistryItem): IntentSpec {
  const spec = item.spec as IntentManifest;
  const cap = usd(spec.budget_cap_usd) ?? LIMITS.task_budget_cap_micro_usd;
  return {
    name: item.name,
    version: item.version,
    agent: spec.agent,
    routes: spec.routes,
    tiers: spec.tiers ?? null,
    privacy: spec.privacy ?? "allow-api",
    p95_ms: spec.p95_ms ?? null,
    budget_micro_usd: Math.min(cap, usd(spec.budget_usd) ?? LIMITS.task_budget_micro_usd),
    budget_cap_micro_usd: cap,
    input: spec.input as Json | undefined,
  };
}

function sharedBudget(item: RegistryItem): SharedBudget {
  const spec = item.spec as BudgetManifest;
  return {
    name: item.name,
    scope: spec.scope,
    subject: spec.subject ?? "*",
    period: spec.period,
    limit_micro_usd: usd(spec.limit_usd),
    limit_tokens: spec.limit_tokens ?? null,
    thresholds: spec.thresholds ?? [80],
    action: (spec.action as SharedBudget["action"] | undefined) ?? "stop",
  };
}

type StepInput = WorkflowManifest["steps"][number];
type PlainStep = Exclude<StepInput, { parallel: unknown }>;

/** Flattens steps to nodes with the indexes they need. Throws MANIFEST_INVALID for a cycle or a reference to nothing. */
export function workflowNodes(spec: WorkflowManifest): WorkflowNode[] {
  const groups: PlainStep[][] = spec.steps.map((step) => ("parallel" in step ? [...step.parallel] : [step]));
  const flat = groups.flat();
  const index = new Map<string, number>();
  for (const [i, step] of flat.entries()) {
    if (index.has(step.id)) throw invalid(`the step id ${step.id} is used twice`);
    index.set(step.id, i);
  }
  const nodes: WorkflowNode[] = [];
  let previous: number[] = [];
  for (const group of groups) {
    const mine = group.map((step) => index.get(step.id) ?? 0);
    for (const step of group) nodes.push(node(step, step.needs?.map((id) => wanted(index, step.id, id)) ?? previous));
    previous = mine;
  }
  refuseCycles(nodes);
  return nodes;
}

const invalid = (message: string) => new AppError("MANIFEST_INVALID", `The workflow is not valid: ${message}`);

function wanted(index: ReadonlyMap<string, number>, from: string, id: string): number {
  const found = index.get(id);
  if (found === undefined) throw invalid(`step ${from} needs ${id}, which is no step`);
  return found;
}

function node(step: PlainStep, needs: readonly number[]): WorkflowNode {
  const common = { id: step.id, needs, on_error: step.on_error ?? "fail" };
  if ("tool" in step) return { ...common, kind: "tool", tool: step.tool, args: (step.args ?? {}) as JsonObject };
  if ("wait_ms" in step) return { ...common, kind: "wait", delay_ms: step.wait_ms };
  const max_output_tokens = step.max_output_tokens ?? LIMITS.max_output_tokens_default;
  return { ...common, kind: "model", model: step.model, prompt: step.prompt, max_output_tokens };
}

function refuseCycles(nodes: readonly WorkflowNode[]): void {
  const missing = nodes.map((n) => new Set(n.needs).size);
  const ready = missing.flatMap((count, i) => (count === 0 ? [i] : []));
  let seen = 0;
  for (let i = ready.pop(); i !== undefined; i = ready.pop()) {
    seen += 1;
    for (const [k, other] of nodes.entries()) {
      if (!other.needs.includes(i)) continue;
      missing[k] = (missing[k] ?? 0) - 1;
      if (missing[k] === 0) ready.push(k);
    }
  }
  if (seen === nodes.length) return;
  const stuck = nodes.filter((_n, i) => (missing[i] ?? 0) > 0).map((n) => n.id);
  throw invalid(`these steps wait for each other: ${stuck.join(", ")}`);
}

function workflowSpec(item: RegistryItem): WorkflowSpec {
  const spec = item.spec as WorkflowManifest;
  const nodes = workflowNodes(spec);
  const dependents: number[][] = nodes.map(() => []);
  for (const [i, n] of nodes.entries()) for (const need of n.needs) dependents[need]?.push(i);
  return {
    name: item.name,
    version: item.version,
    digest: item.digest,
    nodes,
    dependents,
    output: (spec.output as JsonObject | undefined) ?? null,
    budget: runBudget(spec.budget),
    deadline_ms: spec.deadline_ms ?? null,
  };
}

/** Rules of a policy manifest under our names, with their conditions in CEL. Throws EXPRESSION_INVALID. */
export function policyRules(spec: PolicyManifest): PolicyRule[] {
  return spec.rules.map((rule) => {
    const { effect, match, when: written, ...rest } = rule;
    const ours: Effect = effect === "block" ? "deny" : effect === "approve" ? "require_approval" : effect;
    const classes = match?.effect_classes?.map((value) => effectClass(value, "read"));
    const selector = match ? { match: { ...match, ...(classes ? { effect_classes: classes } : {}) } } : {};
    const when = typeof written === "object" ? conditionText(written as JsonObject) : written;
    return { ...rest, ...(when === undefined ? {} : { when }), effect: ours, ...selector };
  });
}

export function policySet(snapshot: RegistrySnapshot): PolicySet {
  const policies = snapshot.items
    .filter((item) => item.kind === "Policy" && snapshot.current.get(`Policy/${item.name}`) === item.version)
    .map((item) => ({ name: item.name, version: item.version, rules: policyRules(item.spec as PolicyManifest) }));
  return { policies };
}

/** Versions by name; the current one of the environment where no version is asked for. */
class Shelf<T> {
  private readonly byKey = new Map<string, T>();
  private readonly currentOf = new Map<string, T>();

  add(name: string, version: number, current: boolean, value: T): void {
    this.byKey.set(`${name}@${version}`, value);
    if (current) this.currentOf.set(name, value);
  }

  get(name: string, version?: number): T | null {
    return (version === undefined ? this.currentOf.get(name) : this.byKey.get(`${name}@${version}`)) ?? null;
  }

  current(): T[] {
    return [...this.currentOf.values()];
  }
}

export function buildCatalog(snapshot: RegistrySnapshot, builtins: BuiltinTable): Catalog {
  const agents = new Shelf<AgentSpec>();
  const workflows = new Shelf<WorkflowSpec>();
  const tools = new Shelf<ToolDefinition>();
  const models = new Shelf<ModelRoute>();
  const intents = new Shelf<IntentSpec>();
  const budgets: SharedBudget[] = [];
  const prices = [...LIST_PRICES];
  const isCurrent = (kind: ManifestKind, item: RegistryItem) =>
    item.kind === kind && snapshot.current.get(`${kind}/${item.name}`) === item.version;
  const prompt = (name: string): string => {
    const found = snapshot.items.find((item) => item.name === name && isCurrent("Prompt", item));
    return found ? (found.spec as PromptManifest).text : "";
  };
  for (const item of snapshot.items) {
    const current = isCurrent(item.kind, item) && item.state !== "archived";
    if (item.kind === "Agent") agents.add(item.name, item.version, current, agentSpec(item, prompt));
    if (item.kind === "Workflow") workflows.add(item.name, item.version, current, workflowSpec(item));
    if (item.kind === "Tool")
      for (const tool of toolsOf(item, builtins)) tools.add(tool.name, tool.version, current, tool);
    if (item.kind === "Model") {
      models.add(item.name, item.version, current, modelRoute(item));
      if (current) prices.push(...priceRows(item));
    }
    if (item.kind === "Intent") intents.add(item.name, item.version, current, intentSpec(item));
    if (item.kind === "Budget" && current) budgets.push(sharedBudget(item));
  }
  return catalogOf({ agents, workflows, tools, models, intents, budgets, prices });
}

function priceRows(item: RegistryItem): PriceRow[] {
  const spec = item.spec as ModelManifest;
  return (spec.prices ?? []).map((price) => ({
    model: spec.model,
    from: price.from,
    input_micro_per_mtok: usd(price.input_usd_per_mtok) ?? 0,
    output_micro_per_mtok: usd(price.output_usd_per_mtok) ?? 0,
  }));
}

function catalogOf(parts: {
  agents: Shelf<AgentSpec>;
  workflows: Shelf<WorkflowSpec>;
  tools: Shelf<ToolDefinition>;
  models: Shelf<ModelRoute>;
  intents: Shelf<IntentSpec>;
  budgets: readonly SharedBudget[];
  prices: readonly PriceRow[];
}): Catalog {
  const all = parts.tools.current().sort((a, b) => (a.name < b.name ? -1 : 1));
  const matching = new Map<string, readonly ToolDefinition[]>();
  return {
    agent: (name, version) => parts.agents.get(name, version),
    workflow: (name, version) => parts.workflows.get(name, version),
    tool: (name, version) => parts.tools.get(name, version),
    model: (name, version) => parts.models.get(name, version),
    modelOf: (model) => parts.models.current().find((route) => route.model === model) ?? null,
    intent: (name) => parts.intents.get(name),
    budgets: () => parts.budgets,
    toolsMatching: (patterns, capabilities) => {
      const key = [...patterns, "", ...(capabilities ?? ["*"])].join("\n");
      let found = matching.get(key);
      const fits = (tool: ToolDefinition) =>
        matchesAny(patterns, tool.name) && lacking(tool.requires, capabilities).length === 0;
      if (!found) matching.set(key, (found = all.filter(fits)));
      return found;
    },
    price: (model, now_us) => {
      const day = new Date(now_us / 1000).toISOString().slice(0, 10);
      // Later rows win: manifests come after the list prices.
      const rows = parts.prices.filter((price) => price.model === model && price.from <= day);
      return rows.reduce<PriceRow | null>(
        (best, price) => (best === null || price.from >= best.from ? price : best),
        null,
      );
    },
  };
}
