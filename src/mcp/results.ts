// Results of governed calls as the protocol has them.
import type { CallToolResult } from "@modelcontextprotocol/server";
import type { ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { ToolAnswer } from "../contract/tools.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";

const CONTENT_TYPES: readonly unknown[] = ["text", "image", "audio", "resource", "resource_link"];

/**
 * Text as text, content blocks of an MCP server as they were (each passes `placed`), structured content where the tool promised
 * some.
 */
export function resultOf(
  { is_error, result }: ToolAnswer,
  tool: ToolDefinition | undefined,
  placed: (block: Json) => Json,
): CallToolResult {
  const blocks = Array.isArray(result) && result.length > 0 && result.every(isBlock) ? result.map(placed) : null;
  const text = typeof result === "string" ? result : JSON.stringify(result);
  const content = (blocks ?? [{ type: "text", text }]) as unknown as CallToolResult["content"];
  if (is_error) return { content, isError: true };
  const structured = tool?.output_schema?.["type"] === "object" ? objectOf(result) : null;
  return { content, ...(structured ? { structuredContent: structured } : {}) };
}

function isBlock(value: Json): boolean {
  return isObject(value) && CONTENT_TYPES.includes(value["type"]);
}

/** A large result comes back as the text that it was stored as. Null for what is no object. */
export function objectOf(result: Json): JsonObject | null {
  if (isObject(result)) return result;
  if (typeof result !== "string" || !result.startsWith("{")) return null;
  try {
    const value = parseJson(result, LIMITS.json_depth_max);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}
