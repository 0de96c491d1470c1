// What a decision needs to know of the registry, resolved and immutable. The orchestrator builds it; core only reads it.
import type { Json, JsonObject } from "../kit/json.ts";
import type { Capability } from "./capabilities.ts";
import type { ModelRoute, ToolDefinition } from "./jobs.ts";
import type { Privacy, Tier } from "./tasks.ts";

export interface AgentSpec {
  readonly name: string;
  readonly version: number;
  readonly digest: string;
  readonly model: string;
  readonly instructions: string;
  /** Tool patterns (`*` wildcards): what is not listed does not exist for this agent. */
  readonly tools: readonly string[];
  /** Tools that end the run once their result is in (handing over to a person, say). */
  readonly final_tools: readonly string[];
  readonly turns_max: number;
  readonly max_output_tokens: number;
  readonly params: { temperature?: number; top_p?: number; seed?: number };
  readonly output_schema: JsonObject | null;
  /** `single`: the answer ends the run. `chat`: it then waits for the next input. */
  readonly mode: "single" | "chat";
  readonly budget: RunBudget;
  readonly deadline_ms: number | null;
  readonly on_denied: "continue" | "block";
  /** Calls at a time, over all its runs; null: as many as there are workers. */
  readonly concurrency_max: number | null;
  /** What its tools may make use of; absent: everything. */
  readonly capabilities?: readonly Capability[];
}

export interface WorkflowNode {
  readonly id: string;
  readonly kind: "tool" | "model" | "wait";
  readonly needs: readonly number[];
  readonly tool?: string;
  readonly args?: JsonObject;
  readonly model?: string;
  readonly prompt?: string;
  readonly max_output_tokens?: number;
  readonly delay_ms?: number;
  readonly on_error: "fail" | "continue";
}

export interface WorkflowSpec {
  readonly name: string;
  readonly version: number;
  readonly digest: string;
  readonly nodes: readonly WorkflowNode[];
  /** For each node, the indexes of the nodes that need it. */
  readonly dependents: readonly (readonly number[])[];
  readonly output: JsonObject | null;
  readonly budget: RunBudget;
  readonly deadline_ms: number | null;
}

/** What a kind of task is done by, and may cost. */
export interface IntentSpec {
  readonly name: string;
  readonly version: number;
  readonly agent: string;
  /** Models, in the order in which they are asked. */
  readonly routes: readonly string[];
  /** Null: all. */
  readonly tiers: readonly Tier[] | null;
  readonly privacy: Privacy;
  readonly p95_ms: number | null;
  /** Of a task that says none, and the most that one may have. */
  readonly budget_micro_usd: number;
  readonly budget_cap_micro_usd: number;
  /** Undefined: the task's params as they are. */
  readonly input: Json | undefined;
}

/** Limits of one run. Absent means no limit of that kind. */
export interface RunBudget {
  readonly cost_micro_usd?: number;
  readonly input_tokens?: number;
  readonly output_tokens?: number;
  readonly total_tokens?: number;
  readonly tool_calls?: number;
  readonly model_calls?: number;
  readonly active_ms?: number;
}

/** A budget shared by runs: scope, period and what to do at the limit. */
export interface SharedBudget {
  readonly name: string;
  readonly scope: "agent" | "project" | "team" | "tenant";
  /** Agent or team name; `*` for the others. */
  readonly subject: string;
  readonly period: "hour" | "day" | "week" | "month" | "total";
  readonly limit_micro_usd: number | null;
  readonly limit_tokens: number | null;
  readonly thresholds: readonly number[];
  readonly action: "stop" | "deny" | "warn";
}

export interface PriceRow {
  readonly model: string;
  /** In force from this day (UTC) until the next row of the same model. */
  readonly from: string;
  readonly input_micro_per_mtok: number;
  readonly output_micro_per_mtok: number;
}

/** The registry as of one moment, by name and version. */
export interface Catalog {
  agent(name: string, version?: number): AgentSpec | null;
  workflow(name: string, version?: number): WorkflowSpec | null;
  tool(name: string, version?: number): ToolDefinition | null;
  intent(name: string): IntentSpec | null;
  /** Tools whose names fit one of the patterns, in name order; of those that need more than the capabilities, none. */
  toolsMatching(patterns: readonly string[], capabilities?: readonly Capability[]): readonly ToolDefinition[];
  model(name: string, version?: number): ModelRoute | null;
  /** The route of the environment that calls this model of a provider; for clients that know only the provider's names. */
  modelOf(model: string): ModelRoute | null;
  budgets(): readonly SharedBudget[];
  /** Price of a model on a day; null when it has none, which denies the call. */
  price(model: string, now_us: number): PriceRow | null;
}
