// Resources and prompts of all servers as those of one, with completions. Asking for them is a governed call of the server that has them; here is
// which server that is. Behind /mcp/servers/NAME they have the names that their server gives them; at the one endpoint for all a
// prompt is NAME.PROMPT, and a resource is mcp://NAME/ and its URI behind that: nothing has to be remembered to know whose it is.
import type {
  CompleteRequestParams,
  CompleteResult,
  GetPromptResult,
  Prompt,
  ReadResourceResult,
  Resource,
  ResourceTemplateType,
} from "@modelcontextprotocol/server";
import type { ToolDefinition } from "../contract/jobs.ts";
import { MCP_METHODS } from "../contract/mcp-methods.ts";
import type { McpMethod, McpOffer } from "../contract/mcp-methods.ts";
import { LIMITS } from "../contract/limits.ts";
import type { ToolAnswer, ToolCaller, ToolDoor } from "../contract/tools.ts";
import type { StopSignal } from "../kit/stop.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { objectOf } from "./results.ts";

type Method = McpMethod["method"];

export interface OffersOptions {
  readonly tools: Pick<ToolDoor, "call">;
  /** What this agent may name. */
  readonly named: readonly ToolDefinition[];
  readonly of: ToolCaller;
  /** The one server that this is about; null: all. */
  readonly only: string | null;
  readonly gone: AbortSignal & StopSignal;
}

/** There is no such thing, or none that this agent may ask for. */
export class NotOffered extends Error {
  override readonly name = "NotOffered";
}

/** A call that was denied, waits, or failed; `code` in one word. */
export class NotAnswered extends Error {
  override readonly name = "NotAnswered";
  readonly code: string;

  constructor({ code, result }: ToolAnswer) {
    super(typeof result === "string" ? result : JSON.stringify(result));
    this.code = code ?? "failed";
  }
}

const methodOf = ({ config }: ToolDefinition): McpMethod | undefined =>
  MCP_METHODS.find(({ method }) => config["method"] === method);

/** True for calls that ask a server for resources or prompts: they are no tools of the protocol. */
export function isQuestion(tool: ToolDefinition): boolean {
  return tool.kind === "mcp" && methodOf(tool) !== undefined;
}

/** The MCP server that a tool is of, by its name here; null for tools of no such server. A name may hold dots itself. */
export function serverOf(tool: ToolDefinition): string | null {
  const own = tool.kind === "mcp" ? (methodOf(tool)?.name ?? tool.config["tool"]) : null;
  return typeof own === "string" ? tool.name.slice(0, -own.length - 1) : null;
}

export class Offers {
  private readonly options: OffersOptions;
  /** Servers that this agent may ask, by what it may ask them. */
  private readonly servers = new Map<Method, string[]>();

  constructor(options: OffersOptions) {
    this.options = options;
    for (const tool of options.named) {
      const found = isQuestion(tool) ? methodOf(tool) : undefined;
      const server = serverOf(tool);
      if (!found || server === null || (options.only ?? server) !== server) continue;
      this.servers.set(found.method, [...this.of(found.method), server]);
    }
  }

  /** Whether there is anything of the kind. */
  has(offer: McpOffer): boolean {
    return MCP_METHODS.some((one) => one.offer === offer && this.of(one.method).length > 0);
  }

  async resources(): Promise<Resource[]> {
    const found = await this.listed("resources/list", "resources");
    return found.map(([server, one]) => this.placed(server, one)) as unknown as Resource[];
  }

  async templates(): Promise<ResourceTemplateType[]> {
    const found = await this.listed("resources/templates/list", "resourceTemplates");
    return found.map(([server, one]) => {
      const uriTemplate = this.uriOf(server, String(one["uriTemplate"]));
      return { ...one, uriTemplate };
    }) as unknown as ResourceTemplateType[];
  }

  async prompts(): Promise<Prompt[]> {
    const found = await this.listed("prompts/list", "prompts");
    const { only } = this.options;
    return found.map(([server, one]) => {
      const name = String(one["name"]);
      return { ...one, name: only === null ? `${server}.${name}` : name };
    });
  }

  async read(uri: string): Promise<ReadResourceResult> {
    const [server, own] = this.serverOfUri(uri);
    const { contents } = await this.asked(server, "resources/read", { uri: own });
    const placed = Array.isArray(contents) ? contents.map((one) => this.placed(server, one)) : [];
    return { contents: placed as unknown as ReadResourceResult["contents"] };
  }

