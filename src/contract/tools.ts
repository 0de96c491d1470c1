// Where MCP tools come from, and the port through which the rest of the program reaches them: only src/mcp imports the
// MCP SDK.
import type { Json, JsonObject } from "../kit/json.ts";
import type { ToolDefinition } from "./jobs.ts";
import type { McpMethod, McpOffer } from "./mcp-methods.ts";

export type McpServer =
  | {
      readonly transport: "stdio";
      readonly command: readonly string[];
      readonly cwd: string | null;
      readonly env: Readonly<Record<string, string>>;
    }
  | { readonly transport: "http"; readonly url: string; readonly headers: Readonly<Record<string, string>> };

/** A tool as its server describes it. The digest pins the whole definition: a change needs a new version. */
export interface DiscoveredTool {
  readonly name: string;
  readonly description: string;
  readonly input_schema: JsonObject;
  readonly output_schema: JsonObject | null;
  readonly digest: string;
}

/** What a server says that it has. */
export interface Discovered {
  readonly tools: readonly DiscoveredTool[];
  /** What there is besides tools. */
  readonly offers: readonly McpOffer[];
}

interface McpExchange {
  readonly server: McpServer;
  readonly timeout_ms: number;
  readonly signal: AbortSignal;
}

export interface McpCall extends McpExchange {
  readonly tool: string;
  /** Digest of the definition that was pinned when the tool was applied. */
  readonly digest: string;
  readonly args: JsonObject;
  readonly idempotency_key: string;
  /** Told how the call goes on, where its server says so. */
  readonly onProgress?: (note: string) => void;
}

/** A question about resources or prompts; its parameters fit the method's schema. */
export interface McpQuestion extends McpExchange {
  readonly method: McpMethod["method"];
  readonly params: JsonObject;
}

export interface McpResult {
  readonly is_error: boolean;
  readonly result: Json;
}

export interface McpTools {
  discover(server: McpServer): Promise<Discovered>;
  /** Throws McpCallError. */
  call(call: McpCall): Promise<McpResult>;
  /** Lists are whole, however many pages they have. Throws McpCallError. */
  ask(question: McpQuestion): Promise<McpResult>;
  close(): Promise<void>;
}

/** Whose call it is, and which captured run it belongs to. */
export interface ToolCaller {
  readonly caller: { readonly tenant_id: string; readonly project: string; readonly principal: string };
  /** The run that the call is added to; else the open one of the agent's session. */
  readonly run_id?: string;
  readonly agent?: string;
  readonly session?: string;
}

/** What a governed call of a foreign agent came to. Where it is an error the result says why, in words for a model. */
export interface ToolAnswer {
  readonly is_error: boolean;
  /** Why there is no result, in one word; absent where the tool itself answered. */
  readonly code?: string;
  readonly result: Json;
}

/** How agents that we do not run call tools: through policy, budgets and approvals, recorded like any step. */
export interface ToolDoor {
  /** Tools that this agent may name; in a replay those that it might name then. */
  list(of: ToolCaller): Promise<readonly ToolDefinition[]>;
  /**
   * Makes one call. When its outcome is not there after `wait_ms` (somebody must approve it, or it takes long), the answer
   * says so; the same call then brings the outcome of that one and starts nothing new.
   */
  call(
    of: ToolCaller,
    call: { tool: string; args: JsonObject; wait_ms: number; gone: AbortSignal },
  ): Promise<ToolAnswer>;
}

/** The call failed; `sent` tells whether the server may have acted on it. */
export class McpCallError extends Error {
  override readonly name = "McpCallError";
  readonly code: string;
  readonly sent: boolean;

  constructor(code: string, message: string, options: { sent: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.sent = options.sent;
  }
}
