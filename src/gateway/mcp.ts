// Where MCP clients send their requests: /mcp, /mcp/runs/RUN for one run, and below either servers/NAME for the tools of one
// server under their own names. One POST is one answer, or a stream for who listens for changes; there are no sessions, so GET
// and DELETE are refused as the protocol has it.
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { AGENT_HEADER, SESSION_HEADER } from "../contract/proxy.ts";
import { MCP_PREFIX } from "../contract/paths.ts";
import type { ToolCaller } from "../contract/tools.ts";
import { parseJson } from "../kit/json.ts";
import { McpGateway } from "../mcp/gateway.ts";
import { authorise, checkOrigin } from "./auth.ts";
import type { Authenticator } from "./auth.ts";
import { textOf } from "./proxy.ts";
import type { Services } from "./services.ts";

const PARSE_ERROR = -32_700;
const INVALID_REQUEST = -32_600;

function refuse(reply: FastifyReply, status: number, code: number, message: string): void {
  void reply
    .code(status)
    .type("application/json")
    .send(JSON.stringify({ jsonrpc: "2.0", id: null, error: { code, message } }));
}

export function mountMcp(
  app: FastifyInstance,
  services: Services,
  given: { authenticator: Authenticator; host_names: readonly string[] },
): void {
  const gateway = new McpGateway(services);
  const stop = services.registry.subscribe(() => void gateway.changed());
  app.addHook("preClose", () => {
    stop();
    return gateway.close();
  });
  const callerOf = (req: FastifyRequest): ToolCaller => {
    checkOrigin(req.headers, given.host_names);
    const principal = given.authenticator.authenticate({
      authorization: req.headers.authorization,
      principal: textOf(req.headers["quarterdeck-principal"]),
    });
    authorise(principal, "proxy:call");
    const { run } = req.params as { run?: string };
    const agent = textOf(req.headers[AGENT_HEADER]);
    const session = textOf(req.headers[SESSION_HEADER]);
    return {
      caller: { tenant_id: services.tenant_id, project: services.project, principal: principal.id },
      ...(run === undefined ? {} : { run_id: run }),
      ...(agent === undefined ? {} : { agent }),
      ...(session === undefined ? {} : { session }),
    };
  };
  const post = async (req: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const of = callerOf(req);
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
    const { server: only } = req.params as { server?: string };
    const response = await gateway.handle(of, request, body, { gone: gone.signal, only });
    reply.code(response.status).headers(Object.fromEntries(response.headers));
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") === true;
    if (isStream && response.body) {
      // When the server ends it, its connection must not be waited for.
      reply.header("connection", "close");
      return void (await reply.send(Readable.fromWeb(response.body)));
    }
    const text = await response.text();
    await reply.send(text === "" ? undefined : text);
  };
  const other = async (req: FastifyRequest, reply: FastifyReply): Promise<void> => {
    callerOf(req);
    reply.header("allow", "POST");
    refuse(reply, 405, INVALID_REQUEST, `${req.method} is not served here: this server keeps no sessions; use POST`);
  };
  const bases = [MCP_PREFIX, `${MCP_PREFIX}/runs/:run`];
  for (const url of bases.flatMap((base) => [base, `${base}/servers/:server`])) {
    app.post(url, { bodyLimit: LIMITS.proxy_bytes_max }, post);
    app.get(url, other);
    app.delete(url, other);
  }
}
