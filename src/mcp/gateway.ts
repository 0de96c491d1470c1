// The MCP gateway: to any MCP client one server with the tools, resources and prompts of the registry, from whichever servers
// they come. Every call goes through the door that governs it; a denied call of a tool is a result with isError, so that the
// model can react to it; of a resource or prompt it is an error.
import type { CallToolResult, McpServer, ServerCapabilities, Tool } from "@modelcontextprotocol/server";
import { isAppError } from "../contract/errors.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_STDIO_HEADER, MCP_WAIT_META } from "../contract/proxy.ts";
import type { ToolCaller, ToolDoor } from "../contract/tools.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { McpEndpoint, mcpLibrary } from "./endpoint.ts";
import { isQuestion, NotAnswered, NotOffered, Offers, serverOf } from "./offers.ts";
import { resultOf } from "./results.ts";

/** JSON-RPC: the server could not answer; what it is about stands in the data. */
const REFUSED = -32_000;
/** There is no such resource or prompt, or the server that has it will not have these parameters. */
const INVALID_PARAMS = -32_602;

/** Who asks, and for what. */
interface Asked {
  readonly of: ToolCaller;
  readonly tools: ToolDoor;
  /** The one server that this is about; null: all. */
  readonly only: string | null;
  readonly gone: AbortSignal;
  /** Its client speaks over stdio, where there are no headers. */
  readonly isStdio: boolean;
}

export interface McpGatewayOptions {
  readonly tools: ToolDoor;
  readonly version: string;
}

export class McpGateway {
  readonly endpoint = new McpEndpoint<Asked>((asked, listed) => this.serverFor(asked, listed));
  private readonly options: McpGatewayOptions;

  constructor(options: McpGatewayOptions) {
    this.options = options;
  }

  /** Answers one request; `body` is its JSON. `gone`: the client does not wait any more; `only`: the tools of one server. */
  handle(
    of: ToolCaller,
    request: Request,
    body: unknown,
    { gone, only }: { gone: AbortSignal; only: string | undefined },
  ): Promise<Response> {
    const { tools } = this.options;
    const isStdio = request.headers.has(MCP_STDIO_HEADER);
    return this.endpoint.handle({ of, gone, isStdio, tools, only: only ?? null }, request, body);
  }

  private async serverFor(asked: Asked, listed: { listChanged?: boolean }): Promise<McpServer> {
    const { McpServer } = await mcpLibrary();
    const about = { name: "quarterdeck", version: this.options.version };
    const named = await asked.tools.list(asked.of);
    const offers = new Offers({ ...asked, named });
    const capabilities: ServerCapabilities = {
      tools: listed,
      ...(offers.has("resources") ? { resources: {} } : {}),
      ...(offers.has("prompts") ? { prompts: {} } : {}),
      ...(offers.has("completions") ? { completions: {} } : {}),
    };
    const offered = new McpServer(about, { capabilities });
    serveTools(offered, asked, { named, offers });
    if (offers.has("resources")) serveResources(offered, offers);
    if (offers.has("prompts")) servePrompts(offered, offers);
    if (offers.has("completions"))
      offered.server.setRequestHandler("completion/complete", ({ params }) => {
        const { ref } = params;
        return answered({ ref: { ...ref } }, () => offers.complete(params));
      });
    return offered;
  }
}

function serveTools(
  offered: McpServer,
  { of, tools, only, gone, isStdio }: Asked,
  { named: all, offers }: { named: readonly ToolDefinition[]; offers: Offers },
): void {
  const list = (only === null ? all : ofServer(all, only)).filter((tool) => !isQuestion(tool));
  const named = (name: string) => list.find((one) => one.name === name);
  // Headers that repeat arguments (`x-mcp-header`) are checked by it before anything is called.
  offered.toolInputSchemaJson = (name) => (isStdio ? undefined : named(name)?.input_schema);
  const { server } = offered;
  server.setRequestHandler("tools/list", () => ({ tools: list.map(described) }));
  server.setRequestHandler("tools/call", ({ params }): Promise<CallToolResult> => {
    const args = (params.arguments ?? {}) as JsonObject;
    const call = {
      tool: only === null ? params.name : `${only}.${params.name}`,
      args,
      wait_ms: waitOf(params._meta?.[MCP_WAIT_META]),
      gone,
    };
    return answered({ tool: params.name }, async () => {
      const answer = await tools.call(of, call);
      const tool = named(params.name);
      // Of one server alone, and of what is no tool any more, nothing is known by another name.
      const placed = (block: Json) => offers.block(tool && only === null ? serverOf(tool) : null, block);
      return server.projectCallToolResult(resultOf(answer, tool, placed), tool?.output_schema ?? undefined);
    });
  });
}

function serveResources({ server }: McpServer, offers: Offers): void {
  server.setRequestHandler("resources/list", () => answered({}, async () => ({ resources: await offers.resources() })));
  server.setRequestHandler("resources/templates/list", () =>
    answered({}, async () => ({ resourceTemplates: await offers.templates() })),
  );
  server.setRequestHandler("resources/read", ({ params: { uri } }) => answered({ uri }, () => offers.read(uri)));
}

function servePrompts({ server }: McpServer, offers: Offers): void {
  server.setRequestHandler("prompts/list", () => answered({}, async () => ({ prompts: await offers.prompts() })));
  server.setRequestHandler("prompts/get", ({ params: { name, arguments: given } }) =>
    answered({ name }, () => offers.prompt(name, given)),
  );
}

/** What is refused, in the protocol's own form; `about` says what it was. */
async function answered<T>(about: JsonObject, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    const { ProtocolError } = await mcpLibrary();
    if (error instanceof NotOffered) throw new ProtocolError(INVALID_PARAMS, error.message, about);
    if (error instanceof NotAnswered) {
      const isTheirs = error.code === "mcp_refused";
      throw new ProtocolError(isTheirs ? INVALID_PARAMS : REFUSED, error.message, { code: error.code, ...about });
    }
    if (!isAppError(error)) throw error;
    throw new ProtocolError(REFUSED, error.message, { code: error.code, ...error.details });
  }
}

/** The tools of one server alone, by the names that it gives them itself. */
function ofServer(tools: readonly ToolDefinition[], server: string): ToolDefinition[] {
  const prefix = `${server}.`;
  return tools
    .filter((tool) => serverOf(tool) === server)
    .map((tool) => ({ ...tool, name: tool.name.slice(prefix.length) }));
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
