// What happened, for MCP clients: the routes of the API that only read and that are meant for it, as tools. Nothing here is
// governed or recorded: who may read by the API may read by this, and each call is checked by the route that answers it.
import type { CallToolResult, McpServer, Tool } from "@modelcontextprotocol/server";
import type { TSchema } from "typebox";
import { ROUTES } from "../contract/routes.ts";
import type { Permission, Route } from "../contract/routes.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { McpEndpoint, mcpLibrary } from "./endpoint.ts";

/** Who asks. */
export interface Reader {
  may(permission: Permission): boolean;
  /** Answers a request of the API as if this caller had sent it. */
  ask(request: { method: "GET" | "POST"; path: string; body: Json }): Promise<{ status: number; text: string }>;
}

/** Of lists, unless more is asked for: a model reads all that it gets. */
const PAGE = 50;
const UNKNOWN_TOOL = -32_602;

interface ReadTool {
  readonly name: string;
  readonly route: Route;
  readonly input_schema: JsonObject;
  readonly required: readonly string[];
  /** Whether its list comes in pages. */
  readonly isPaged: boolean;
  /** Arguments that go with the body. */
  readonly inBody: readonly string[];
}

/** An object's schema, which is JSON like any other. */
function objectOf(schema: TSchema | undefined): { properties: JsonObject; required: Json[] } {
  const { properties = {}, required = [] } = (schema ?? {}) as { properties?: JsonObject; required?: Json[] };
  return { properties, required };
}

const READ_TOOLS: readonly ReadTool[] = (Object.values(ROUTES) as Route[]).flatMap((route) => {
  if (route.tool === undefined) return [];
  const [params, query, body] = [objectOf(route.params), objectOf(route.query), objectOf(route.body)];
  const required = [...params.required, ...query.required, ...body.required].map(String);
  const input_schema: JsonObject = {
    type: "object",
    properties: { ...params.properties, ...query.properties, ...body.properties },
    required,
    additionalProperties: false,
  };
  const isPaged = "limit" in query.properties;
  return [{ name: route.tool, route, input_schema, required, isPaged, inBody: Object.keys(body.properties) }];
});

export class McpObserver {
  readonly endpoint: McpEndpoint<Reader>;

  constructor(version: string) {
    this.endpoint = new McpEndpoint((reader, listed) => serverFor(version, reader, listed));
  }
}

async function serverFor(version: string, reader: Reader, listed: { listChanged?: boolean }): Promise<McpServer> {
  const { McpServer, ProtocolError } = await mcpLibrary();
  const offered = new McpServer({ name: "quarterdeck-observe", version }, { capabilities: { tools: listed } });
  const tools = READ_TOOLS.filter(({ route }) => reader.may(route.permission));
  offered.server.setRequestHandler("tools/list", () => ({ tools: tools.map(described) }));
  offered.server.setRequestHandler("tools/call", async ({ params }): Promise<CallToolResult> => {
    const tool = tools.find(({ name }) => name === params.name);
    if (!tool) throw new ProtocolError(UNKNOWN_TOOL, `There is no tool ${params.name} here`, { tool: params.name });
    const missing = tool.required.filter((name) => params.arguments?.[name] === undefined);
    if (missing.length > 0) {
      const text = `VALIDATION_ERROR: ${tool.name} needs ${missing.join(" and ")}, as its schema says.`;
      return { content: [{ type: "text", text }], isError: true };
    }
    const { status, text } = await reader.ask(requestOf(tool, (params.arguments ?? {}) as JsonObject));
    if (status < 400) return { content: [{ type: "text", text }] };
    return { content: [{ type: "text", text: refusalOf(text) }], isError: true };
  });
  return offered;
}

function described({ name, route, input_schema }: ReadTool): Tool {
  return {
    name,
    description: route.summary,
    inputSchema: { ...input_schema, type: "object" },
    annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
  };
}

/** Each argument goes where its route has it; what no route knows goes with the query, and is refused there. */
function requestOf({ route, isPaged, inBody }: ReadTool, args: JsonObject): Parameters<Reader["ask"]>[0] {
  const rest = new Map(Object.entries(args));
  const path = route.path.replaceAll(/:([a-z_]+)/g, (_all, name: string) => {
    const value = textOf(rest.get(name));
    rest.delete(name);
    return encodeURIComponent(value);
  });
  const query = new URLSearchParams(isPaged ? { limit: String(PAGE) } : {});
  const body: Record<string, Json> = {};
  for (const [name, value] of rest)
    if (inBody.includes(name)) body[name] = value;
    else query.set(name, textOf(value));
  return {
    method: route.method,
    path: query.size === 0 ? path : `${path}?${query.toString()}`,
    body: route.body ? body : null,
  };
}

const textOf = (value: Json | undefined): string => (typeof value === "string" ? value : JSON.stringify(value ?? null));

/** What a problem document says, in words for a model. */
function refusalOf(text: string): string {
  try {
    const problem: unknown = JSON.parse(text);
    if (!isObject(problem)) return text;
    const { code, detail, remedy } = problem as JsonObject;
    return [`${String(code)}: ${String(detail)}.`, remedy].filter((part) => typeof part === "string").join(" ");
  } catch {
    return text;
  }
}
