// The policy decision point. Pure and total: every call gets allow, deny or require_approval.
//   deny overrides require_approval overrides allow; nothing matched = deny `no_matching_rule`.
//   A selector (tool, model, agent, env, effect class) is tested before the condition, and the rules that a selector
//   leaves are remembered per kind of call, so a hundred rules cost only their own conditions.
//   A condition that fails to evaluate: in an allow rule it is no match; in a deny or approval rule it denies
//   `rule_error` and names the rule. So nothing fails open.
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { messageOf } from "../contract/errors.ts";
import type { EffectClass } from "../contract/events.ts";
import { LIMITS } from "../contract/limits.ts";
import { celValue } from "./cel.ts";
import { compileCondition } from "./condition.ts";
import { matchesAny } from "./pattern.ts";

export type Effect = "allow" | "deny" | "require_approval";

export interface RuleMatch {
  readonly kinds?: readonly ("tool" | "model")[];
  readonly tools?: readonly string[];
  readonly models?: readonly string[];
  readonly agents?: readonly string[];
  readonly envs?: readonly string[];
  readonly effect_classes?: readonly EffectClass[];
}

export interface PolicyRule {
  readonly id: string;
  readonly effect: Effect;
  readonly match?: RuleMatch;
  /** CEL condition; absent = always. */
  readonly when?: string;
  readonly reason?: string;
  /** Evaluated and reported, never applied. */
  readonly shadow?: boolean;
  readonly approvals_min?: number;
  readonly approval_ttl_ms?: number;
  /** A deny by this rule ends the run as policy_blocked. */
  readonly block_run?: boolean;
  /** A call with effects that this rule allows may be made in a replay or fork too, when a person approves. */
  readonly replay_live?: boolean;
  /** In a replay or fork: the outcome of a call that nothing was recorded for. */
  readonly simulate?: Json;
}

export interface PolicySet {
  readonly policies: readonly { name: string; version: number; rules: readonly PolicyRule[] }[];
}

/** A proposed call, as rules see it. */
export interface PolicyCall {
  readonly kind: "tool" | "model";
  readonly name: string;
  readonly effect_class: EffectClass;
  readonly idempotent: boolean;
  readonly agent: string;
  readonly env: string;
  readonly project: string;
  readonly requester: string;
  readonly args: JsonObject;
  readonly labels: JsonObject;
  readonly now_us: number;
  readonly run: {
    readonly steps: number;
    readonly tool_calls: number;
    readonly model_calls: number;
    readonly tokens: number;
    readonly cost_micro_usd: number;
  };
  /** Worst case of this call. */
  readonly call_micro_usd: number;
}

export interface Verdict {
  readonly effect: Effect;
  readonly rules: readonly string[];
  readonly reason: string;
  readonly shadow: readonly string[];
  readonly approvals_min: number;
  readonly approval_ttl_ms: number;
  readonly block_run: boolean;
  readonly replay_live: boolean;
  readonly simulate?: Json;
}

/** One line of an explanation. */
export interface RuleTrace {
  readonly rule: string;
  readonly effect: Effect;
  readonly shadow: boolean;
  readonly selected: boolean;
  readonly condition: string | null;
  readonly outcome: "match" | "no_match" | "error" | "not_selected";
  readonly error?: string;
}

interface CompiledRule {
  readonly id: string;
  readonly rule: PolicyRule;
  readonly test: ((context: Record<string, unknown>) => unknown) | null;
}

function contextOf(call: PolicyCall): Record<string, unknown> {
  return {
    kind: call.kind,
    agent: { name: call.agent },
    tool: { name: call.kind === "tool" ? call.name : "", effect_class: call.effect_class, idempotent: call.idempotent },
    model: { name: call.kind === "model" ? call.name : "" },
    args: celValue(call.args),
    labels: celValue(call.labels),
    env: call.env,
    project: call.project,
    requester: call.requester,
    now: new Date(Math.floor(call.now_us / 1000)),
    cost: (call.run.cost_micro_usd + call.call_micro_usd) / 1_000_000,
    call_cost: call.call_micro_usd / 1_000_000,
    run: {
      steps: BigInt(call.run.steps),
      tool_calls: BigInt(call.run.tool_calls),
      model_calls: BigInt(call.run.model_calls),
      tokens: BigInt(call.run.tokens),
      cost_micro_usd: BigInt(call.run.cost_micro_usd),
    },
  };
}

function selected(match: RuleMatch | undefined, call: PolicyCall): boolean {
  if (!match) return true;
  if (match.kinds && !match.kinds.includes(call.kind)) return false;
  // A selector on tools or models alone speaks of calls of that kind only.
  if (match.tools && !(call.kind === "tool" && matchesAny(match.tools, call.name))) return false;
  if (match.models && !(call.kind === "model" && matchesAny(match.models, call.name))) return false;
  if (match.agents && !matchesAny(match.agents, call.agent)) return false;
  if (match.envs && !match.envs.includes(call.env)) return false;
  return !match.effect_classes || (call.kind === "tool" && match.effect_classes.includes(call.effect_class));
}

