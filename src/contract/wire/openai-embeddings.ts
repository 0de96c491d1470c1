// OpenAI Embeddings. https://platform.openai.com/docs/api-reference/embeddings
// Paid by its input alone; what it says is numbers, kept as bytes.
import { isObject } from "../../kit/json.ts";
import { openaiChat } from "./openai-chat.ts";
import { nothingUnderstood } from "./wire.ts";
import type { WireApi } from "./wire.ts";

export const openaiEmbeddings: WireApi = {
  ...openaiChat,
  name: "openai.embeddings",
  path: "/embeddings",
  limitOf: () => 0,
  outgoing: (body, { model }) => ({ ...body, model }),
  answer: (body) => {
    const tokens = isObject(body["usage"]) ? body["usage"]["prompt_tokens"] : undefined;
    return {
      content: null,
      tool_calls: [],
      usage: typeof tokens === "number" ? { input_tokens: tokens, output_tokens: 0 } : null,
      finish_reason: "",
      model: String(body["model"] ?? ""),
    };
  },
  assembler: nothingUnderstood,
};
