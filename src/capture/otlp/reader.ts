// Reads attributes of a span by any of their names, and notes which were read: what is left is kept as it came.
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { Attributes } from "../../contract/otlp.ts";

export class AttributeReader {
  private readonly given: Attributes;
  private readonly seen = new Set<string>();
  private keys: string[] | null = null;

  constructor(given: Attributes) {
    this.given = given;
  }

  /** The first of these that is there. */
  any(...names: readonly string[]): Json | undefined {
    for (const name of names) {
      const value = this.given[name];
      if (value === undefined || value === null || value === "") continue;
      this.seen.add(name);
      return value;
    }
    return undefined;
  }

  text(...names: readonly string[]): string {
    const value = this.any(...names);
    return typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
  }

  number(...names: readonly string[]): number | undefined {
    const value = this.any(...names);
    const number = typeof value === "string" ? Number(value) : value;
    return typeof number === "number" && Number.isFinite(number) ? number : undefined;
  }

  /** A value that may come as JSON in a string. */
  json(...names: readonly string[]): Json | undefined {
    return parsed(this.any(...names));
  }

  has(name: string): boolean {
    return this.given[name] !== undefined;
  }

  /** Attributes below `prefix.N.` as a list of objects, nested by their dots: `0.message.role` and so on. */
  list(prefix: string): JsonObject[] {
    const found: JsonObject[] = [];
    this.keys ??= Object.keys(this.given);
    for (const name of this.keys) {
      if (!name.startsWith(`${prefix}.`)) continue;
      const [index = "", ...path] = name.slice(prefix.length + 1).split(".");
      if (!/^\d{1,4}$/.test(index) || path.length === 0) continue;
      this.seen.add(name);
      const item = (found[Number(index)] ??= {});
      put(item, path, this.given[name] ?? null);
    }
    return found.filter((item) => item !== undefined);
  }

  /** What nobody asked for. */
  rest(): JsonObject {
    return Object.fromEntries(Object.entries(this.given).filter(([name]) => !this.seen.has(name)));
  }
}

export function parsed(value: Json | undefined): Json | undefined {
  if (typeof value !== "string" || !/^\s*[[{"]/.test(value)) return value;
  try {
    return JSON.parse(value) as Json;
  } catch {
    return value;
  }
}

function put(into: JsonObject, path: readonly string[], value: Json): void {
  let at = into;
  for (const [i, part] of path.entries()) {
    if (part === "__proto__") return;
    if (i === path.length - 1) {
      at[part] = value;
      return;
    }
    const next = at[part];
    at = isObject(next) ? next : (at[part] = {});
  }
}

/** An object with numbered keys, as `put` makes it, as a list. */
export function numbered(value: Json | undefined): JsonObject[] {
  if (!isObject(value)) return Array.isArray(value) ? (value.filter(isObject) as JsonObject[]) : [];
  return Object.entries(value)
    .filter(([key, item]) => /^\d+$/.test(key) && isObject(item))
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, item]) => item as JsonObject);
}
