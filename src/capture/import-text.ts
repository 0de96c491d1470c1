// Small readers that importers share.
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";

/** A field's text; empty when it is none. */
export function textIn(object: JsonObject, key: string): string {
  return typeof object[key] === "string" ? object[key] : "";
}

/** What a model or tool said as text: a text, parts with texts, or the JSON of anything else. */
export function saidIn(value: Json | undefined): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  if (Array.isArray(value)) {
    const parts = value.map((part) => (isObject(part) ? (part["text"] ?? part["content"]) : part));
    if (parts.every((part) => typeof part === "string")) return parts.join("");
  }
  return JSON.stringify(value);
}
