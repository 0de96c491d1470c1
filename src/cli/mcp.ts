// `mcp`: an MCP server over stdio for clients that speak nothing else. It only passes lines on: each JSON-RPC message goes to
// the gateway of the running server as one request, and what is answered is written as one line. stdout is the protocol's.
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import type { Command } from "commander";
import { messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { AGENT_HEADER, MCP_STDIO_HEADER } from "../contract/proxy.ts";
import { MCP_OBSERVE, MCP_PREFIX } from "../contract/paths.ts";
import type { Run } from "../contract/runs.ts";
import { EventSplitter } from "../contract/wire/wire.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { clientOf, globalsOf, serverUrl } from "./context.ts";
import { pinned } from "./mcp-wrap.ts";
import type { Globals } from "./context.ts";

const PARSE_ERROR = -32_700;
const UNAVAILABLE = -32_000;
const META = "io.modelcontextprotocol/protocolVersion";

/** What the gateway answers a message: at once, or event by event as long as the client listens. */
export interface Posted {
  readonly status: number;
  readonly text: string;
  readonly events?: AsyncIterable<string>;
}

export type Post = (message: JsonObject, body: string, signal: AbortSignal) => Promise<Posted>;

/** Passes messages on side by side. One that the client takes back is given up; who listens does so until the client goes. */
class Bridge {
  private readonly out: Writable;
  private readonly post: Post;
  private readonly open = new Map<string, AbortController>();
  private readonly listening = new Set<AbortController>();

  constructor(out: Writable, post: Post) {
    this.out = out;
    this.post = post;
  }

  async pass(line: string): Promise<void> {
    let message: unknown;
    try {
      message = parseJson(line, LIMITS.json_depth_max);
    } catch (error) {
      return this.fail(null, `This line is no acceptable JSON: ${messageOf(error)}`, PARSE_ERROR);
    }
    const said = isObject(message) ? (message as JsonObject) : {};
    const id = "method" in said ? said["id"] : undefined;
    if (said["method"] === "notifications/cancelled" && isObject(said["params"]))
      this.open.get(JSON.stringify(said["params"]["requestId"]))?.abort();
    const given = new AbortController();
    const key = JSON.stringify(id ?? null);
    if (id !== undefined) this.open.set(key, given);
    try {
      const answer = await this.post(said, line, given.signal);
      if (answer.events) await this.listen(answer.events, given, id ?? null);
      else this.answer(answer, id);
    } catch (error) {
      if (id !== undefined && !given.signal.aborted) this.fail(id, messageOf(error));
    } finally {
      if (this.open.get(key) === given) this.open.delete(key);
    }
  }

  /** The client has gone: nobody listens any more. What it asked for is still answered. */
  end(): void {
    for (const given of this.listening) given.abort();
  }

  private async listen(events: AsyncIterable<string>, given: AbortController, id: Json): Promise<void> {
    this.listening.add(given);
    let isAnswered = false;
    try {
      for await (const data of events) {
        const said = parseJson(data, LIMITS.json_depth_max);
        isAnswered ||= isObject(said) && said["id"] === id && !("method" in said);
        this.out.write(`${JSON.stringify(said)}\n`);
      }
      // Over HTTP a client sees that a stream has ended.
      if (!isAnswered && !given.signal.aborted) this.fail(id, "The server says no more; listen again");
    } finally {
      this.listening.delete(given);
    }
  }

  private answer({ status, text }: Posted, id: Json | undefined): void {
    if (status === 202 || text === "") return;
    const answer = parseJson(text, LIMITS.json_depth_max);
    const isMessage = Array.isArray(answer) || (isObject(answer) && "jsonrpc" in answer);
    if (isMessage) return void this.out.write(`${JSON.stringify(answer)}\n`);
    const message = isObject(answer) && typeof answer["detail"] === "string" ? answer["detail"] : `status ${status}`;
    if (id !== undefined) this.fail(id, message);
  }

  private fail(id: Json, message: string, code = UNAVAILABLE): void {
    this.out.write(`${JSON.stringify({ jsonrpc: "2.0", id, error: { code, message } })}\n`);
  }
}

/** Passes every line of a client on, side by side, and resolves when all are answered and no more come. */
export async function passOn(lines: Readable, out: Writable, post: Post): Promise<void> {
  const bridge = new Bridge(out, post);
  const open = new Set<Promise<void>>();
  for await (const line of createInterface({ input: lines, crlfDelay: Infinity })) {
    if (line.trim() === "") continue;
    const task = bridge.pass(line);
    open.add(task);
    void task.finally(() => open.delete(task));
  }
  bridge.end();
  await Promise.all(open);
}

/**
 * What HTTP repeats of a message in headers, from the revision 2026-07-28 on.
 * https://modelcontextprotocol.io/specification/2026-07-28/basic/transports
 */
export function headersOf({ method, params }: JsonObject): Record<string, string> {
  const meta = isObject(params) ? params["_meta"] : undefined;
  const revision = isObject(meta) ? meta[META] : undefined;
  if (typeof revision !== "string" || typeof method !== "string" || !isObject(params)) return {};
  const name = params["name"] ?? params["uri"];
  return {
    "mcp-protocol-version": revision,
    "mcp-method": method,
    ...(typeof name === "string" ? { "mcp-name": headerText(name) } : {}),
    // There are none on stdio that repeat arguments.
    [MCP_STDIO_HEADER]: "1",
  };
}

/** Text that no header could carry goes in base64, as the protocol has it. */
function headerText(text: string): string {
  return /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(text) && !text.startsWith("=?base64?")
    ? text
    : `=?base64?${Buffer.from(text).toString("base64")}?=`;
}

/** Sends a message to one of the server's endpoints as its own clients do. */
function poster(globals: Globals, path: string, agent?: string): Post {
  const url = serverUrl(globals) + path;
  const token = globals.token ?? process.env["QUARTERDECK_TOKEN"];
  const always: Record<string, string> = {
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    ...(agent === undefined ? {} : { [AGENT_HEADER]: agent }),
    ...(token === undefined || token === "" ? {} : { authorization: `Bearer ${token}` }),
    ...(globals.as === undefined ? {} : { "quarterdeck-principal": globals.as }),
  };
  return async (message, body, signal) => {
    const headers = { ...always, ...headersOf(message) };
    const response = await fetch(url, { method: "POST", headers, body, signal }).catch((cause: unknown) => {
      throw new Error(`No server answers at ${url}. Start one with: quarterdeck up`, { cause });
    });
    const { status } = response;
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") === true;
    if (isStream && response.body) return { status, text: "", events: dataOf(response.body) };
    return { status, text: await response.text() };
  };
}

async function* dataOf(body: AsyncIterable<Uint8Array>): AsyncIterable<string> {
  const splitter = new EventSplitter();
  for await (const bytes of body) for (const { data } of splitter.push(bytes)) if (data !== "") yield data;
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
  const path = `${MCP_PREFIX}/runs/${run_id}${only === undefined ? "" : `/servers/${only}`}`;
  await passOn(process.stdin, process.stdout, poster(globals, path, agent));
  if (run_id !== given) await client.json(`/captures/${run_id}/end`, { method: "POST", body: { exit_code: 0 } });
}

export function addMcp(root: Command): void {
  const mcp = root
    .command("mcp")
    .description("be an MCP server over stdio with the tools of this project, governed and recorded as one run")
    .option("--agent <name>", "the agent that calls; one that is applied here sees the tools it may name", "captured")
    .action((options: McpOptions, command: Command) => serve(globalsOf(command), options.agent));
  mcp
    .command("observe")
    .description("be an MCP server over stdio that tells what happened: runs, events, why, differences; it only reads")
    .action(async (_options: object, command: Command) => {
      const globals = globalsOf(command);
      // Says that no server answers before a client waits for it.
      await clientOf(globals).json("/runs?limit=1");
      await passOn(process.stdin, process.stdout, poster(globals, MCP_OBSERVE));
    });
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
