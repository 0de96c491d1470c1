// Manifests: what users write in YAML. The schema is the documentation, the validation and the stored form at once.
// Names of the seeds are accepted as aliases on input (block = deny, approve = require_approval, none = read,
// destructive = irreversible) and stored under ours.
import { Type, type Static, type TSchema } from "typebox";
import type { Json } from "../kit/json.ts";
import { Capabilities } from "./capabilities.ts";
import { either } from "./either.ts";
import { Name } from "./ids.ts";
import { LIMITS } from "./limits.ts";
import { Usd } from "./money.ts";
import { ENGINES, IntentSpecInput, TIERS } from "./tasks.ts";
import { TriggerSpecInput } from "./triggers.ts";

const closed = { additionalProperties: false };
const Text = (max: number, description: string) => Type.String({ minLength: 1, maxLength: max, description });
const Patterns = (description: string) =>
  Type.Array(Type.String({ minLength: 1, maxLength: 200 }), { maxItems: 200, description });
const JsonSchema = Type.Record(Type.String(), Type.Unknown(), { description: "JSON Schema 2020-12." });
const Secretable = Type.Record(Type.String(), Type.String(), {
  description: "Values may hold {{env:NAME}} or {{file:NAME}}.",
});

export const EffectClassInput = Type.Union(
  ["read", "write", "external", "irreversible", "none", "destructive"].map((value) => Type.Literal(value)),
);

const RunBudgetSpec = Type.Object(
  {
    cost_usd: Type.Optional(Usd),
    input_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
    output_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
    total_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
    tool_calls: Type.Optional(Type.Integer({ minimum: 0 })),
    model_calls: Type.Optional(Type.Integer({ minimum: 0 })),
    active_ms: Type.Optional(Type.Integer({ minimum: 1, description: "Time not spent waiting." })),
  },
  closed,
);

export const AgentSpecInput = Type.Object(
  {
    model: Name,
    instructions: Type.Optional(Text(100_000, "System message. Either this or `prompt`.")),
    prompt: Type.Optional(Name),
    tools: Type.Optional(Patterns("Tools this agent may name; `*` matches any text.")),
    final_tools: Type.Optional(Patterns("Tools whose result ends the run.")),
    turns_max: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.model_turns_max })),
    max_output_tokens: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
    temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
    top_p: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
    seed: Type.Optional(Type.Integer()),
    output_schema: Type.Optional(JsonSchema),
    mode: Type.Optional(Type.Union([Type.Literal("single"), Type.Literal("chat")])),
    budget: Type.Optional(RunBudgetSpec),
    deadline_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.run_deadline_ms_max })),
    on_denied: Type.Optional(Type.Union([Type.Literal("continue"), Type.Literal("block")])),
    concurrency_max: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 10_000, description: "Calls at a time, over all its runs and all workers." }),
    ),
    capabilities: Capabilities("What its tools may make use of; all unless said. A tool that needs more is denied."),
  },
  closed,
);

const RunsOn = Type.Optional(
  Type.Array(Type.String({ pattern: "^[a-z0-9][a-z0-9._=-]{0,63}$" }), {
    maxItems: LIMITS.labels_max,
    uniqueItems: true,
    description: "Labels that a worker must have; none: every worker can.",
  }),
);

const toolCommon = {
  description: Type.Optional(Text(4_000, "What the model reads.")),
  effect_class: Type.Optional(EffectClassInput),
  idempotent: Type.Optional(Type.Boolean()),
  timeout_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.tool_timeout_ms_max })),
  attempts_max: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.attempts_max })),
  cost_usd: Type.Optional(Usd),
  runs_on: RunsOn,
  requires: Capabilities(
    "What it needs besides what its kind does: network over HTTP, subprocess over stdio, fs for files.",
  ),
  concurrency_max: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 10_000, description: "Calls at a time, over all workers." }),
  ),
};

const McpToolEntry = Type.Object({ name: Type.String({ minLength: 1, maxLength: 128 }), ...toolCommon }, closed);
const { description: _told, ...callCommon } = toolCommon;
const McpOfferInput = (description: string) =>
  Type.Optional(Type.Union([Type.Boolean(), Type.Object(callCommon, closed)], { description }));
const mcpOffered = {
  tools: Type.Array(McpToolEntry, { maxItems: 500 }),
  resources: McpOfferInput("Its resources, as calls NAME.list_resources, list_resource_templates and read_resource."),
  prompts: McpOfferInput("Its prompts, as calls NAME.list_prompts and get_prompt."),
  completions: McpOfferInput("What it completes of arguments of prompts and resources, as calls NAME.complete."),
};

