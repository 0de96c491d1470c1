// Where MCP clients send their requests: /mcp, /mcp/runs/RUN for one run, and below either servers/NAME for the tools of one
// server under their own names; /mcp/observe for who wants to know what happened.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { LIMITS } from "../contract/limits.ts";
import { AGENT_HEADER, SESSION_HEADER } from "../contract/proxy.ts";
import { API_PREFIX, MCP_OBSERVE, MCP_PREFIX } from "../contract/paths.ts";
import type { ToolCaller } from "../contract/tools.ts";
import { McpGateway } from "../mcp/gateway.ts";
import { McpObserver } from "../mcp/observer.ts";
import type { Reader } from "../mcp/observer.ts";
import { authorise, checkOrigin, isAllowed } from "./auth.ts";
import type { Authenticator, Principal } from "./auth.ts";
import { answerPost, refuseOthers } from "./mcp-body.ts";
import { textOf } from "./proxy.ts";
import type { Services } from "./services.ts";

interface Doors {
  readonly authenticator: Authenticator;
  readonly host_names: readonly string[];
}

function principalOf(req: FastifyRequest, { authenticator, host_names }: Doors): Principal {
  checkOrigin(req.headers, host_names);
  return authenticator.authenticate({
    authorization: req.headers.authorization,
    principal: textOf(req.headers["quarterdeck-principal"]),
  });
}

export function mountMcp(app: FastifyInstance, services: Services, doors: Doors): void {
  const gateway = new McpGateway(services);
  const observer = new McpObserver(services.version);
  const stop = services.registry.subscribe(() => void gateway.endpoint.changed());
  app.addHook("preClose", async () => {
    stop();
    await Promise.all([gateway.endpoint.close(), observer.endpoint.close()]);
  });
  const callerOf = (req: FastifyRequest): ToolCaller => {
    const principal = principalOf(req, doors);
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
  const call = (req: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const of = callerOf(req);
    const { server: only } = req.params as { server?: string };
    return answerPost(req, reply, (request, body, gone) => gateway.handle(of, request, body, { gone, only }));
  };
  const observe = (req: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const reader = readerOf(app, req, principalOf(req, doors));
    return answerPost(req, reply, (request, body) => observer.endpoint.handle(reader, request, body));
  };
  const bases = [MCP_PREFIX, `${MCP_PREFIX}/runs/:run`];
  const calls = bases.flatMap((base) => [base, `${base}/servers/:server`]);
  for (const [url, post] of [...calls.map((one) => [one, call] as const), [MCP_OBSERVE, observe] as const]) {
    app.post(url, { bodyLimit: LIMITS.proxy_bytes_max }, post);
    const other = async (req: FastifyRequest, reply: FastifyReply): Promise<void> => {
      principalOf(req, doors);
      refuseOthers(req, reply);
    };
    app.get(url, other);
    app.delete(url, other);
  }
}

/** What identifies a caller, and nothing that belongs to its own request alone. */
const IDENTITY = ["authorization", "host", "origin", "quarterdeck-principal"] as const;

/** Asks the API as the one who sent this request: its routes check, place and answer as ever. */
function readerOf(app: FastifyInstance, req: FastifyRequest, principal: Principal): Reader {
  const headers: Record<string, string> = { "content-type": "application/json" };
  for (const name of IDENTITY) {
    const value = textOf(req.headers[name]);
    if (value !== undefined) headers[name] = value;
  }
  return {
    may: (permission) => isAllowed(principal, permission),
    ask: async ({ method, path, body }) => {
      const payload = body === null ? {} : { payload: JSON.stringify(body) };
      const answer = await app.inject({ method, url: API_PREFIX + path, headers, ...payload });
      return { status: answer.statusCode, text: answer.body };
    },
  };
}