  async prompt(name: string, given: Readonly<Record<string, string>> | undefined): Promise<GetPromptResult> {
    const [server, own] = this.serverOfPrompt(name);
    const args = given === undefined ? {} : { arguments: { ...given } };
    const { description, messages } = await this.asked(server, "prompts/get", { name: own, ...args });
    const said = (Array.isArray(messages) ? messages : []).map((message) =>
      isObject(message) ? { ...message, content: this.block(server, message["content"] ?? null) } : message,
    );
    return {
      ...(typeof description === "string" ? { description } : {}),
      messages: said as unknown as GetPromptResult["messages"],
    };
  }

  /** What an argument may go on with; nothing of a server that completes none. */
  async complete({ ref, argument, context }: CompleteRequestParams): Promise<CompleteResult> {
    const isPrompt = ref.type === "ref/prompt";
    const [server, own] = isPrompt ? this.serverOfPrompt(ref.name) : this.serverOfUri(ref.uri);
    if (!this.of("completion/complete").includes(server)) return { completion: { values: [] } };
    const there: JsonObject = isPrompt ? { type: ref.type, name: own } : { type: ref.type, uri: own };
    const given = context?.arguments === undefined ? {} : { context: { arguments: { ...context.arguments } } };
    const said = await this.asked(server, "completion/complete", { ref: there, argument: { ...argument }, ...given });
    return { completion: said["completion"] as unknown as CompleteResult["completion"] };
  }

  /** A content block of a server with the URIs that a client can read here. */
  block(server: string | null, block: Json): Json {
    if (!isObject(block) || server === null || !this.of("resources/read").includes(server)) return block;
    if (block["type"] === "resource_link") return this.placed(server, block);
    if (block["type"] === "resource") return { ...block, resource: this.placed(server, block["resource"] ?? null) };
    return block;
  }

  private of(method: Method): string[] {
    return this.servers.get(method) ?? [];
  }

  private placed(server: string, one: Json): Json {
    return isObject(one) && typeof one["uri"] === "string" ? { ...one, uri: this.uriOf(server, one["uri"]) } : one;
  }

  private uriOf(server: string, uri: string): string {
    return this.options.only === null ? `mcp://${server}/${uri}` : uri;
  }

  private serverOfUri(uri: string): [server: string, own: string] {
    const { only } = this.options;
    const servers = this.of("resources/read");
    const [, name = "", own = ""] = /^mcp:\/\/([^/]+)\/(.+)$/s.exec(uri) ?? [];
    if (only === null && servers.includes(name)) return [name, own];
    // As its server calls it: where there is one server there is no doubt which.
    const [first, ...others] = servers;
    if (first !== undefined && others.length === 0) return [first, uri];
    const message =
      first === undefined
        ? `No server offers resources here, so none is ${uri}`
        : `The URI ${uri} names no server; it has to begin with ${servers.map((one) => `mcp://${one}/`).join(" or ")}`;
    throw new NotOffered(message);
  }

  private serverOfPrompt(name: string): [server: string, own: string] {
    const servers = this.of("prompts/get");
    const [first] = servers;
    if (this.options.only !== null && first !== undefined) return [first, name];
    // The longest: a server may be called as another one and more.
    const [server] = servers.filter((one) => name.startsWith(`${one}.`)).sort((a, b) => b.length - a.length);
    if (server !== undefined) return [server, name.slice(server.length + 1)];
    const known =
      servers.length === 0 ? "no server offers prompts here" : `names are SERVER.PROMPT, of ${servers.join(", ")}`;
    throw new NotOffered(`There is no prompt ${name}: ${known}`);
  }

  /** What all servers list, each with whose it is. One that cannot be asked is left out, unless none can. */
  private async listed(method: Method, key: string): Promise<[server: string, one: JsonObject][]> {
    const servers = this.of(method);
    const answers = await Promise.all(
      servers.map((server) =>
        this.asked(server, method, {}).catch((error: unknown) => {
          if (error instanceof NotAnswered) return error;
          throw error;
        }),
      ),
    );
    const [first] = answers;
    if (first instanceof NotAnswered && answers.every((answer) => answer instanceof NotAnswered)) throw first;
    return answers.flatMap((answer, i): [string, JsonObject][] => {
      const list = answer instanceof NotAnswered ? [] : answer[key];
      const ones = (Array.isArray(list) ? list : []).flatMap((one) => (isObject(one) ? [one] : []));
      return ones.map((one) => [servers[i] ?? "", one]);
    });
  }

  private async asked(server: string, method: Method, args: JsonObject): Promise<JsonObject> {
    const { tools, of, gone } = this.options;
    const tool = `${server}.${MCP_METHODS.find((one) => one.method === method)?.name}`;
    const answer = await tools.call(of, { tool, args, wait_ms: LIMITS.mcp_wait_ms, gone });
    if (answer.is_error) throw new NotAnswered(answer);
    return objectOf(answer.result) ?? {};
  }
}
