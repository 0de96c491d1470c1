// MCP client: one session per server, over stdio or streamable HTTP. Definitions are pinned by digest: before a call the
// server's definition, at most half a minute old, must be the one that was pinned (a changed one needs approval). A server
// that ended is started again at the next call, with growing pauses. It speaks the revision 2026-07-28 and those before it.
// stdio servers get no environment of ours but PATH and HOME and what the manifest names; commands run without a shell.
import type {
  CacheableRequestOptions,
  Client,
  Tool,
  Transport,
  VersionNegotiationMode,
} from "@modelcontextprotocol/client";
import type { Clock } from "../kit/clock.ts";
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";
import { scrub, scrubText } from "../kit/scrub.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_METHODS, MCP_OFFERS } from "../contract/mcp-methods.ts";
import type { Log, Net, Secrets } from "../contract/ports.ts";
import { McpCallError } from "../contract/tools.ts";
import type {
  Discovered,
  DiscoveredTool,
  McpCall,
  McpQuestion,
  McpResult,
  McpServer,
  McpTools,
} from "../contract/tools.ts";

interface Session {
  readonly client: Client;
  /** Secrets that went to this server: kept out of what comes back. */
  readonly used: readonly string[];
  tools: ReadonlyMap<string, { readonly found: DiscoveredTool; readonly tool: Tool }>;
  /** When they were asked for; -Infinity once the server said that they have changed. */
  listed_at_ms: number;
  listing: Promise<void> | null;
}

/** A session that is not in use yet: its end is nobody's business until `opened` was called. */
interface Connected {
  readonly session: Session;
  readonly opened: () => void;
}

interface Slot {
  session: Promise<Session> | null;
  failures: number;
  retry_at_ms: number;
}

const CONNECT_TIMEOUT_MS = 20_000;
/** A server that speaks of the current revision alone answers the handshake of those before with an error. */
const MODERN: VersionNegotiationMode = { pin: "2026-07-28" };
const PAGES_MAX = 50;
/** A server may change what it offers without a word: its definitions are asked for again after so long. */
const DEFINITIONS_FRESH_MS = 30_000;

export interface McpClientsOptions {
  readonly net: Pick<Net, "fetch">;
  readonly secrets: Secrets;
  readonly clock: Clock;
  readonly log: Log;
  readonly private_origins: readonly string[];
  readonly version: string;
}

export class McpClients implements McpTools {
  private readonly slots = new Map<string, Slot>();
  private readonly options: McpClientsOptions;

  constructor(options: McpClientsOptions) {
    this.options = options;
  }

  async discover(server: McpServer): Promise<Discovered> {
    const session = await this.session(server);
    await this.list(session);
    const capabilities = session.client.getServerCapabilities();
    return {
      tools: [...session.tools.values()].map(({ found }) => found),
      offers: MCP_OFFERS.filter((offer) => capabilities?.[offer] !== undefined),
    };
  }

  async ask({ server, method, params, timeout_ms, signal }: McpQuestion): Promise<McpResult> {
    const session = await this.session(server).catch(unreachable);
    const offer = MCP_METHODS.find((one) => one.method === method)?.offer ?? "resources";
    if (session.client.getServerCapabilities()?.[offer] === undefined)
      throw new McpCallError("mcp_refused", `The server has no ${offer}`, { sent: false });
    try {
      const options = { timeout: timeout_ms, signal, cacheMode: "bypass" as const };
      return { is_error: false, result: scrub(await answerTo(session.client, method, params, options), session.used) };
    } catch (cause) {
      throw await callError(cause, session.used);
    }
  }

  async call(call: McpCall): Promise<McpResult> {
    const session = await this.upToDate(call.server).catch(unreachable);
    const known = session.tools.get(call.tool);
    if (!known) throw new McpCallError("mcp_unknown_tool", `The server has no tool ${call.tool}`, { sent: false });
    if (known.found.digest !== call.digest) {
      throw new McpCallError(
        "definition_changed",
        `The definition of ${call.tool} differs from the one that was pinned; a person has to review and approve it (quarterdeck tools review)`,
        { sent: false },
      );
    }
    try {
      const { outputSchema: _promised, ...toolDefinition } = known.tool;
      const result = await session.client.callTool(
        { name: call.tool, arguments: call.args, _meta: { "quarterdeck/idempotency-key": call.idempotency_key } },
        {
          timeout: call.timeout_ms,
          signal: call.signal,
          resetTimeoutOnProgress: false,
          onprogress: (said) => call.onProgress?.(scrubText(noteOf(said), session.used)),
          // Without what it promises of its results: whoever looks at those knows that the call was made.
          toolDefinition,
        },
      );
      const { is_error, result: value } = resultOf(result);
      return { is_error, result: scrub(value, session.used) };
    } catch (cause) {
      throw await callError(cause, session.used);
    }
  }

