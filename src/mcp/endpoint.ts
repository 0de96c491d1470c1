// One MCP endpoint: requests of every revision, each standing for itself, so any node answers it and a restart ends no session.
// What is served is made anew for each request. Model Context Protocol, streamable HTTP:
// https://modelcontextprotocol.io/specification/2026-07-28/basic/transports
import type { McpHttpHandler, McpServer } from "@modelcontextprotocol/server";
import { LIMITS } from "../contract/limits.ts";

/** Loaded with the first request: it takes longer than all else that is read at the start. */
export const mcpLibrary = () => import("@modelcontextprotocol/server");

/** Makes what one request is answered by; `listed`: what may be said of its lists. */
export type Serve<Asked> = (asked: Asked, listed: { listChanged?: boolean }) => Promise<McpServer>;

export class McpEndpoint<Asked> {
  private readonly serve: Serve<Asked>;
  private modern: Promise<McpHttpHandler> | null = null;

  constructor(serve: Serve<Asked>) {
    this.serve = serve;
  }

  /** Answers one request; `body` is its JSON, `asked` goes through the protocol's library with it. */
  async handle(asked: Asked, request: Request, body: unknown): Promise<Response> {
    const { isLegacyRequest } = await mcpLibrary();
    if (await isLegacyRequest(request, body)) return this.legacy(asked, request, body);
    this.modern ??= this.open();
    const handler = await this.modern;
    const authInfo = { token: "", clientId: "", scopes: [], extra: { asked } };
    return handler.fetch(request, { parsedBody: body, authInfo });
  }

  /** Revisions before 2026-07-28: no session, and JSON instead of a stream of one message. */
  private async legacy(asked: Asked, request: Request, body: unknown): Promise<Response> {
    const { WebStandardStreamableHTTPServerTransport } = await mcpLibrary();
    const server = await this.serve(asked, {});
    const transport = new WebStandardStreamableHTTPServerTransport({ enableJsonResponse: true });
    await server.connect(transport);
    try {
      const response = await transport.handleRequest(request, { parsedBody: body });
      const text = await response.text();
      return new Response(text === "" ? null : text, { status: response.status, headers: response.headers });
    } finally {
      await server.close();
    }
  }

  /** Lets those know who listen, that the tools may be others now. */
  async changed(): Promise<void> {
    (await this.modern)?.notify.toolsChanged();
  }

  /** Ends the streams of those who listen. */
  async close(): Promise<void> {
    await (await this.modern)?.close();
  }

  private async open(): Promise<McpHttpHandler> {
    const { createMcpHandler } = await mcpLibrary();
    return createMcpHandler(({ authInfo }) => this.serve(authInfo?.extra?.["asked"] as Asked, { listChanged: true }), {
      legacy: "reject",
      maxSubscriptions: LIMITS.mcp_listeners_max,
    });
  }
}