type Outcome = "match" | "no_match" | { error: string };

function test(rule: CompiledRule, context: () => Record<string, unknown>): Outcome {
  if (!rule.test) return "match";
  try {
    const value = rule.test(context());
    if (typeof value === "boolean") return value ? "match" : "no_match";
    return { error: "the condition did not give true or false" };
  } catch (error) {
    return { error: messageOf(error).split("\n")[0] ?? "failed" };
  }
}

const CANDIDATES_REMEMBERED = 10_000;
const ORDER: Record<Effect, number> = { deny: 0, require_approval: 1, allow: 2 };

export class Policy {
  /** Digest of the whole set: recorded with every decision. */
  readonly digest: string;
  private readonly rules: readonly CompiledRule[];
  private readonly candidates = new Map<string, readonly CompiledRule[]>();

  constructor(set: PolicySet) {
    this.digest = digestOf(canonicalJson(set)).slice("sha256:".length);
    this.rules = set.policies
      .flatMap((policy) => policy.rules.map((rule) => ({ id: `${policy.name}/${rule.id}`, rule })))
      .map(({ id, rule }) => ({ id, rule, test: rule.when === undefined ? null : compileCondition(rule.when) }))
      .sort((a, b) => ORDER[a.rule.effect] - ORDER[b.rule.effect]);
  }

  decide(call: PolicyCall): Verdict {
    let context: Record<string, unknown> | undefined;
    const lazy = () => (context ??= contextOf(call));
    const shadow: string[] = [];
    const approvals: CompiledRule[] = [];
    const denials: CompiledRule[] = [];
    for (const rule of this.candidatesFor(call)) {
      const { effect } = rule.rule;
      // Rules come deny first, allow last: once a stronger effect is certain, weaker ones need no look.
      if (!rule.rule.shadow && effect === "allow" && (denials.length > 0 || approvals.length > 0)) break;
      const outcome = test(rule, lazy);
      if (outcome === "no_match") continue;
      if (rule.rule.shadow) shadow.push(rule.id);
      else if (typeof outcome === "object") {
        if (effect !== "allow") return verdict("deny", [rule], shadow, `rule_error: ${rule.id}: ${outcome.error}`);
      } else if (effect === "deny") denials.push(rule);
      else if (denials.length > 0) break;
      else if (effect === "require_approval") approvals.push(rule);
      else return verdict("allow", [rule], shadow, rule.rule.reason ?? "allowed");
    }
    const denial = denials[0];
    if (denial) return verdict("deny", denials, shadow, denial.rule.reason ?? "denied_by_rule");
    const approval = approvals[0];
    if (approval) return verdict("require_approval", approvals, shadow, approval.rule.reason ?? "approval_required");
    return verdict("deny", [], shadow, "no_matching_rule");
  }

  /** Every rule in order of strength, with what it said. */
  explain(call: PolicyCall): RuleTrace[] {
    let context: Record<string, unknown> | undefined;
    return this.rules.map((rule) => {
      const isSelected = selected(rule.rule.match, call);
      const outcome = isSelected ? test(rule, () => (context ??= contextOf(call))) : "not_selected";
      const common = {
        rule: rule.id,
        effect: rule.rule.effect,
        shadow: rule.rule.shadow ?? false,
        selected: isSelected,
        condition: rule.rule.when ?? null,
      };
      return typeof outcome === "object"
        ? { ...common, outcome: "error", error: outcome.error }
        : { ...common, outcome };
    });
  }

  private candidatesFor(call: PolicyCall): readonly CompiledRule[] {
    const key = `${call.kind}\0${call.name}\0${call.agent}\0${call.env}\0${call.effect_class}`;
    const known = this.candidates.get(key);
    if (known) return known;
    const found = this.rules.filter((rule) => selected(rule.rule.match, call));
    if (this.candidates.size >= CANDIDATES_REMEMBERED) this.candidates.clear();
    this.candidates.set(key, found);
    return found;
  }
}

function verdict(effect: Effect, rules: readonly CompiledRule[], shadow: readonly string[], reason: string): Verdict {
  return {
    effect,
    rules: rules.map((rule) => rule.id),
    reason,
    shadow,
    approvals_min: Math.max(1, ...rules.map((rule) => rule.rule.approvals_min ?? 1)),
    approval_ttl_ms: Math.min(...rules.map((rule) => rule.rule.approval_ttl_ms ?? LIMITS.approval_ttl_ms_default)),
    block_run: rules.some((rule) => rule.rule.block_run === true),
    replay_live: rules.some((rule) => rule.rule.replay_live === true),
    ...simulation(rules),
  };
}

function simulation(rules: readonly CompiledRule[]): { simulate?: Json } {
  const simulate = rules.find((rule) => rule.rule.simulate !== undefined)?.rule.simulate;
  return simulate === undefined ? {} : { simulate };
}