  async close(): Promise<void> {
    const slots = [...this.slots.values()];
    this.slots.clear();
    await Promise.all(
      slots.map(async (slot) => (await slot.session?.catch(() => null))?.client.close().catch(() => undefined)),
    );
  }

  private async session(server: McpServer): Promise<Session> {
    const key = canonicalJson(server);
    let slot = this.slots.get(key);
    if (!slot) this.slots.set(key, (slot = { session: null, failures: 0, retry_at_ms: 0 }));
    if (slot.session) return slot.session;
    const now = this.options.clock.monotonic_ms();
    if (now < slot.retry_at_ms)
      throw new AppError("DEPENDENCY_UNAVAILABLE", "The MCP server failed just now; it will be tried again");
    const current = slot;
    slot.session = this.connect(server, () => (current.session = null));
    try {
      const session = await slot.session;
      slot.failures = 0;
      return session;
    } catch (error) {
      current.session = null;
      current.failures += 1;
      current.retry_at_ms = now + Math.min(30_000, 250 * 2 ** current.failures);
      throw error;
    }
  }

  private async connect(server: McpServer, onClose: () => void): Promise<Session> {
    const { session, opened } = await this.spoken(server, onClose);
    try {
      await this.list(session);
      // In the same breath as the last answer: one that ends from here on is not used any more.
      opened();
      return session;
    } catch (error) {
      await session.client.close();
      throw error;
    }
  }

  /** A process is not started twice only to ask it what it speaks: most speak of what was before, too. */
  private async spoken(server: McpServer, onClose: () => void): Promise<Connected> {
    if (server.transport === "http") return this.spokenAs("auto", server, onClose);
    const { ProtocolError } = await import("@modelcontextprotocol/client");
    return this.spokenAs("legacy", server, onClose).catch((error: unknown) => {
      if (error instanceof ProtocolError) return this.spokenAs(MODERN, server, onClose);
      throw error;
    });
  }

  private async spokenAs(mode: VersionNegotiationMode, server: McpServer, onClose: () => void): Promise<Connected> {
    const { Client } = await import("@modelcontextprotocol/client");
    const used: string[] = [];
    const about = { name: "quarterdeck", version: this.options.version };
    const client: Client = new Client(about, {
      versionNegotiation: { mode },
      listMaxPages: PAGES_MAX,
      listChanged: {
        tools: { autoRefresh: false, debounceMs: 0, onChanged: () => void (session.listed_at_ms = -Infinity) },
      },
    });
    const session: Session = { client, tools: new Map(), used, listed_at_ms: -Infinity, listing: null };
    client.onerror = (error) => this.options.log.warn("mcp.error", { error: error.message });
    let isOpen = false;
    client.onclose = () => (isOpen ? onClose() : undefined);
    try {
      await client.connect(await this.transport(server, used), { timeout: CONNECT_TIMEOUT_MS });
    } catch (error) {
      await client.close();
      throw error;
    }
    return { session, opened: () => void (isOpen = true) };
  }

  /** A session whose definitions are not older than they may be. */
  private async upToDate(server: McpServer): Promise<Session> {
    const session = await this.session(server);
    const age_ms = this.options.clock.monotonic_ms() - session.listed_at_ms;
    if (age_ms > DEFINITIONS_FRESH_MS) await this.list(session);
    return session;
  }

  /** Asks a server for its definitions; whoever asks meanwhile waits for the same answer. */
  private async list(session: Session): Promise<void> {
    session.listing ??= this.listed(session)
      .catch((error: unknown) => {
        session.listed_at_ms = -Infinity;
        throw error;
      })
      .finally(() => (session.listing = null));
    await session.listing;
  }

  private async listed(session: Session): Promise<void> {
    // Before it is asked: a change that is told meanwhile counts.
    session.listed_at_ms = this.options.clock.monotonic_ms();
    // Asked for what a server does not have, the library writes to stdout, which is not its own.
    if (session.client.getServerCapabilities()?.tools === undefined) return void (session.tools = new Map());
    const { tools } = await session.client.listTools(undefined, { timeout: CONNECT_TIMEOUT_MS, cacheMode: "bypass" });
    session.tools = new Map(tools.map((tool) => [tool.name, { found: definition(tool), tool }]));
  }

