// An OpenAI-compatible provider whose answers a function decides; on the wire as the real one streams.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

export interface ChatRequest {
  model: string;
  messages: { role: string; content: unknown; tool_calls?: unknown[] }[];
  stream?: boolean;
  tools?: unknown[];
  [key: string]: unknown;
}
export interface ChatAnswer {
  content?: string;
  call?: { name: string; args: object };
  status?: number;
}

export interface ScriptedModel {
  readonly url: string;
  readonly requests: ChatRequest[];
  close(): Promise<void>;
}

const USAGE = { prompt_tokens: 20, completion_tokens: 10, total_tokens: 30 };

function messageOf(answer: ChatAnswer, n: number) {
  const tool_calls = answer.call && [
    {
      id: `call_${n}`,
      type: "function",
      function: { name: answer.call.name, arguments: JSON.stringify(answer.call.args) },
    },
  ];
  return { role: "assistant", content: answer.content ?? null, ...(tool_calls ? { tool_calls } : {}) };
}

export async function startScriptedModel(decide: (request: ChatRequest) => ChatAnswer): Promise<ScriptedModel> {
  const requests: ChatRequest[] = [];
  const server = createServer((req, res) => {
    let text = "";
    req.on("data", (chunk: Buffer) => (text += chunk.toString()));
    req.on("end", () => {
      const request = JSON.parse(text) as ChatRequest;
      requests.push(request);
      const answer = decide(request);
      const n = requests.length;
      if (answer.status !== undefined) {
        res.writeHead(answer.status, { "content-type": "application/json" });
        return void res.end(JSON.stringify({ error: { message: "refused", type: "server_error", code: null } }));
      }
      const finish_reason = answer.call ? "tool_calls" : "stop";
      const common = { id: `chatcmpl-${n}`, created: 1_700_000_000, model: request.model };
      if (!request.stream) {
        const choices = [{ index: 0, message: messageOf(answer, n), finish_reason }];
        res.writeHead(200, { "content-type": "application/json" });
        return void res.end(JSON.stringify({ ...common, object: "chat.completion", choices, usage: USAGE }));
      }
      res.writeHead(200, { "content-type": "text/event-stream" });
      const chunk = (delta: object, end: string | null = null, usage: object | null = null) =>
        res.write(
          `data: ${JSON.stringify({ ...common, object: "chat.completion.chunk", choices: usage ? [] : [{ index: 0, delta, finish_reason: end }], usage })}\n\n`,
        );
      chunk({ role: "assistant", content: "" });
      for (const word of (answer.content ?? "").split(/(?<= )/)) if (word !== "") chunk({ content: word });
      const { call } = answer;
      if (call) {
        chunk({
          tool_calls: [{ index: 0, id: `call_${n}`, type: "function", function: { name: call.name, arguments: "" } }],
        });
        for (const part of JSON.stringify(call.args).match(/.{1,8}/g) ?? [])
          chunk({ tool_calls: [{ index: 0, function: { arguments: part } }] });
      }
      chunk({}, finish_reason);
      chunk({}, null, USAGE);
      res.end("data: [DONE]\n\n");
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
