// The MCP gateway: to any MCP client one server with the tools of the registry, from whichever servers they come. Every call
// goes through the door that governs it; a denied call is a result with isError, so that the model can react to it.
// Stateless in every revision that it speaks: each request stands for itself, so any node answers it, and a restart ends no
// session. Model Context Protocol, streamable HTTP: https://modelcontextprotocol.io/specification/2026-07-28/basic/transports
import type { CallToolResult, McpHttpHandler, McpServer, Tool } from "@modelcontextprotocol/server";
import { isAppError } from "../contract/errors.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_STDIO_HEADER, MCP_WAIT_META } from "../contract/proxy.ts";
import type { ToolAnswer, ToolCaller, ToolDoor } from "../contract/tools.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";

/** JSON-RPC: the server could not answer; what it is about stands in the data. */
const REFUSED = -32_000;
const CONTENT_TYPES: readonly unknown[] = ["text", "image", "audio", "resource", "resource_link"];

/** Loaded with the first request: it takes longer than all else that is read at the start. */
const sdk = () => import("@modelcontextprotocol/server");

/** Who asks, and for what; goes through the protocol's library with the request. */
interface Asked {
  readonly of: ToolCaller;
  readonly tools: ToolDoor;
  readonly gone: AbortSignal;
  /** Its client speaks over stdio, where there are no headers. */
  readonly isStdio: boolean;
}

export interface McpGatewayOptions {
  readonly tools: ToolDoor;
  readonly version: string;
}

export class McpGateway {
  private readonly options: McpGatewayOptions;
  private modern: Promise<McpHttpHandler> | null = null;

  constructor(options: McpGatewayOptions) {
    this.options = options;
  }

  /** Answers one request; `body` is its JSON. `gone`: the client does not wait any more; `only`: the tools of one server. */
  async handle(
    of: ToolCaller,
    request: Request,
    body: unknown,
    { gone, only }: { gone: AbortSignal; only: string | undefined },
  ): Promise<Response> {
    const { tools } = this.options;
    const isStdio = request.headers.has(MCP_STDIO_HEADER);
    const asked: Asked = { of, gone, isStdio, tools: only === undefined ? tools : ofServer(tools, only) };
    const { isLegacyRequest } = await sdk();
    if (await isLegacyRequest(request, body)) return this.legacy(asked, request, body);
    this.modern ??= this.open();
    const handler = await this.modern;
    const authInfo = { token: "", clientId: "", scopes: [], extra: { asked } };
    return handler.fetch(request, { parsedBody: body, authInfo });
  }

  /** Revisions before 2026-07-28: no session, and JSON instead of a stream of one message. */
  private async legacy(asked: Asked, request: Request, body: unknown): Promise<Response> {
    const { WebStandardStreamableHTTPServerTransport } = await sdk();
    const server = await this.serverFor(asked, {});
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
    const { createMcpHandler } = await sdk();
    return createMcpHandler(
      ({ authInfo }) => this.serverFor(authInfo?.extra?.["asked"] as Asked, { listChanged: true }),
      { legacy: "reject", maxSubscriptions: LIMITS.mcp_listeners_max },
    );
  }

  private async serverFor(
    { of, tools, gone, isStdio }: Asked,
    capability: { listChanged?: boolean },
  ): Promise<McpServer> {
    const { McpServer, ProtocolError } = await sdk();
    const about = { name: "quarterdeck", version: this.options.version };
    const named = (name: string) => tools.list(of).find((one) => one.name === name);
    const offered = new McpServer(about, { capabilities: { tools: capability } });
    // Headers that repeat arguments (`x-mcp-header`) are checked by it before anything is called.
    offered.toolInputSchemaJson = (name) => (isStdio ? undefined : named(name)?.input_schema);
    const { server } = offered;
    server.setRequestHandler("tools/list", () => ({ tools: tools.list(of).map(described) }));
    server.setRequestHandler("tools/call", async ({ params }): Promise<CallToolResult> => {
      const args = (params.arguments ?? {}) as JsonObject;
      const call = { tool: params.name, args, wait_ms: waitOf(params._meta?.[MCP_WAIT_META]), gone };
      try {
        const answer = await tools.call(of, call);
        const tool = named(params.name);
        return server.projectCallToolResult(resultOf(answer, tool), tool?.output_schema ?? undefined);
      } catch (error) {
        if (!isAppError(error)) throw error;
        throw new ProtocolError(REFUSED, error.message, { code: error.code, ...error.details });
      }
    });
    return offered;
  }
}

/** The tools of one server alone, by the names that it gives them itself. */
function ofServer(tools: ToolDoor, server: string): ToolDoor {
  const prefix = `${server}.`;
  return {
    list: (of) =>
      tools
        .list(of)
        .filter((tool) => tool.name.startsWith(prefix))
        .map((tool) => ({ ...tool, name: tool.name.slice(prefix.length) })),
    call: (of, call) => tools.call(of, { ...call, tool: prefix + call.tool }),
  };
}

function waitOf(asked: unknown): number {
  if (typeof asked !== "number" || !Number.isSafeInteger(asked) || asked < 0) return LIMITS.mcp_wait_ms;
  return Math.min(asked, LIMITS.mcp_wait_ms_max);
}

function described(tool: ToolDefinition): Tool {
  const { name, description, input_schema, output_schema, effect_class, idempotent } = tool;
  const readOnly = effect_class === "read";
  return {
    name,
    description,
    // A schema without a type takes what an object may be; the protocol wants it said.
    inputSchema: { ...input_schema, type: "object" },
    ...(output_schema?.["type"] === "object" ? { outputSchema: output_schema } : {}),
    annotations: {
      readOnlyHint: readOnly,
      destructiveHint: effect_class === "irreversible",
      idempotentHint: readOnly || idempotent,
    },
  };
}

/** Text as text, content blocks of an MCP server as they were, structured content where the tool promised some. */
function resultOf({ is_error, result }: ToolAnswer, tool: ToolDefinition | undefined): CallToolResult {
  const blocks = Array.isArray(result) && result.length > 0 && result.every(isBlock);
  const text = typeof result === "string" ? result : JSON.stringify(result);
  const content = (blocks ? result : [{ type: "text", text }]) as CallToolResult["content"];
  if (is_error) return { content, isError: true };
  const structured = tool?.output_schema?.["type"] === "object" ? objectOf(result) : null;
  return { content, ...(structured ? { structuredContent: structured } : {}) };
}

function isBlock(value: Json): boolean {
  return isObject(value) && CONTENT_TYPES.includes(value["type"]);
}

/** A large result comes back as the text that it was stored as. */
function objectOf(result: Json): JsonObject | null {
  if (isObject(result)) return result;
  if (typeof result !== "string" || !result.startsWith("{")) return null;
  try {
    const value = parseJson(result, LIMITS.json_depth_max);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}
