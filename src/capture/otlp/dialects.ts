// What a span says happened: a model call, a tool call, a retrieval, a judgement, or a step that holds others. Read attribute by
// attribute, since spans of several dialects (OTel GenAI old and new, OpenInference, Traceloop, Vercel AI SDK, MCP) stand in one
// trace, and old and new names in one span.
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { EventType } from "../../contract/events.ts";
import type { ExportedSpan } from "../../contract/otlp.ts";
import { inputOf, outputOf } from "./messages.ts";
import { NAMES, PARAMETERS } from "./names.ts";
import { AttributeReader, parsed } from "./reader.ts";

/** A span as the events that it becomes. */
export interface SpanCall {
  /** Null: one event says it all. */
  readonly opens: { readonly type: EventType; readonly data: JsonObject } | null;
  readonly closes: { readonly type: EventType; readonly data: JsonObject };
}

type Kind = "model" | "tool" | "retrieval" | "agent" | "safety" | "evaluation" | "prompt" | "step";

const OPERATIONS: Readonly<Record<string, Kind>> = {
  chat: "model",
  generate_content: "model",
  text_completion: "model",
  embeddings: "model",
  execute_tool: "tool",
  retrieval: "retrieval",
  create_agent: "agent",
  invoke_agent: "agent",
};
const OPENINFERENCE: Readonly<Record<string, Kind>> = {
  LLM: "model",
  EMBEDDING: "model",
  TOOL: "tool",
  RETRIEVER: "retrieval",
  RERANKER: "retrieval",
  AGENT: "agent",
  GUARDRAIL: "safety",
  EVALUATOR: "evaluation",
  PROMPT: "prompt",
};
const OTHERS: Readonly<Record<string, Kind>> = {
  tool: "tool",
  agent: "agent",
  generation: "model",
  embedding: "model",
  retriever: "retrieval",
  evaluator: "evaluation",
  guardrail: "safety",
  llm: "model",
};
/** Operations of the Vercel AI SDK that are a provider's call; the others hold them. */
const VERCEL_CALL = /\.do(Generate|Stream|Embed)$/;
const RENAMED: Readonly<Record<string, string>> = {
  "az.ai.openai": "azure.ai.openai",
  "az.ai.inference": "azure.ai.inference",
  vertex_ai: "gcp.vertex_ai",
  gemini: "gcp.gemini",
  xai: "x_ai",
};
function kindOf(span: ExportedSpan, reader: AttributeReader, inTool: boolean): Kind {
  const vercel = reader.text(NAMES.operation).split(" ")[0] ?? "";
  if (vercel === "ai.toolCall") return "tool";
  if (vercel.startsWith("ai.") && !VERCEL_CALL.test(vercel)) return "step";
  if (vercel.startsWith("ai.")) return "model";
  // A span of the protocol below the tool's own span is the same call once more.
  const method = reader.text("mcp.method.name");
  if (method !== "") return method === "tools/call" && !inTool ? "tool" : "step";
  const operation = OPERATIONS[reader.text("gen_ai.operation.name")];
  if (operation) return operation;
  const kind = OPENINFERENCE[reader.text("openinference.span.kind").toUpperCase()];
  if (kind) return kind;
  const other = OTHERS[reader.text(NAMES.other_kind).toLowerCase()];
  if (other) return other;
  const named = NAMES.model.some((name) => reader.has(name)) || reader.has("llm.request.type");
  return named || span.events.some((event) => event.name === "gen_ai.choice") ? "model" : "step";
}

/** Why a span failed; empty when it did not. */
function failureOf(span: ExportedSpan, reader: AttributeReader): { code: string; message: string } | null {
  const code = reader.text("error.type");
  const thrown = span.events.find((event) => event.name === "exception")?.attributes;
  if (!span.is_error && code === "") return null;
  const message = span.status_message || String(thrown?.["exception.message"] ?? "") || code || "error";
  return { code: code || String(thrown?.["exception.type"] ?? "error"), message };
}

