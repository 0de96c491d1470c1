// Where unmodified clients of model providers send their calls: /proxy/openai/v1, /proxy/anthropic, and below
// /proxy/runs/RUN the same for one run. Errors come in the provider's own form, so that its SDK understands them.
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { AGENT_HEADER, SESSION_HEADER, WAIT_HEADER } from "../contract/proxy.ts";
import { PROXY_PREFIX } from "../contract/paths.ts";
import { NO_ANSWER } from "../capture/proxy-answer.ts";
import type { ProxyAnswer } from "../capture/proxy-answer.ts";
import { anthropicMessages } from "../contract/wire/anthropic-messages.ts";
import { anthropicCountTokens } from "../contract/wire/anthropic-count-tokens.ts";
import { openaiEmbeddings } from "../contract/wire/openai-embeddings.ts";
import { openaiChat } from "../contract/wire/openai-chat.ts";
import { openaiResponses } from "../contract/wire/openai-responses.ts";
import type { WireApi } from "../contract/wire/wire.ts";
import { Stop } from "../kit/stop.ts";
import { authorise, checkOrigin } from "./auth.ts";
import type { Authenticator } from "./auth.ts";
import { FORWARDED, NO_ANSWER_HEADER } from "./forward.ts";
import { mountModels } from "./proxy-models.ts";
import { refuseAs } from "./proxy-refusal.ts";
import type { Caller } from "../orchestrator/runs.ts";
import type { Services } from "./services.ts";

const PATHS: readonly [path: string, api: WireApi][] = [
  ["/openai/v1/chat/completions", openaiChat],
  ["/openai/v1/responses", openaiResponses],
  ["/openai/v1/embeddings", openaiEmbeddings],
  // Its SDK puts /v1 before its paths by itself.
  ["/anthropic/v1/messages", anthropicMessages],
  ["/anthropic/v1/messages/count_tokens", anthropicCountTokens],
];

/** A header that is there and says something. */
export function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function waitOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,9}$/.test(text) && Number(text) <= LIMITS.proxy_wait_ms_max) return Number(text);
  const message = `The header ${WAIT_HEADER} is ${JSON.stringify(text)}; it has to be milliseconds, at most ${LIMITS.proxy_wait_ms_max}`;
  throw new AppError("VALIDATION_ERROR", message);
}

/** The client's key is ours, not the provider's: as a bearer token, or as Anthropic's clients send it. */
export function credentialOf(req: FastifyRequest): string | undefined {
  const key = textOf(req.headers["x-api-key"]);
  return req.headers.authorization ?? (key === undefined ? undefined : `Bearer ${key}`);
}

async function send(reply: FastifyReply, answer: ProxyAnswer): Promise<void> {
  if (answer.status === NO_ANSWER) {
    if (reply.request.headers[FORWARDED] === undefined) return void reply.hijack().raw.destroy();
    return void (await reply.header(NO_ANSWER_HEADER, "1").send(""));
  }
  const body = typeof answer.body === "string" ? answer.body : Readable.from(answer.body, { objectMode: false });
  await reply
    .code(answer.status)
    .headers({ ...answer.headers })
    .send(body);
}

export function mountProxy(
  app: FastifyInstance,
  services: Services,
  given: { authenticator: Authenticator; host_names: readonly string[] },
): void {
  const callerOf = (req: FastifyRequest): Caller => {
    checkOrigin(req.headers, given.host_names);
    const principal = given.authenticator.authenticate({
      authorization: credentialOf(req),
      principal: textOf(req.headers["quarterdeck-principal"]),
    });
    authorise(principal, "proxy:call");
    return { tenant_id: services.tenant_id, project: services.project, principal: principal.id };
  };
  const handle = async (api: WireApi, req: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const caller = callerOf(req);
    const gone = new Stop();
    reply.raw.once("close", () => {
      if (!reply.raw.writableEnded) gone.abort();
    });
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(req.headers)) if (typeof value === "string") headers[name] = value;
    const { run } = req.params as { run?: string };
    const agent = textOf(req.headers[AGENT_HEADER]);
    const session = textOf(req.headers[SESSION_HEADER]);
    const wait_ms = waitOf(textOf(req.headers[WAIT_HEADER]));
    const answer = await services.proxy.handle({
      caller,
      api,
      body: Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0),
      headers,
      gone,
      ...(run === undefined ? {} : { run_id: run }),
      ...(agent === undefined ? {} : { agent }),
      ...(session === undefined ? {} : { session }),
      ...(wait_ms === undefined ? {} : { wait_ms }),
    });
    await send(reply, answer);
  };
  for (const [path, api] of PATHS) {
    const handler = async (req: FastifyRequest, reply: FastifyReply) => {
      try {
        await handle(api, req, reply);
      } catch (error) {
        await refuseAs(api, services, reply, error);
      }
    };
    for (const url of [PROXY_PREFIX + path, `${PROXY_PREFIX}/runs/:run${path}`])
      app.post(url, { bodyLimit: LIMITS.proxy_bytes_max }, handler);
  }
  mountModels(app, services, { callerOf, taken: PATHS.map(([path]) => path) });
}
