// How an agent's conversation grows. Results of parallel tool calls come in any order and enter the conversation in the
// order of the calls, so the next request is the same whichever finished first.
import { present } from "../kit/assert.ts";
import type { Json } from "../kit/json.ts";
import type { AgentSpec } from "../contract/catalog.ts";
import type { ArtifactRef, ContentPart, Message, ToolCall } from "../contract/jobs.ts";
import { matchesAny } from "./pattern.ts";
import type { AgentState } from "./run-state.ts";

/** The conversation an input opens: text, content parts, or messages as they are. */
export function openingMessages(spec: AgentSpec, input: Json): Message[] {
  const system: Message[] = spec.instructions === "" ? [] : [{ role: "system", content: spec.instructions }];
  if (typeof input === "string") return [...system, { role: "user", content: input }];
  if (Array.isArray(input)) return [...system, { role: "user", content: input as unknown as ContentPart[] }];
  return [...system, { role: "user", content: JSON.stringify(input) }];
}

export function initial(spec: AgentSpec, input: Json): AgentState {
  return {
    kind: "agent",
    spec,
    messages: openingMessages(spec, input),
    turns: 0,
    calls: [],
    results: [],
    next_slot: 0,
    ended_by_tool: false,
    output_retries: 0,
    answer: null,
  };
}

export function beginTurn(agent: AgentState): number {
  agent.turns += 1;
  return -1;
}

export function takeCall(agent: AgentState): number {
  agent.next_slot += 1;
  return agent.next_slot - 1;
}

export function answered(agent: AgentState, content: string | null, calls: ToolCall[], ref?: ArtifactRef): void {
  agent.messages.push({
    role: "assistant",
    content,
    ...(calls.length > 0 ? { tool_calls: calls } : {}),
    ...(ref ? { ref } : {}),
  });
  agent.calls = calls;
  agent.results = calls.map(() => null);
  agent.next_slot = 0;
  agent.answer = calls.length === 0 ? (content ?? "") : null;
}

export function toolResult(
  agent: AgentState,
  slot: number,
  content: string,
  { is_error, ref }: { is_error: boolean; ref?: ArtifactRef | undefined },
): void {
  const call = present(agent.calls[slot], "a tool result belongs to a call of this turn");
  const message: Message = { role: "tool", call_id: call.id, name: call.name, content, ...(ref ? { ref } : {}) };
  agent.results[slot] = is_error ? { ...message, is_error } : message;
  if (!is_error && matchesAny(agent.spec.final_tools, call.name)) agent.ended_by_tool = true;
  if (agent.results.some((result) => result === null)) return;
  agent.messages.push(...agent.results.map((result) => present(result, "all results are in")));
  agent.calls = [];
  agent.results = [];
}

export function input(agent: AgentState, content: Json): void {
  const body = typeof content === "string" ? content : (content as unknown as ContentPart[]);
  agent.messages.push({ role: "user", content: body });
  agent.answer = null;
}

export function invalidAnswer(agent: AgentState, errors: string): void {
  agent.output_retries += 1;
  agent.answer = null;
  agent.messages.push({ role: "user", content: `Your answer does not fit the required JSON schema: ${errors}` });
}

/** The last thing the assistant said in text; null when it said nothing yet. */
export function lastAnswer(agent: AgentState): string | null {
  const said = agent.messages.findLast((message) => message.role === "assistant" && message.content !== null);
  return said?.role === "assistant" ? said.content : null;
}
