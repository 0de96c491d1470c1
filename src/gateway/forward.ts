// A control node that does not own a run passes requests on to the one that does. While the run changes hands a request
// waits; it is sent again only when it is certain that it had no effect.
import { pipeline } from "node:stream";
import { request } from "undici";
import type { Dispatcher } from "undici";
import type { FastifyReply, FastifyRequest } from "fastify";
import { errnoOf } from "../kit/errno.ts";
import { isObject } from "../kit/json.ts";
import type { Clock } from "../kit/clock.ts";
import { AppError, isAppError, messageOf, problemError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Place } from "./placement.ts";

/** Who answers a request: this node, another one, or nobody just now (null). */
export interface Owner {
  readonly isSelf: boolean;
  readonly url: string | null;
}

export const FORWARDED = "quarterdeck-forwarded";
/** Set where several nodes do a part each of what one of them was asked for: which groups, where that matters. */
export const PART = "quarterdeck-part";
/** To a node that has passed a request on: its client is to have no answer, its connection ends. */
export const NO_ANSWER_HEADER = "quarterdeck-no-answer";
const PAUSE_MS = 50;
const WATCH_MS = 250;
/** Refused by the owner before anything was done. */
const UNDONE = new Set(["SHUTTING_DOWN", "FENCED"]);
const UNSENT = new Set(["ECONNREFUSED", "UND_ERR_CONNECT_TIMEOUT", "EHOSTUNREACH", "ENOTFOUND"]);
/** Belong to one connection (RFC 9110, 7.6.1), or are set anew. */
const HOP = new Set([
  "host",
  "connection",
  "keep-alive",
  "transfer-encoding",
  "content-length",
  "upgrade",
  "expect",
  "te",
  "trailer",
]);

type Answer = Dispatcher.ResponseData;
type Answered = Record<string, string | string[]>;

function headersOf(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): Record<string, string | string[]> {
  const out: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) if (value !== undefined && !HOP.has(name)) out[name] = value;
  return out;
}

async function bodyOf(req: FastifyRequest): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of req.raw) {
    const bytes = chunk as Buffer;
    size += bytes.length;
    if (size > LIMITS.artifact_bytes_max)
      throw new AppError("PAYLOAD_TOO_LARGE", `The body is larger than ${LIMITS.artifact_bytes_max} bytes`);
    chunks.push(bytes);
  }
  return Buffer.concat(chunks);
}

/** The problem code of a refusal, and its bytes. */
async function refusalOf(answer: Answer): Promise<{ code: string; bytes: Buffer }> {
  const bytes = Buffer.from(await answer.body.arrayBuffer());
  try {
    const problem: unknown = JSON.parse(bytes.toString("utf8"));
    return { code: isObject(problem) ? String(problem["code"]) : "", bytes };
  } catch {
    return { code: "", bytes };
  }
}

export class Forwarder {
  private readonly owner: (place: Place) => Owner;
  private readonly clock: Clock;

  constructor(owner: (place: Place) => Owner, clock: Clock) {
    this.owner = owner;
    this.clock = clock;
  }

  /** Resolves with the body when this node is to answer itself; null when the request was answered by the owner. */
  async forward(req: FastifyRequest, reply: FastifyReply, place: Place): Promise<Buffer | null> {
    if (req.headers[FORWARDED] !== undefined) throw new AppError("FENCED", "This node does not own the run any more");
    const body = await bodyOf(req);
    return (await this.pass(req, reply, body, place)) ? null : body;
  }

  /** A request that this node began to answer, and that was refused because the runs have just left it. */
  async again(req: FastifyRequest, reply: FastifyReply, refusal: AppError, place: Place): Promise<void> {
    const body = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
    if (req.headers[FORWARDED] !== undefined || !UNDONE.has(refusal.code)) throw refusal;
    if (!(await this.pass(req, reply, body, place))) throw refusal;
  }

