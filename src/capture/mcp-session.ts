// Recorded MCP sessions: one JSON-RPC message a line, with its direction. Tool calls with their answers; what the server asked
// of the model (sampling) and what it was given. The rest of the protocol is no part of what an agent did.
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { textIn } from "./import-text.ts";
import type { RecordedRun } from "./import.ts";

const asObject = (value: Json | undefined): JsonObject => (isObject(value) ? value : {});

/** One session; null when the lines are none. */
export function mcpSessionRun(lines: readonly Json[], key: string): RecordedRun | null {
  const messages: JsonObject[] = [];
  const open = new Map<string, JsonObject>();
  let server = "";
  for (const line of lines) {
    if (!isObject(line) || !isObject(line["msg"]) || typeof line["dir"] !== "string") return null;
    const { msg, dir } = line as { msg: JsonObject; dir: string };
    // Each side numbers its own requests.
    const [from = "", to = ""] = dir.split("->");
    const id = JSON.stringify(msg["id"] ?? null);
    if (typeof msg["method"] === "string") {
      if (msg["id"] !== undefined) open.set(`${from} ${id}`, msg);
      continue;
    }
    const request = open.get(`${to} ${id}`);
    open.delete(`${to} ${id}`);
    if (request?.["method"] === "initialize") server = serverOf(msg);
    else if (request) messages.push(...said(request, msg));
  }
  for (const request of open.values()) messages.push(...said(request, null));
  const [name = "", version = ""] = server.split("@");
  return {
    key: server === "" ? key : `${name}@${version}`,
    model: "unknown",
    source: "mcp-session",
    fidelity: "messages",
    messages,
    outcome: { state: "succeeded", output: null },
  };
}

function serverOf(answer: JsonObject): string {
  const info = asObject(asObject(answer["result"])["serverInfo"]);
  return `${textIn(info, "name")}@${textIn(info, "version")}`;
}

/** A request with its answer; without one its outcome is not known. */
function said(request: JsonObject, answer: JsonObject | null): JsonObject[] {
  const params = asObject(request["params"]);
  if (request["method"] === "tools/call") {
    const call = { role: "call", name: textIn(params, "name"), args: asObject(params["arguments"]) };
    const failed = { ...call, is_error: true };
    if (!answer) return [{ ...failed, content: "the session ended before the answer" }];
    if (answer["error"] !== undefined) return [{ ...failed, content: answer["error"] }];
    const result = asObject(answer["result"]);
    return [{ ...(result["isError"] === true ? failed : call), content: result }];
  }
  if (request["method"] !== "sampling/createMessage" || !answer) return [];
  const asked = Array.isArray(params["messages"]) ? params["messages"].map(asObject) : [];
  const result = asObject(answer["result"]);
  const content = asObject(result["content"]);
  const reply: JsonObject = { role: "assistant", content: content["text"] ?? result["content"] ?? null };
  if (typeof result["model"] === "string") reply["model"] = result["model"];
  return [...asked.map((one): JsonObject => ({ role: textIn(one, "role"), content: one["content"] ?? null })), reply];
}
