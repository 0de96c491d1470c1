// One request of an MCP client over HTTP and its answer, as the web standards that the protocol's library speaks have them.
import { Readable } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { parseJson } from "../kit/json.ts";

const PARSE_ERROR = -32_700;
const INVALID_REQUEST = -32_600;

function refuse(reply: FastifyReply, status: number, code: number, message: string): void {
  void reply
    .code(status)
    .type("application/json")
    .send(JSON.stringify({ jsonrpc: "2.0", id: null, error: { code, message } }));
}

/** One POST is one answer, or a stream for who listens for changes. */
export async function answerPost(
  req: FastifyRequest,
  reply: FastifyReply,
  answer: (request: Request, body: unknown, gone: AbortSignal) => Promise<Response>,
): Promise<void> {
  const gone = new AbortController();
  reply.raw.once("close", () => {
    if (!reply.raw.writableEnded) gone.abort();
  });
  let body: unknown;
  try {
    body = parseJson(Buffer.isBuffer(req.body) ? req.body.toString("utf8") : "", LIMITS.json_depth_max);
  } catch (error) {
    return refuse(reply, 400, PARSE_ERROR, `The body is no acceptable JSON: ${messageOf(error)}`);
  }
  const headers = new Headers();
  for (const [name, value] of Object.entries(req.headers)) if (typeof value === "string") headers.set(name, value);
  const init = { method: "POST", headers, signal: gone.signal };
  const request = new Request(`http://${req.headers.host ?? "localhost"}${req.url}`, init);
  const response = await answer(request, body, gone.signal);
  reply.code(response.status).headers(Object.fromEntries(response.headers));
  const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") === true;
  if (isStream && response.body) {
    // When the server ends it, its connection must not be waited for.
    reply.header("connection", "close");
    return void (await reply.send(Readable.fromWeb(response.body)));
  }
  const text = await response.text();
  await reply.send(text === "" ? undefined : text);
}

/** There are no sessions, so GET and DELETE are refused as the protocol has it. */
export function refuseOthers(req: FastifyRequest, reply: FastifyReply): void {
  reply.header("allow", "POST");
  refuse(reply, 405, INVALID_REQUEST, `${req.method} is not served here: this server keeps no sessions; use POST`);
}
