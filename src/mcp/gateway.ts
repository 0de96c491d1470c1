// The MCP gateway: to any MCP client one server with the tools of the registry, from whichever servers they come. Every call
// goes through the door that governs it; a denied call is a result with isError, so that the model can react to it.
// Stateless: each request stands for itself, so any node answers it, and a restart ends no session.
// Model Context Protocol, streamable HTTP: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports
import type { Server } from "@modelcontextprotocol/sdk/server/index.js";
import type { CallToolResult, Tool } from "@modelcontextprotocol/sdk/types.js";
import { isAppError } from "../contract/errors.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_WAIT_META } from "../contract/proxy.ts";
import type { ToolAnswer, ToolCaller, ToolDoor } from "../contract/tools.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";

/** JSON-RPC: the server could not answer; what it is about stands in the data. */
const REFUSED = -32_000;
const CONTENT_TYPES: readonly unknown[] = ["text", "image", "audio", "resource", "resource_link"];

/** Loaded with the first request: it takes longer than all else that is read at the start. */
async function sdk() {
  const [server, transport, types] = await Promise.all([
    import("@modelcontextprotocol/sdk/server/index.js"),
    import("@modelcontextprotocol/sdk/server/webStandardStreamableHttp.js"),
    import("@modelcontextprotocol/sdk/types.js"),
  ]);
  return { ...server, ...transport, ...types };
}

export class McpGateway {
  private readonly tools: ToolDoor;
  private readonly version: string;

  constructor(options: { tools: ToolDoor; version: string }) {
    this.tools = options.tools;
    this.version = options.version;
  }

  /** Answers one request; `body` is its JSON. `gone`: the client does not wait any more; `only`: the tools of one server. */
  async handle(
    of: ToolCaller,
    request: Request,
    body: unknown,
    { gone, only }: { gone: AbortSignal; only: string | undefined },
  ): Promise<Response> {
    const { WebStandardStreamableHTTPServerTransport } = await sdk();
    const tools = only === undefined ? this.tools : ofServer(this.tools, only);
    const server = await this.serverFor(tools, of, gone);
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

  private async serverFor(tools: ToolDoor, of: ToolCaller, gone: AbortSignal): Promise<Server> {
    const { Server, ListToolsRequestSchema, CallToolRequestSchema, McpError } = await sdk();
    const server = new Server({ name: "quarterdeck", version: this.version }, { capabilities: { tools: {} } });
    server.setRequestHandler(ListToolsRequestSchema, () => ({ tools: tools.list(of).map(described) }));
    server.setRequestHandler(CallToolRequestSchema, async ({ params }): Promise<CallToolResult> => {
      const args = (params.arguments ?? {}) as JsonObject;
      const call = { tool: params.name, args, wait_ms: waitOf(params._meta?.[MCP_WAIT_META]), gone };
      try {
        const answer = await tools.call(of, call);
        const tool = tools.list(of).find((one) => one.name === params.name);
        return resultOf(answer, tool);
      } catch (error) {
        if (!isAppError(error)) throw error;
        throw new McpError(REFUSED, error.message, { code: error.code, ...error.details });
      }
    });
    return server;
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
    ...(output_schema?.["type"] === "object" ? { outputSchema: output_schema as Tool["outputSchema"] } : {}),
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
