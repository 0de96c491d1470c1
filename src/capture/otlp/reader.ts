// Reads attributes of a span by any of their names, and notes which were read: what is left is kept as it came.
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { Attributes } from "../../contract/otlp.ts";

/** One, or several of which the first that is there counts. Not spread: a span is asked for dozens. */
export type Names = string | readonly string[];
const INDEXED = /\.\d/;

export class AttributeReader {
  private readonly given: Attributes;
  private readonly seen = new Set<string>();
  /** Names that may be of lists. */
  private indexed: readonly string[] | null = null;

  constructor(given: Attributes) {
    this.given = given;
  }

  /** The first of these that is there. */
  any(names: Names): Json | undefined {
    if (typeof names === "string") return this.one(names);
    for (const name of names) {
      const value = this.one(name);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  private one(name: string): Json | undefined {
    const value = this.given[name];
    if (value === undefined || value === null || value === "") return undefined;
    this.seen.add(name);
    return value;
  }

  text(names: Names): string {
    const value = this.any(names);
    return typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
  }

  number(names: Names): number | undefined {
    const value = this.any(names);
    const number = typeof value === "string" ? Number(value) : value;
    return typeof number === "number" && Number.isFinite(number) ? number : undefined;
  }

  /** A value that may come as JSON in a string. */
  json(names: Names): Json | undefined {
    return parsed(this.any(names));
  }

  get names(): readonly string[] {
    return Object.keys(this.given);
  }

  has(name: string): boolean {
    return this.given[name] !== undefined;
  }

  /** Attributes below `prefix.N.` as a list of objects, nested by their dots: `0.message.role` and so on. */
  list(prefix: string): JsonObject[] {
    // Asked for several of them, of which a span has one at most.
    this.indexed ??= this.names.filter((name) => INDEXED.test(name));
    if (this.indexed.length === 0) return [];
    const found: JsonObject[] = [];
    for (const name of this.indexed) {
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
    const rest: JsonObject = {};
    for (const name in this.given) {
      const value = this.given[name];
      if (value !== undefined && !this.seen.has(name)) rest[name] = value;
    }
    return rest;
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
