// Drives a recorded run again through the orchestrator: recorded user turns, model answers and tool results go in, the
// policy of today decides. The queue below is the only executor there is, and it knows no network, no process and no
// file: that no call leaves is true by construction. (The start of exact replay.)
import type { Json, JsonObject } from "../kit/json.ts";
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { AgentSpec, Catalog } from "../contract/catalog.ts";
import type { Job, JobOutcome, JobQueue, JobResult, ModelRoute, ToolCall, ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { matchesAny } from "../core/pattern.ts";

/** What a recording says, in the order in which it was said. */
export interface Conversation {
  readonly instructions: string;
  readonly user: readonly string[];
  readonly answers: readonly { content: string | null; tool_calls: readonly ToolCall[] }[];
  /** Results by the id of their call; ids repeat in some sources, so each holds a queue. */
  readonly results: ReadonlyMap<string, readonly string[]>;
  /** The tool whose result ended the conversation: it was the last thing recorded, and called once. */
  readonly final_tool: string | null;
  /** The recording stops after a tool's result though the model had not finished (a step limit, say). */
  readonly cut_off: boolean;
}

const text = (value: Json | undefined): string => (typeof value === "string" ? value : canonicalJson(value ?? null));

function callsOf(message: JsonObject): ToolCall[] {
  const raw = Array.isArray(message["tool_calls"]) ? (message["tool_calls"] as JsonObject[]) : [];
  return raw.map((call) => {
    const fn = call["function"] as JsonObject;
    return { id: String(call["id"]), name: String(fn["name"]), arguments: String(fn["arguments"]) };
  });
}

/** Reads a chat transcript as a conversation that can be driven. */
export function conversationOf(messages: readonly JsonObject[]): Conversation {
  const results = new Map<string, string[]>();
  const user: string[] = [];
  const answers: { content: string | null; tool_calls: ToolCall[] }[] = [];
  let instructions = "";
  for (const message of messages) {
    const { role } = message;
    if (role === "system") instructions = text(message["content"]);
    if (role === "user") user.push(text(message["content"]));
    if (role === "assistant")
      answers.push({ content: (message["content"] ?? null) as string | null, tool_calls: callsOf(message) });
    if (role === "tool") {
      const id = String(message["tool_call_id"]);
      results.set(id, [...(results.get(id) ?? []), text(message["content"])]);
    }
  }
  const last = messages.at(-1);
  const tool = last?.["role"] === "tool" ? String(last["name"]) : null;
  const once = answers.flatMap((answer) => answer.tool_calls).filter((call) => call.name === tool).length === 1;
  return { instructions, user, answers, results, final_tool: once ? tool : null, cut_off: tool !== null && !once };
}

const ROUTE: ModelRoute = {
  name: "recorded",
  version: 1,
  provider: "recorded",
  model: "recorded",
  base_url: null,
  api_key: null,
  recording: null,
  concurrency_max: 1,
  timeout_ms: LIMITS.model_timeout_ms_default,
  attempts_max: 1,
};

function toolOf(name: string): ToolDefinition {
  const definition = { name, input_schema: { type: "object" } };
  return {
    ...definition,
    version: 1,
    digest: digestOf(canonicalJson(definition)),
    kind: "builtin",
    description: "",
    output_schema: null,
    effect_class: "write",
    idempotent: false,
    timeout_ms: LIMITS.tool_timeout_ms_default,
    attempts_max: 1,
    cost_micro_usd: 0,
    config: {},
  };
}

/** A registry that holds exactly what the recording used. */
export function recordedCatalog(conversation: Conversation): Catalog {
  const names = [
    ...new Set(conversation.answers.flatMap((answer) => answer.tool_calls.map((call) => call.name))),
  ].sort();
  const tools = new Map(names.map((name) => [name, toolOf(name)]));
  const agent: AgentSpec = {
    name: "recorded",
    version: 1,
    digest: digestOf(canonicalJson(names)),
    model: ROUTE.name,
    instructions: conversation.instructions,
    tools: names,
    final_tools: conversation.final_tool === null ? [] : [conversation.final_tool],
    turns_max: conversation.cut_off ? conversation.answers.length : LIMITS.model_turns_max,
    max_output_tokens: LIMITS.max_output_tokens_default,
    params: {},
    output_schema: null,
    mode: "chat",
    budget: {},
    deadline_ms: null,
    on_denied: "continue",
    concurrency_max: null,
  };
  return {
    agent: () => agent,
    workflow: () => null,
    tool: (name) => tools.get(name) ?? null,
    toolsMatching: (patterns) => [...tools.values()].filter((tool) => matchesAny(patterns, tool.name)),
    model: () => ROUTE,
    intent: () => null,
    modelOf: () => ROUTE,
    budgets: () => [],
    price: (model) => ({ model, from: "1970-01-01", input_micro_per_mtok: 0, output_micro_per_mtok: 0 }),
  };
}

/** Answers jobs from the recording. A job that the recording has no answer for fails: nothing is made up. */
export class RecordedQueue implements JobQueue {
  private readonly conversation: Conversation;
  private readonly report: (results: readonly JobResult[]) => void;
  private readonly used = new Map<string, number>();

  constructor(conversation: Conversation, report: (results: readonly JobResult[]) => void) {
    this.conversation = conversation;
    this.report = report;
  }

  dispatch(jobs: readonly Job[]): void {
    const results = jobs.map((job) => {
      const { tenant_id, run_id, step, attempt, kind } = job;
      return { tenant_id, run_id, step, attempt, kind, duration_ms: 0, outcome: this.outcome(job) };
    });
    queueMicrotask(() => this.report(results));
  }

  abort(): void {
    // Every answer is immediate: there is nothing to stop.
  }

  private outcome(job: Job): JobOutcome {
    const missing = (what: string): JobOutcome => ({
      ok: false,
      failure: { class: "permanent", code: "not_recorded", message: `The recording has no ${what}.` },
    });
    const { answers, results } = this.conversation;
    if (job.kind === "model") {
      const index = job.messages.filter((message) => message.role === "assistant").length;
      const answer = answers[index];
      if (!answer) return missing(`answer ${index + 1}`);
      const usage = { input_tokens: 0, output_tokens: 0 };
      return {
        ok: true,
        kind: "model",
        content: answer.content,
        tool_calls: [...answer.tool_calls],
        finish_reason: "recorded",
        usage,
        response_model: "recorded",
      };
    }
    const call = this.callOf(job.tool.name, job.args);
    const list = call === null ? undefined : results.get(call);
    const n = this.used.get(call ?? "") ?? 0;
    this.used.set(call ?? "", n + 1);
    const result = list?.[Math.min(n, list.length - 1)];
    return result === undefined ? missing(`result of ${job.tool.name}`) : { ok: true, kind: "tool", result };
  }

  private readonly taken = new Set<string>();

  /** Id of the first recorded call of this tool with these arguments whose result was not used yet. */
  private callOf(name: string, args: JsonObject): string | null {
    const wanted = canonicalJson(args);
    for (const [turn, answer] of this.conversation.answers.entries()) {
      for (const [index, call] of answer.tool_calls.entries()) {
        const key = `${turn}/${index}`;
        if (this.taken.has(key) || call.name !== name || canonicalArguments(call.arguments) !== wanted) continue;
        this.taken.add(key);
        return call.id;
      }
    }
    return null;
  }
}

function canonicalArguments(source: string): string {
  try {
    return canonicalJson(JSON.parse(source === "" ? "{}" : source) as Json);
  } catch {
    return source;
  }
}