  private async transport(server: McpServer, used: string[]): Promise<Transport> {
    if (server.transport === "stdio") {
      const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
      const [command, ...args] = server.command;
      if (command === undefined) throw new AppError("CONFIG_INVALID", "An MCP command is empty");
      const env: Record<string, string> = {};
      for (const [name, value] of Object.entries(server.env)) env[name] = await this.secretOr(value, used);
      const executable = command === "node" ? process.execPath : command;
      return new StdioClientTransport({
        command: executable,
        args,
        env,
        stderr: "ignore",
        ...(server.cwd === null ? {} : { cwd: server.cwd }),
      });
    }
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(server.headers)) headers[name] = await this.secretOr(value, used);
    const policy = { private_origins: this.options.private_origins, response_bytes_max: LIMITS.tool_result_bytes_max };
    // The SDK's optional properties are declared without `undefined`; ours are exact, hence the cast of the class alone.
    return new StreamableHTTPClientTransport(new URL(server.url), {
      fetch: (url, init) => this.options.net.fetch(String(url), init ?? {}, policy),
      requestInit: { headers },
    });
  }

  /** A value that is `{{env:NAME}}` or `{{file:NAME}}`, possibly after a prefix, is a reference; anything else is itself. */
  private async secretOr(value: string, used: string[]): Promise<string> {
    const match = /^(.*?)\{\{((?:env|file):[^}]+)\}\}$/.exec(value);
    if (!match) return value;
    const secret = await this.options.secrets.resolve(match[2] ?? "");
    used.push(secret);
    return `${match[1]}${secret}`;
  }
}

function unreachable(cause: unknown): never {
  const message = `The MCP server cannot be reached: ${messageOf(cause)}`;
  throw new McpCallError("mcp_unavailable", message, { sent: false, cause });
}

type CompleteParams = Parameters<Client["complete"]>[0];

/** What a server answers about resources or prompts, without what the protocol says about the message itself. */
async function answerTo(
  client: Client,
  method: McpQuestion["method"],
  params: JsonObject,
  options: CacheableRequestOptions,
): Promise<Json> {
  switch (method) {
    case "resources/list":
      return plain({ resources: (await client.listResources(undefined, options)).resources });
    case "resources/templates/list":
      return plain({ resourceTemplates: (await client.listResourceTemplates(undefined, options)).resourceTemplates });
    case "resources/read":
      return plain({ contents: (await client.readResource({ uri: String(params["uri"]) }, options)).contents });
    case "prompts/list":
      return plain({ prompts: (await client.listPrompts(undefined, options)).prompts });
    case "prompts/get": {
      const given = (params["arguments"] ?? {}) as Record<string, string>;
      const { description, messages } = await client.getPrompt(
        { name: String(params["name"]), arguments: given },
        options,
      );
      return plain({ description, messages });
    }
    case "completion/complete":
      return plain({ completion: (await client.complete(params as unknown as CompleteParams, options)).completion });
  }
}

function definition(tool: {
  name: string;
  description?: string | undefined;
  inputSchema: unknown;
  outputSchema?: unknown;
}): DiscoveredTool {
  const parts = {
    name: tool.name,
    description: tool.description ?? "",
    input_schema: plain(tool.inputSchema) as JsonObject,
    output_schema: tool.outputSchema === undefined ? null : (plain(tool.outputSchema) as JsonObject),
  };
  return { ...parts, digest: digestOf(canonicalJson(parts)) };
}

function plain(value: unknown): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}

/** Structured content where there is some; else text as text; else the content blocks as they are. */
function resultOf(raw: unknown): McpResult {
  const value = plain(raw);
  const is_error = isObject(value) && value["isError"] === true;
  if (!isObject(value)) return { is_error, result: value };
  if (value["structuredContent"] !== undefined) return { is_error, result: value["structuredContent"] };
  const content = value["content"];
  if (Array.isArray(content) && content.every((block) => isObject(block) && block["type"] === "text")) {
    return { is_error, result: content.map((block) => String((block as JsonObject)["text"])).join("\n") };
  }
  return { is_error, result: content ?? null };
}

function noteOf({
  message,
  progress,
  total,
}: {
  message?: string | undefined;
  progress: number;
  total?: number | undefined;
}) {
  const count = total === undefined ? String(progress) : `${progress} of ${total}`;
  return message === undefined ? count : `${message} (${count})`;
}

/**
 * JSON-RPC: the server refused the request before it ran anything (parse, request, method, parameters, a resource that is not
 * there, headers, revision).
 */
const REFUSALS: readonly number[] = [-32_700, -32_600, -32_601, -32_602, -32_002, -32_020, -32_021, -32_022];

async function callError(cause: unknown, used: readonly string[]): Promise<McpCallError> {
  const { ProtocolError, SdkError, SdkErrorCode } = await import("@modelcontextprotocol/client");
  // Only what the server itself said: the library has errors of its own.
  const refused = cause instanceof ProtocolError && REFUSALS.includes(cause.code);
  const isLate = cause instanceof SdkError && cause.code === SdkErrorCode.RequestTimeout;
  const name = isLate ? "timeout" : refused ? "mcp_refused" : "mcp_failed";
  return new McpCallError(name, scrubText(messageOf(cause), used), { sent: !refused, cause });
}