/** Reads a span. `inTool`: the span above it is a tool call. `called`: one below it is, and is recorded as that. */
export function readSpan(span: ExportedSpan, given: { inTool: boolean; called: boolean }): SpanCall {
  const reader = new AttributeReader(span.attributes);
  const said = kindOf(span, reader, given.inTool);
  const kind = said === "tool" && given.called ? "step" : said;
  const failure = failureOf(span, reader);
  const ended: JsonObject = { duration_ms: (span.end_us - span.start_us) / 1_000 };
  const call = READERS[kind](span, reader, failure, ended);
  const root: JsonObject = span.parent_span_id === "" ? { root: true } : {};
  const attributes = reader.rest();
  const rest: JsonObject = Object.keys(attributes).length > 0 ? { attributes } : {};
  const told = span.events.filter((event) => !event.name.startsWith("gen_ai.") && event.name !== "exception");
  const events: JsonObject =
    told.length > 0 ? { events: told.map(({ name, attributes: said }) => ({ attributes: { ...said }, name })) } : {};
  // What was asked stands where the call begins; the rest where it ends.
  return {
    opens: call.opens,
    closes: { type: call.closes.type, data: { ...rest, ...call.closes.data, ...events, ...root } },
  };
}

type Failure = { code: string; message: string } | null;
type Reader = (span: ExportedSpan, reader: AttributeReader, failure: Failure, ended: JsonObject) => SpanCall;

function usageOf(reader: AttributeReader): JsonObject {
  const input = reader.number(NAMES.input_tokens);
  const output = reader.number(NAMES.output_tokens);
  if (input === undefined && output === undefined) return {};
  const count = (value: number | undefined) => Math.max(0, Math.round(value ?? 0));
  return { usage: { input_tokens: count(input), output_tokens: count(output) } };
}

function costOf(reader: AttributeReader): JsonObject {
  const usd = reader.number(NAMES.cost_usd);
  return usd === undefined || usd < 0 ? {} : { cost_micro_usd: Math.round(usd * 1e6) };
}

const model: Reader = (span, reader, failure, ended) => {
  const name = reader.text(NAMES.model) || span.name || "unknown";
  const provider = reader.text(NAMES.provider);
  const messages = inputOf(reader, span.events);
  const params: JsonObject = {};
  // By what is there: a span has few attributes, and settings many names.
  for (const name of reader.names) {
    const parameter = PARAMETERS.get(name);
    const value = parameter && reader.any(parameter.names);
    if (parameter && value !== undefined) params[parameter.setting] = value;
  }
  const invocation = reader.json("llm.invocation_parameters");
  if (isObject(invocation)) Object.assign(params, invocation);
  const tools = reader.json(NAMES.tools);
  const request: JsonObject = { ...params, messages, ...(tools === undefined ? {} : { tools }) };
  const response = reader.text(NAMES.response_model);
  const opens = {
    type: "model.requested" as const,
    data: { model: name, ...(provider === "" ? {} : { provider: RENAMED[provider] ?? provider }), request },
  };
  const cost = costOf(reader);
  const usage = usageOf(reader);
  if (failure) return { opens, closes: { type: "model.failed", data: { ...cost, ...ended, ...usage, ...failure } } };
  const { content, tool_calls, finish_reasons } = outputOf(reader, span.events);
  // In the order of their names, as they are stored.
  const data: JsonObject = { content, ...cost, ...ended };
  if (finish_reasons.length > 0) data["finish_reasons"] = finish_reasons;
  if (response !== "") data["response_model"] = response;
  return { opens, closes: { type: "model.completed", data: { ...data, tool_calls, ...usage } } };
};

const tool: Reader = (span, reader, failure, ended) => {
  const name = reader.text(NAMES.tool);
  const asked = reader.json(NAMES.arguments);
  const args: JsonObject = isObject(asked) ? asked : asked === undefined ? {} : { input: asked };
  const opens = { type: "tool.requested" as const, data: { args, tool: name || span.name || "unnamed" } };
  const result = reader.json(NAMES.result);
  // An error that the tool itself reported is an answer; it came back to the model.
  if (failure && failure.code !== "tool_error")
    return { opens, closes: { type: "tool.failed", data: { ...ended, ...failure } } };
  const data: JsonObject = { ...ended, result: result ?? null, ...(failure ? { is_error: true } : {}) };
  return { opens, closes: { type: "tool.completed", data } };
};

