// What attributes are called, by what they say: OTel GenAI (current names first, then those of before), OpenInference, Vercel AI
// SDK, Traceloop, Langfuse. The first that is there counts.
export const NAMES = {
  model: [
    "gen_ai.request.model",
    "llm.request.model_name",
    "llm.model_name",
    "ai.model.id",
    "gen_ai.response.model",
    "llm.response.model_name",
    "ai.response.model",
    "langfuse.observation.model.name",
  ],
  provider: ["gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider"],
  response_model: ["gen_ai.response.model", "llm.response.model_name", "ai.response.model"],
  tools: ["gen_ai.tool.definitions", "ai.prompt.tools"],
  input_tokens: [
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "ai.usage.inputTokens",
    "ai.usage.promptTokens",
    "llm.usage.prompt_tokens",
  ],
  output_tokens: [
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "ai.usage.outputTokens",
    "ai.usage.completionTokens",
    "llm.usage.completion_tokens",
  ],
  cost_usd: ["llm.cost.total", "gen_ai.usage.cost"],
  tool: ["gen_ai.tool.name", "tool.name", "ai.toolCall.name", "traceloop.entity.name", "langfuse.observation.name"],
  arguments: [
    "gen_ai.tool.call.arguments",
    "tool.parameters",
    "ai.toolCall.args",
    "ai.toolCall.input",
    "input.value",
    "traceloop.entity.input",
    "langfuse.observation.input",
  ],
  result: [
    "gen_ai.tool.call.result",
    "ai.toolCall.result",
    "ai.toolCall.output",
    "output.value",
    "traceloop.entity.output",
    "langfuse.observation.output",
  ],
  query: [
    "gen_ai.retrieval.query.text",
    "reranker.query",
    "input.value",
    "traceloop.entity.input",
    "langfuse.observation.input",
  ],
  retriever: ["gen_ai.data_source.id", "reranker.model_name"],
  top_k: ["reranker.top_k", "gen_ai.request.top_k"],
  agent: ["gen_ai.agent.name", "agent.name", "traceloop.entity.name", "graph.node.name"],
  step: ["gen_ai.workflow.name", "traceloop.entity.name", "graph.node.name"],
  input: [
    "input.value",
    "traceloop.entity.input",
    "gen_ai.input.messages",
    "ai.prompt",
    "langfuse.trace.input",
    "langfuse.observation.input",
  ],
  output: [
    "output.value",
    "traceloop.entity.output",
    "gen_ai.output.messages",
    "ai.response.text",
    "ai.response.object",
    "langfuse.trace.output",
    "langfuse.observation.output",
  ],
  /** Messages of a model call, where they are an attribute of their own. */
  input_messages: [
    "gen_ai.input.messages",
    "ai.prompt.messages",
    "ai.prompt",
    "pydantic_ai.all_messages",
    "langfuse.observation.input",
  ],
  output_messages: ["gen_ai.output.messages", "langfuse.observation.output"],
  /** The same as a text, where nothing better is there. */
  input_text: ["input.value", "traceloop.entity.input", "gen_ai.prompt"],
  output_text: ["output.value", "traceloop.entity.output", "gen_ai.completion", "ai.response.object"],
  finish_reasons: ["gen_ai.response.finish_reasons", "ai.response.finishReason"],
  score: ["gen_ai.evaluation.score.value", "eval.score"],
  label: ["gen_ai.evaluation.score.label", "eval.label"],
  operation: ["ai.operationId", "operation.name"],
  other_kind: ["traceloop.span.kind", "langfuse.observation.type"],
} as const satisfies Record<string, readonly string[]>;

/** Settings of a model call. */
const PARAMETER_NAMES: Readonly<Record<string, readonly string[]>> = {
  frequency_penalty: ["gen_ai.request.frequency_penalty", "ai.settings.frequencyPenalty"],
  max_tokens: ["gen_ai.request.max_tokens", "ai.settings.maxOutputTokens", "ai.settings.maxTokens"],
  presence_penalty: ["gen_ai.request.presence_penalty", "ai.settings.presencePenalty"],
  seed: ["gen_ai.request.seed", "gen_ai.openai.request.seed", "ai.settings.seed"],
  stop: ["gen_ai.request.stop_sequences", "ai.settings.stopSequences"],
  temperature: ["gen_ai.request.temperature", "ai.settings.temperature"],
  top_k: ["gen_ai.request.top_k", "ai.settings.topK"],
  top_p: ["gen_ai.request.top_p", "ai.settings.topP"],
};

/** Which setting an attribute is. Of several names of one, the first that is listed counts. */
export const PARAMETERS: ReadonlyMap<string, { readonly setting: string; readonly names: readonly string[] }> = new Map(
  Object.entries(PARAMETER_NAMES).flatMap(([setting, names]) =>
    names.map((name) => [name, { setting, names }] as const),
  ),
);