export const ToolSpecInput = Type.Union([
  Type.Object(
    {
      kind: Type.Literal("http"),
      method: Type.Union(["GET", "POST", "PUT", "PATCH", "DELETE"].map((value) => Type.Literal(value))),
      url: Type.String({
        pattern: "^https?://",
        description: "Fixed origin; {name} in the path is filled from arguments.",
      }),
      headers: Type.Optional(Secretable),
      input_schema: JsonSchema,
      output_schema: Type.Optional(JsonSchema),
      ...toolCommon,
    },
    closed,
  ),
  Type.Object(
    { kind: Type.Literal("builtin"), builtin: Name, root: Type.Optional(Type.String()), ...toolCommon },
    closed,
  ),
  Type.Object(
    {
      kind: Type.Literal("mcp"),
      transport: Type.Literal("stdio"),
      command: Type.Array(Type.String({ minLength: 1 }), { minItems: 1, maxItems: 64 }),
      cwd: Type.Optional(Type.String()),
      env: Type.Optional(Secretable),
      ...mcpOffered,
    },
    closed,
  ),
  Type.Object(
    {
      kind: Type.Literal("mcp"),
      transport: Type.Literal("http"),
      url: Type.String({ pattern: "^https?://" }),
      headers: Type.Optional(Secretable),
      ...mcpOffered,
    },
    closed,
  ),
]);

export const RuleInput = Type.Object(
  {
    id: Name,
    effect: Type.Union(["allow", "deny", "require_approval", "block", "approve"].map((value) => Type.Literal(value))),
    match: Type.Optional(
      Type.Object(
        {
          kinds: Type.Optional(Type.Array(Type.Union([Type.Literal("tool"), Type.Literal("model")]))),
          tools: Type.Optional(Patterns("Tool names.")),
          models: Type.Optional(Patterns("Model routes.")),
          agents: Type.Optional(Patterns("Agents or workflows.")),
          envs: Type.Optional(Type.Array(Name)),
          effect_classes: Type.Optional(Type.Array(EffectClassInput)),
        },
        closed,
      ),
    ),
    when: Type.Optional(
      Type.Union([
        Type.String({ minLength: 1, maxLength: LIMITS.expression_chars_max, description: "CEL condition." }),
        Type.Record(Type.String(), Type.Unknown(), {
          description: 'The same as JSON, which becomes CEL: {"tool_name": {"in": ["a", "b"]}, "cost": {"gt": 100}}.',
        }),
      ]),
    ),
    reason: Type.Optional(Text(500, "Shown with the decision.")),
    shadow: Type.Optional(Type.Boolean()),
    approvals_min: Type.Optional(Type.Integer({ minimum: 1, maximum: 10 })),
    approval_ttl_ms: Type.Optional(Type.Integer({ minimum: 1_000, maximum: LIMITS.approval_ttl_ms_max })),
    block_run: Type.Optional(Type.Boolean()),
    replay_live: Type.Optional(Type.Boolean()),
    simulate: Type.Optional(Type.Unsafe<Json>(Type.Unknown())),
  },
  closed,
);

export const PolicySpecInput = Type.Object(
  { rules: Type.Array(RuleInput, { minItems: 1, maxItems: LIMITS.rules_per_policy_max }) },
  closed,
);

export const BudgetSpecInput = Type.Object(
  {
    scope: Type.Union(["agent", "project", "team", "tenant"].map((value) => Type.Literal(value))),
    subject: Type.Optional(Name),
    period: Type.Union(["hour", "day", "week", "month", "total"].map((value) => Type.Literal(value))),
    limit_usd: Type.Optional(Usd),
    limit_tokens: Type.Optional(Type.Integer({ minimum: 0 })),
    thresholds: Type.Optional(Type.Array(Type.Integer({ minimum: 1, maximum: 100 }), { maxItems: 10 })),
    action: Type.Optional(Type.Union(["stop", "deny", "warn"].map((value) => Type.Literal(value)))),
  },
  closed,
);

export const PromptSpecInput = Type.Object({ text: Text(100_000, "The prompt.") }, closed);

