// An MCP client whose calls are captured: tools, and what it asks about tools, resources and prompts, under the names that the
// MCP gateway gives them. The connection stays the program's own.
import type { Json, JsonObject } from "../../kit/json.ts";
import type { CaptureRun } from "./run.ts";

export interface McpClient {
  callTool(
    params: { name: string; arguments?: Record<string, unknown> | undefined },
    ...rest: never[]
  ): Promise<unknown>;
}

type Params = Readonly<Record<string, unknown>> | undefined;
type Call = (...given: unknown[]) => unknown;

/** Methods of the protocol's clients besides `callTool`, and what they are called in a run. */
const QUESTIONS: Readonly<Record<string, string>> = {
  listResources: "list_resources",
  listResourceTemplates: "list_resource_templates",
  readResource: "read_resource",
  listPrompts: "list_prompts",
  getPrompt: "get_prompt",
  complete: "complete",
};

/** The client with its calls captured in the run that is current then; `server` stands before their names. */
export function captureMcp<T extends McpClient>(client: T, run: () => CaptureRun, server: string | undefined): T {
  const named = (name: string) => (server === undefined ? name : `${server}.${name}`);
  const callTool = (params: Parameters<McpClient["callTool"]>[0], ...rest: never[]): Promise<unknown> => {
    const args = (params.arguments ?? {}) as JsonObject;
    return run().tool(named(params.name), args, () => client.callTool(params, ...rest), isError);
  };
  const question =
    (name: string, ask: Call) =>
    (params?: Params, ...rest: unknown[]): Promise<unknown> =>
      run().tool(named(name), argsOf(params), () => ask.call(client, params, ...rest) as Promise<unknown>);
  const listTools =
    (ask: Call) =>
    (params?: Params, ...rest: unknown[]): Promise<unknown> =>
      run().question(named("list_tools"), argsOf(params), () => ask.call(client, params, ...rest) as Promise<unknown>);
  return new Proxy(client, {
    get: (target, key) => {
      if (key === "callTool") return callTool;
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== "function") return value;
      if (key === "listTools") return listTools(value as Call);
      const name = typeof key === "string" && Object.hasOwn(QUESTIONS, key) ? QUESTIONS[key] : undefined;
      return name === undefined ? (value.bind(target) as unknown) : question(name, value as Call);
    },
  });
}

/** What is asked, without what the protocol says about the message itself. */
function argsOf(params: Params): JsonObject {
  const { _meta, ...args } = params ?? {};
  return args as Record<string, Json>;
}

function isError(result: unknown): boolean {
  return typeof result === "object" && result !== null && "isError" in result && result.isError === true;
}