  /** True when the owner has answered, false when this node is the owner. */
  private async pass(req: FastifyRequest, reply: FastifyReply, body: Buffer, place: Place): Promise<boolean> {
    const end = this.clock.monotonic_ms() + LIMITS.forward_wait_ms;
    for (;;) {
      const { isSelf, url } = this.owner(place);
      if (isSelf) return false;
      if (url !== null && (await this.sent(url, place, req, reply, body))) return true;
      if (this.clock.monotonic_ms() > end) throw new AppError("FENCED", "No node owns the run just now");
      await this.clock.sleep(PAUSE_MS);
    }
  }

  /** Ends a request to a node that is not the owner any more: frozen, it would never answer. Returns how to stop. */
  private watch(url: string, place: Place, request: AbortController): () => void {
    let timer = this.clock.timer(WATCH_MS, look);
    const owner = () => this.owner(place);
    const { clock } = this;
    function look() {
      if (owner().url === url) timer = clock.timer(WATCH_MS, look);
      else request.abort(new Error("another node has taken the run over"));
    }
    return () => timer.cancel();
  }

  /** False when it certainly had no effect and may be sent again. */
  private async sent(
    url: string,
    place: Place,
    req: FastifyRequest,
    reply: FastifyReply,
    body: Buffer,
  ): Promise<boolean> {
    const gone = new AbortController();
    const hungUp = () => gone.abort();
    reply.raw.once("close", hungUp);
    const stopWatching = this.watch(url, place, gone);
    let answer: Answer;
    try {
      answer = await request(`${url}${req.raw.url ?? "/"}`, {
        method: req.method,
        headers: { ...headersOf(req.headers), [FORWARDED]: "1" },
        ...(body.length > 0 ? { body } : {}),
        headersTimeout: 0,
        bodyTimeout: 0,
        signal: gone.signal,
      });
    } catch (error) {
      if (reply.raw.closed) return true;
      const code = errnoOf(error);
      const repeatable = req.method === "GET" || req.headers["idempotency-key"] !== undefined;
      if (UNSENT.has(code) || repeatable) return false;
      throw new AppError(
        "FENCED",
        `The owner of the run went away before it answered, so nobody knows whether it did this: ${messageOf(error)}. Send an Idempotency-Key to have it tried again`,
      );
    } finally {
      stopWatching();
      reply.raw.off("close", hungUp);
    }
    if (answer.statusCode === 503) {
      const { code, bytes } = await refusalOf(answer);
      if (UNDONE.has(code)) return false;
      reply.hijack();
      reply.raw.writeHead(answer.statusCode, headersOf(answer.headers)).end(bytes);
      return true;
    }
    reply.hijack();
    if (answer.headers[NO_ANSWER_HEADER] !== undefined) {
      await answer.body.dump();
      reply.raw.destroy();
      return true;
    }
    reply.raw.writeHead(answer.statusCode, headersOf(answer.headers));
    // Ends both: the owner has to learn that nobody reads any more, and the client that there is no more to come.
    pipeline(answer.body, reply.raw, () => undefined);
    return true;
  }

  /** The same request for another node, which does its part of it. Throws its refusal, or FENCED when it does not answer. */
  async ask(
    url: string,
    req: FastifyRequest,
    asked: { path: string; body: Buffer; part: string; wait_ms?: number },
  ): Promise<{ headers: Answered; body: Buffer }> {
    const { path, body, part, wait_ms = LIMITS.forward_wait_ms } = asked;
    try {
      const answer = await request(`${url}${path}`, {
        method: req.method,
        headers: { ...headersOf(req.headers), [FORWARDED]: "1", [PART]: part },
        ...(body.length > 0 ? { body } : {}),
        headersTimeout: wait_ms,
        bodyTimeout: wait_ms,
      });
      const bytes = Buffer.from(await answer.body.arrayBuffer());
      if (answer.statusCode >= 300) throw problemError(bytes.toString("utf8"), answer.statusCode);
      return { headers: headersOf(answer.headers), body: bytes };
    } catch (cause) {
      if (isAppError(cause)) throw cause;
      throw new AppError("FENCED", `The node at ${url} does not answer: ${messageOf(cause)}`, { cause });
    }
  }
}