const StepBase = {
  id: Name,
  needs: Type.Optional(Type.Array(Name, { description: "Steps that must be done; without it, the step before." })),
  on_error: Type.Optional(Type.Union([Type.Literal("fail"), Type.Literal("continue")])),
};
const ToolStep = Type.Object(
  { ...StepBase, tool: Name, args: Type.Optional(Type.Record(Type.String(), Type.Unknown())) },
  closed,
);
const ModelStep = Type.Object(
  {
    ...StepBase,
    model: Name,
    prompt: Text(100_000, "May refer to ${input...} and ${steps.ID.output...}."),
    max_output_tokens: Type.Optional(Type.Integer({ minimum: 1 })),
  },
  closed,
);
const WaitStep = Type.Object(
  { ...StepBase, wait_ms: Type.Integer({ minimum: 1, maximum: LIMITS.run_deadline_ms_max }) },
  closed,
);
const ParallelStep = Type.Object(
  {
    parallel: Type.Array(Type.Union([ToolStep, ModelStep, WaitStep]), {
      minItems: 1,
      maxItems: LIMITS.workflow_steps_max,
    }),
  },
  closed,
);

export const WorkflowSpecInput = Type.Object(
  {
    steps: Type.Array(Type.Union([ToolStep, ModelStep, WaitStep, ParallelStep]), {
      minItems: 1,
      maxItems: LIMITS.workflow_steps_max,
    }),
    output: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
    budget: Type.Optional(RunBudgetSpec),
    deadline_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.run_deadline_ms_max })),
  },
  closed,
);

export const ModelSpecInput = Type.Object(
  {
    provider: Type.Union(
      ["openai", "anthropic", "google", "openai-compatible", "recorded"].map((value) => Type.Literal(value)),
    ),
    model: Text(200, "The provider's name of the model."),
    base_url: Type.Optional(Type.String({ pattern: "^https?://" })),
    api_key: Type.Optional(
      Type.String({ pattern: "^(env:[A-Z0-9_]+|file:[a-zA-Z0-9._-]+)$", description: "A reference, never the key." }),
    ),
    recording: Type.Optional(Type.String()),
    fallback: Type.Optional(
      Type.Array(Name, {
        maxItems: 5,
        description: "Models that a proxied call goes to, in this order, while this one does not answer.",
      }),
    ),
    engine: Type.Optional(
      either(ENGINES, "local: what it is told stays with you; api (unless said): it is somebody else's."),
    ),
    tier: Type.Optional(either(TIERS, "tier0 of a local model, tier1 of the others, unless said.")),
    p95_ms: Type.Optional(
      Type.Integer({ minimum: 1, description: "How long 95 of 100 calls take at most, as you know it." }),
    ),
    runs_on: RunsOn,
    concurrency_max: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })),
    timeout_ms: Type.Optional(Type.Integer({ minimum: 1_000, maximum: LIMITS.tool_timeout_ms_max })),
    attempts_max: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.attempts_max })),
    prices: Type.Optional(
      Type.Array(
        Type.Object(
          {
            from: Type.String({ pattern: "^\\d{4}-\\d{2}-\\d{2}$" }),
            input_usd_per_mtok: Usd,
            output_usd_per_mtok: Usd,
          },
          closed,
        ),
      ),
    ),
  },
  closed,
);

export const MANIFEST_SPECS = {
  Agent: AgentSpecInput,
  Tool: ToolSpecInput,
  Policy: PolicySpecInput,
  Budget: BudgetSpecInput,
  Prompt: PromptSpecInput,
  Workflow: WorkflowSpecInput,
  Model: ModelSpecInput,
  Trigger: TriggerSpecInput,
  Intent: IntentSpecInput,
} as const satisfies Record<string, TSchema>;

export type ManifestKind = keyof typeof MANIFEST_SPECS;
export const MANIFEST_KINDS = Object.keys(MANIFEST_SPECS) as ManifestKind[];

export type AgentManifest = Static<typeof AgentSpecInput>;
export type ToolManifest = Static<typeof ToolSpecInput>;
export type PolicyManifest = Static<typeof PolicySpecInput>;
export type BudgetManifest = Static<typeof BudgetSpecInput>;
export type PromptManifest = Static<typeof PromptSpecInput>;
export type WorkflowManifest = Static<typeof WorkflowSpecInput>;
export type ModelManifest = Static<typeof ModelSpecInput>;

/** One version of one resource, as stored. */
export interface RegistryItem {
  readonly kind: ManifestKind;
  readonly name: string;
  readonly version: number;
  readonly digest: string;
  readonly state: "draft" | "released" | "deprecated" | "archived";
  readonly spec: unknown;
  readonly created_by: string;
  readonly created_at_us: number;
}

/** Result of applying one manifest. */
export const Applied = Type.Object({
  kind: Type.String(),
  name: Type.String(),
  version: Type.Integer(),
  digest: Type.String(),
  change: Type.Union([Type.Literal("created"), Type.Literal("changed"), Type.Literal("unchanged")]),
});
export type Applied = Static<typeof Applied>;