const retrieval: Reader = (span, reader, failure, ended) => {
  const query = reader.any(NAMES.query);
  const retriever = reader.text(NAMES.retriever) || span.name || "retriever";
  const top_k = reader.number(NAMES.top_k);
  const data: JsonObject = { query: query ?? null, retriever, ...(top_k === undefined ? {} : { top_k }) };
  const opens = { type: "retrieval.requested" as const, data };
  if (failure) return { opens, closes: { type: "retrieval.failed", data: { ...ended, ...failure } } };
  const listed = parsed(reader.any("gen_ai.retrieval.documents"));
  const flat = [...reader.list("retrieval.documents"), ...reader.list("reranker.output_documents")];
  const documents = (Array.isArray(listed) ? listed.filter(isObject) : flat).map((item, i): JsonObject => {
    const document: JsonObject = isObject((item as JsonObject)["document"])
      ? ((item as JsonObject)["document"] as JsonObject)
      : (item as JsonObject);
    return { rank: i + 1, ...document };
  });
  return { opens, closes: { type: "retrieval.completed", data: { ...ended, documents } } };
};

const ended = (data: JsonObject, failure: Failure): JsonObject =>
  failure ? { ...data, ...failure, is_error: true } : data;

/** What went into and came out of a span that holds others. */
function inOut(reader: AttributeReader): { input: JsonObject; output: JsonObject } {
  const input = reader.json(NAMES.input);
  const output = reader.json(NAMES.output);
  return { input: input === undefined ? {} : { input }, output: output === undefined ? {} : { output } };
}

const agent: Reader = (span, reader, failure, data) => {
  const { input, output } = inOut(reader);
  const name = reader.text(NAMES.agent) || span.name || "agent";
  const opens = { type: "agent.started" as const, data: { ...input, name } };
  return { opens, closes: { type: "agent.ended", data: ended({ ...data, ...output }, failure) } };
};

const step: Reader = (span, reader, failure, data) => {
  const { input, output } = inOut(reader);
  const name = reader.text(NAMES.step) || span.name || "span";
  const opens = { type: "step.started" as const, data: { ...input, name } };
  return { opens, closes: { type: "step.ended", data: ended({ ...data, ...output }, failure) } };
};

const safety: Reader = (span, reader, failure, data) => {
  const { input, output } = inOut(reader);
  return {
    opens: null,
    closes: {
      type: "safety.decided",
      data: { ...data, ...input, ...output, category: span.name, decision: failure ? "block" : "allow" },
    },
  };
};

const evaluation: Reader = (span, reader, failure, data) => {
  const { input, output } = inOut(reader);
  const name = reader.text("gen_ai.evaluation.name") || span.name;
  const score = reader.number(NAMES.score);
  const label = reader.text(NAMES.label);
  const said: JsonObject = { ...(score === undefined ? {} : { score }), ...(label === "" ? {} : { label }) };
  return {
    opens: null,
    closes: { type: "evaluation.recorded", data: ended({ ...data, ...input, ...output, ...said, name }, failure) },
  };
};

const prompt: Reader = (span, reader, failure, data) => {
  const { input, output } = inOut(reader);
  const template = reader.any("llm.prompt_template.template") ?? span.name;
  const variables = reader.json("llm.prompt_template.variables");
  const version = reader.any("llm.prompt_template.version");
  const said: JsonObject = {
    ...(variables === undefined ? {} : { variables }),
    ...(version === undefined ? {} : { version }),
  };
  const rendered: Json = output["output"] ?? null;
  return {
    opens: null,
    closes: { type: "prompt.rendered", data: ended({ ...data, ...input, ...said, rendered, template }, failure) },
  };
};

const READERS: Readonly<Record<Kind, Reader>> = { model, tool, retrieval, agent, safety, evaluation, prompt, step };
