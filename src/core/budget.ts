// Budget arithmetic of one run, and worst cases of calls. Integers only. Shared budgets (agent, project, team, tenant)
// are kept by the orchestrator's ledger, which asks the same questions.
import type { PriceRow, RunBudget } from "../contract/catalog.ts";
import type { ContentPart, Message, Usage } from "../contract/jobs.ts";
import { tokenCost } from "../kit/money.ts";
import { activeMs } from "./run-state.ts";
import type { RunState } from "./run-state.ts";

/** What a call may use at most. */
export interface Bound {
  readonly micro: number;
  readonly tokens: number;
}

/** Tokens an image or a file may count for: providers bill by size; this is above what they bill at their limits. */
const MEDIA_TOKENS_BOUND = 20_000;

function partBound(part: ContentPart): number {
  return part.type === "text" ? Buffer.byteLength(part.text) : MEDIA_TOKENS_BOUND;
}

/** Upper bound of input tokens: a token is at least one byte of UTF-8. `extra_bytes` is tools and framing. */
export function inputTokensBound(messages: readonly Message[], extra_bytes: number): number {
  let bound = extra_bytes;
  for (const message of messages) {
    bound += 16;
    if ((message.role === "tool" || message.role === "assistant") && message.ref) bound += message.ref.bytes;
    else if (typeof message.content === "string") bound += Buffer.byteLength(message.content);
    else if (Array.isArray(message.content)) for (const part of message.content) bound += partBound(part);
    if (message.role === "assistant" && message.tool_calls) {
      for (const call of message.tool_calls)
        bound += 16 + Buffer.byteLength(call.name) + Buffer.byteLength(call.arguments);
    }
  }
  return bound;
}

export function modelBound(price: PriceRow, input_tokens: number, output_tokens: number): Bound {
  return {
    micro: tokenCost(input_tokens, price.input_micro_per_mtok) + tokenCost(output_tokens, price.output_micro_per_mtok),
    tokens: input_tokens + output_tokens,
  };
}

export function usageCost(price: PriceRow, usage: Usage): number {
  return (
    tokenCost(usage.input_tokens, price.input_micro_per_mtok) +
    tokenCost(usage.output_tokens, price.output_micro_per_mtok)
  );
}

/** The first limit of the run that a call would pass, or null. Reserved + spent never exceeds a limit. */
export function runLimitPassed(run: RunState, kind: "tool" | "model", bound: Bound, now_us: number): string | null {
  const { totals, budget } = run;
  const over = (limit: keyof RunBudget, wanted: number) => budget[limit] !== undefined && wanted > budget[limit];
  if (over("cost_micro_usd", totals.spent_micro + totals.reserved_micro + bound.micro)) return "cost_micro_usd";
  if (over("total_tokens", totals.spent_tokens + totals.reserved_tokens + bound.tokens)) return "total_tokens";
  if (kind === "tool" && over("tool_calls", totals.tool_calls + 1)) return "tool_calls";
  if (kind === "model") {
    if (over("model_calls", totals.model_calls + 1)) return "model_calls";
    if (over("input_tokens", totals.input_tokens + 1)) return "input_tokens";
    if (over("output_tokens", totals.output_tokens + 1)) return "output_tokens";
  }
  if (over("active_ms", Math.ceil(activeMs(run, now_us)))) return "active_ms";
  return null;
}
