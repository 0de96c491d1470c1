// Anthropic's count of a message's tokens. https://docs.claude.com/en/api/messages-count-tokens
// It costs nothing, but what would be said goes to the provider: it is governed like any call.
import { anthropicMessages } from "./anthropic-messages.ts";
import { nothingUnderstood } from "./wire.ts";
import type { WireApi } from "./wire.ts";

export const anthropicCountTokens: WireApi = {
  ...anthropicMessages,
  name: "anthropic.count_tokens",
  path: `${anthropicMessages.path}/count_tokens`,
  limitOf: () => 0,
  outgoing: (body, { model }) => ({ ...body, model }),
  answer: () => ({
    content: null,
    tool_calls: [],
    usage: { input_tokens: 0, output_tokens: 0 },
    finish_reason: "",
    model: "",
  }),
  assembler: nothingUnderstood,
};
