// `mcp`: an MCP server over stdio for clients that speak nothing else. It only passes lines on: each JSON-RPC message goes to
// the gateway of the running server as one request, and what is answered is written as one line. stdout is the protocol's.
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import type { Command } from "commander";
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { AGENT_HEADER } from "../contract/proxy.ts";
import { MCP_PREFIX } from "../contract/paths.ts";
import type { Run } from "../contract/runs.ts";
import { isObject, parseJson } from "../kit/json.ts";
import { clientOf, globalsOf, serverUrl } from "./context.ts";
import { pinned } from "./mcp-wrap.ts";
import type { Globals } from "./context.ts";

const PARSE_ERROR = -32_700;
const UNAVAILABLE = -32_000;

/** Id of a request; undefined for what wants no answer. */
function idOf(line: string): unknown {
  const message = parseJson(line, LIMITS.json_depth_max);
  return isObject(message) && "method" in message ? message["id"] : undefined;
}

/** Passes every line of a client on, side by side, and resolves when all are answered and no more come. */
export async function passOn(
  lines: Readable,
  out: Writable,
  post: (body: string) => Promise<{ status: number; text: string }>,
): Promise<void> {
  const write = (message: object) => out.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  const one = async (line: string): Promise<void> => {
    let id: unknown;
    try {
      id = idOf(line);
    } catch (error) {
      const message = `This line is no acceptable JSON: ${messageOf(error)}`;
      return void write({ id: null, error: { code: PARSE_ERROR, message } });
    }
    try {
      const { status, text } = await post(line);
      if (status === 202 || text === "") return;
      const answer = parseJson(text, LIMITS.json_depth_max);
      const isMessage = Array.isArray(answer) || (isObject(answer) && "jsonrpc" in answer);
      if (isMessage) return void out.write(`${JSON.stringify(answer)}\n`);
      const message = isObject(answer) && typeof answer["detail"] === "string" ? answer["detail"] : `status ${status}`;
      if (id !== undefined) write({ id, error: { code: UNAVAILABLE, message } });
    } catch (error) {
      if (id !== undefined) write({ id, error: { code: UNAVAILABLE, message: messageOf(error) } });
    }
  };
  const open = new Set<Promise<void>>();
  for await (const line of createInterface({ input: lines, crlfDelay: Infinity })) {
    if (line.trim() === "") continue;
    const task = one(line);
    open.add(task);
    void task.finally(() => open.delete(task));
  }
  await Promise.all(open);
}

/** Sends a message to the gateway as its own clients do. */
function poster(globals: Globals, agent: string, run_id: string, only: string | undefined) {
  const url = `${serverUrl(globals)}${MCP_PREFIX}/runs/${run_id}${only === undefined ? "" : `/servers/${only}`}`;
  const token = globals.token ?? process.env["QUARTERDECK_TOKEN"];
  const headers: Record<string, string> = {
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    [AGENT_HEADER]: agent,
    ...(token === undefined || token === "" ? {} : { authorization: `Bearer ${token}` }),
    ...(globals.as === undefined ? {} : { "quarterdeck-principal": globals.as }),
  };
  return async (body: string) => {
    const response = await fetch(url, { method: "POST", headers, body }).catch((cause: unknown) => {
      throw new Error(`No server answers at ${url}. Start one with: quarterdeck up`, { cause });
    });
    return { status: response.status, text: await response.text() };
  };
}

interface McpOptions {
  agent: string;
}

/** Serves this process's client until it goes; `only`: the tools of one server. */
async function serve(globals: Globals, agent: string, only?: string): Promise<void> {
  const client = clientOf(globals);
  // Inside of `capture -- COMMAND` the run is there already, and its end is not ours.
  const given = process.env["QUARTERDECK_RUN"];
  const { run_id } =
    given === undefined || given === ""
      ? await client.json<Run>("/captures", { method: "POST", body: { agent } })
      : { run_id: given };
  await passOn(process.stdin, process.stdout, poster(globals, agent, run_id, only));
  if (run_id !== given) await client.json(`/captures/${run_id}/end`, { method: "POST", body: { exit_code: 0 } });
}

export function addMcp(root: Command): void {
  const mcp = root
    .command("mcp")
    .description("be an MCP server over stdio with the tools of this project, governed and recorded as one run")
    .option("--agent <name>", "the agent that calls; one that is applied here sees the tools it may name", "captured")
    .action((options: McpOptions, command: Command) => serve(globalsOf(command), options.agent));
  mcp
    .command("wrap <command...>")
    .description("stand in front of an MCP server: its tools, governed and recorded: mcp wrap --name NAME -- COMMAND")
    .requiredOption("--name <name>", "what the server is called here; its tools are NAME.TOOL in policies")
    .action(async (words: string[], options: { name: string }, command: Command) => {
      const globals = globalsOf(command);
      const { agent } = mcp.opts<McpOptions>();
      // stdout is the protocol's.
      process.stderr.write(`${await pinned(clientOf(globals), options.name, words, process.cwd())}\n`);
      await serve(globals, agent, options.name);
    });
}
