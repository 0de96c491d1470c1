// An OpenAI-compatible provider whose answers a function decides; on the wire as the real one streams.
import { createServer } from "node:http";
import type { ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface ChatRequest {
  model: string;
  /** Of the Responses API: its input as one message. */
  messages: { role: string; content: unknown; tool_calls?: unknown[] }[];
  stream?: boolean;
  tools?: unknown[];
  [key: string]: unknown;
}
export interface ChatAnswer {
  /** With a status it is what the error says. */
  content?: string;
  call?: { name: string; args: object };
  status?: number;
  /** Between the words of a stream. */
  pause_ms?: number;
  /** Before anything is said. */
  delay_ms?: number;
  /** A stream says it in pieces of so many characters, instead of in words. */
  piece_chars?: number;
  /** After this word of a stream the connection breaks. */
  breaks_at?: string;
  /** Instead of an answer of the API: this body. */
  body?: string;
}

export interface ScriptedModel {
  readonly url: string;
  readonly requests: ChatRequest[];
  readonly headers: Record<string, unknown>[];
  close(): Promise<void>;
}

const USAGE = { prompt_tokens: 20, completion_tokens: 10, total_tokens: 30 };

function wordsOf({ content = "", piece_chars }: ChatAnswer): string[] {
  if (piece_chars === undefined) return content.split(/(?<= )/);
  return Array.from({ length: Math.ceil(content.length / piece_chars) }, (_, i) =>
    content.slice(i * piece_chars, (i + 1) * piece_chars),
  );
}

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

/** OpenAI's Responses, whole. */
function respond(res: ServerResponse, request: ChatRequest, text: string, n: number): void {
  const content = [{ type: "output_text", text, annotations: [] }];
  const output = [{ id: `msg_${n}`, type: "message", role: "assistant", status: "completed", content }];
  const usage = { input_tokens: 20, output_tokens: 10, total_tokens: 30 };
  res.writeHead(200, { "content-type": "application/json" });
  res.end(
    JSON.stringify({ id: `resp_${n}`, object: "response", status: "completed", model: request.model, output, usage }),
  );
}

/** OpenAI's Embeddings, as its own client asks for them: numbers in base64. */
function embed(res: ServerResponse, request: ChatRequest, n: number): void {
  const texts = [request["input"]].flat().map(String);
  const embeddingOf = (text: string) =>
    Buffer.from(Float32Array.from({ length: 512 }, (_, i) => Math.sin(text.length + i * n)).buffer);
  const data = texts.map((text, index) => ({
    object: "embedding",
    index,
    embedding: embeddingOf(text).toString("base64"),
  }));
  res.writeHead(200, { "content-type": "application/json" });
  res.end(
    JSON.stringify({ object: "list", data, model: request.model, usage: { prompt_tokens: 20, total_tokens: 20 } }),
  );
}

/** Anthropic's Messages, as a stream. */
function converse(res: ServerResponse, request: ChatRequest, text: string, n: number): void {
  res.writeHead(200, { "content-type": "text/event-stream" });
  const send = (value: { type: string; [key: string]: unknown }) =>
    res.write(`event: ${value.type}\ndata: ${JSON.stringify(value)}\n\n`);
  const message = {
    id: `msg_${n}`,
    type: "message",
    role: "assistant",
    model: request.model,
    content: [],
    stop_reason: null,
  };
  send({ type: "message_start", message: { ...message, usage: { input_tokens: 20, output_tokens: 1 } } });
  send({ type: "content_block_start", index: 0, content_block: { type: "text", text: "" } });
  for (const word of text.split(/(?<= )/))
    send({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text: word } });
  send({ type: "content_block_stop", index: 0 });
  send({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 10 } });
  send({ type: "message_stop" });
  res.end();
}

export async function startScriptedModel(decide: (request: ChatRequest) => ChatAnswer): Promise<ScriptedModel> {
  const requests: ChatRequest[] = [];
  const headers: Record<string, unknown>[] = [];
  const server = createServer((req, res) => {
    let text = "";
    req.on("data", (chunk: Buffer) => (text += chunk.toString()));
    const answered = async () => {
      const request = JSON.parse(text) as ChatRequest;
      request.messages ??= [{ role: "user", content: request["input"] }];
      requests.push(request);
      headers.push({ ...req.headers });
      const answer = decide(request);
      const n = requests.length;
      if (answer.delay_ms) await new Promise((resolve) => setTimeout(resolve, answer.delay_ms));
      if (answer.status !== undefined) {
        res.writeHead(answer.status, { "content-type": "application/json" });
        const message = answer.content ?? "refused";
        return void res.end(JSON.stringify({ error: { message, type: "server_error", code: null } }));
      }
      if (answer.body !== undefined)
        return void res.writeHead(200, { "content-type": "application/json" }).end(answer.body);
      if (req.url?.endsWith("/responses")) return respond(res, request, answer.content ?? "", n);
      if (req.url?.endsWith("/embeddings")) return embed(res, request, n);
      if (req.url?.endsWith("/count_tokens"))
        return void res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ input_tokens: n }));
      if (req.url?.endsWith("/messages")) return converse(res, request, answer.content ?? "", n);
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
      for (const word of wordsOf(answer)) {
        if (word !== "") chunk({ content: word });
        if (answer.breaks_at === word) return void setTimeout(() => res.destroy(), 20);
        if (answer.pause_ms) await new Promise((resolve) => setTimeout(resolve, answer.pause_ms));
      }
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
    };
    req.on("end", () => void answered());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    headers,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
