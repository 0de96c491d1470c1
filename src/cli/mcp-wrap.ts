// `mcp wrap -- COMMAND`: an MCP server in front of another one. Its definitions are pinned with the first use; from then on its
// tools are tools of the registry, made by Quarterdeck's workers under policy, budgets and approvals, and a definition that
// changes is refused until it is applied again.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { AppError, isAppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_METHODS, MCP_OFFERS } from "../contract/mcp-methods.ts";
import type { McpMethod } from "../contract/mcp-methods.ts";
import type { Client } from "../sdk/client.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";

const PROTOCOL = "2025-06-18";
const ABOUT = { name: "quarterdeck", version: "1" };
/** From this revision on there is no handshake: each request says what it speaks. */
const CURRENT = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientCapabilities": {},
  "io.modelcontextprotocol/clientInfo": ABOUT,
};
const DISCOVERY_MS = 20_000;
const PAGES_MAX = 50;

/** Makes sure that the server is known by this name, with this command. Returns what to tell the user. */
export async function pinned(client: Client, name: string, command: readonly string[], cwd: string): Promise<string> {
  try {
    const { spec, version } = await client.json<{ spec: JsonObject; version: number }>(`/registry/Tool/${name}`);
    const same = JSON.stringify([spec["command"], spec["cwd"] ?? cwd]) === JSON.stringify([command, cwd]);
    if (spec["kind"] === "mcp" && same) return `${name} is pinned (version ${version})`;
    const known = Array.isArray(spec["command"]) ? spec["command"].join(" ") : String(spec["kind"]);
    throw new AppError(
      "CONFLICT",
      `Tool ${name} is something else here (${known}); choose another --name, or apply it anew`,
    );
  } catch (error) {
    if (!isAppError(error, "NOT_FOUND")) throw error;
  }
  const { tools, ...offers } = await offered(command, cwd);
  const others = Object.entries(offers).flatMap(([what, isThere]) => (isThere ? [what] : []));
  for (const what of others) {
    const taken = MCP_METHODS.find((one) => one.offer === what && tools.includes(one.name));
    if (taken) throw new AppError("CONFLICT", clash(name, taken));
  }
  if (tools.length === 0 && others.length === 0)
    throw new AppError("VALIDATION_ERROR", `${command.join(" ")} offers no tools, resources or prompts`);
  const spec = {
    kind: "mcp",
    transport: "stdio",
    command,
    cwd,
    tools: tools.map((tool) => ({ name: tool })),
    ...offers,
  };
  await client.apply(JSON.stringify({ kind: "Tool", metadata: { name }, spec }));
  const rule = `{ effect: allow, match: { tools: ["${name}.*"] } }`;
  const pins = tools.length === 0 ? "it has no tools" : `the definitions of its tools are pinned: ${tools.join(", ")}`;
  const more = others.length === 0 ? "" : `; it has ${others.join(" and ")}, too`;
  return `${name} is new here; ${pins}${more}. A call needs a rule of a Policy that allows it, such as ${rule}`;
}

const clash = (name: string, { name: tool, offer }: McpMethod): string =>
  `The server has a tool ${tool} and ${offer}, which would be asked for by ${name}.${tool} too; apply a Tool manifest that names its tools, or its ${offer}`;

/** What a server has; its other offers are taken with its tools. */
export interface Offered {
  readonly tools: readonly string[];
  readonly resources: boolean;
  readonly prompts: boolean;
  readonly completions: boolean;
}

/** Asks a server what it offers, and ends it. */
export async function offered(command: readonly string[], cwd: string): Promise<Offered> {
  const [file = "", ...args] = command;
  const child = spawn(file, args, { cwd, stdio: ["pipe", "pipe", "inherit"] });
  const failed = new Promise<never>((_resolve, reject) => {
    const fail = (why: string) => reject(new AppError("VALIDATION_ERROR", `${command.join(" ")}: ${why}`));
    child.once("error", (error) => fail(`it cannot be started: ${error.message}`));
    child.once("exit", (code) => fail(`it ended with ${code} before it said what it offers`));
    setTimeout(() => fail(`it did not answer in ${DISCOVERY_MS / 1000} s`), DISCOVERY_MS).unref();
  });
  // When all went well nobody waits for it any more.
  failed.catch(() => undefined);
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const send = (message: object) => void child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  const ask = async (id: number, method: string, params: JsonObject): Promise<JsonObject> => {
    send({ id, method, params });
    for (;;) {
      const { value, done } = await Promise.race([answers.next(), failed]);
      if (done === true) return failed;
      const message = messageOf(value);
      if (message?.["id"] === id) return message;
    }
  };
  const asked = async (id: number, method: string, params: JsonObject): Promise<JsonObject> => {
    const { result, error } = await ask(id, method, params);
    if (isObject(result)) return result;
    throw new AppError("VALIDATION_ERROR", `${command.join(" ")} refused ${method}: ${JSON.stringify(error)}`);
  };
  try {
    const hello = await ask(0, "initialize", { protocolVersion: PROTOCOL, capabilities: {}, clientInfo: ABOUT });
    const isModern = !isObject(hello["result"]);
    const spoken: JsonObject = isModern ? { _meta: CURRENT } : {};
    if (!isModern) send({ method: "notifications/initialized" });
    const about = isModern ? await asked(1, "server/discover", spoken) : (hello["result"] as JsonObject);
    const has = isObject(about["capabilities"]) ? about["capabilities"] : {};
    const tools: string[] = [];
    let cursor: Json | undefined;
    for (let page = 1; page <= PAGES_MAX && has["tools"] !== undefined; page++) {
      const result = await asked(page + 1, "tools/list", { ...spoken, ...(cursor === undefined ? {} : { cursor }) });
      for (const tool of Array.isArray(result["tools"]) ? result["tools"] : [])
        if (isObject(tool) && typeof tool["name"] === "string") tools.push(tool["name"]);
      cursor = result["nextCursor"];
      if (typeof cursor !== "string") break;
    }
    const offers = { resources: false, prompts: false, completions: false };
    for (const offer of MCP_OFFERS) offers[offer] = has[offer] !== undefined;
    return { tools, ...offers };
  } finally {
    child.removeAllListeners("exit");
    child.kill();
  }
}

/** Servers print other things too. */
function messageOf(line: string): JsonObject | null {
  try {
    const value = parseJson(line, LIMITS.json_depth_max);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}
