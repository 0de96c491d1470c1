// One strict JSON reader for everything that comes from outside (RFC 8259, and I-JSON where it is stricter).
// It refuses what two parsers could read differently: duplicate keys, NUL, lone surrogates, too much nesting.

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

export class JsonSyntaxError extends Error {
  override readonly name = "JsonSyntaxError";
  readonly offset: number;

  constructor(message: string, offset: number) {
    super(`${message} at character ${offset}`);
    this.offset = offset;
  }
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;

class Reader {
  private at = 0;
  private readonly text: string;
  private readonly depth_max: number;

  constructor(text: string, depth_max: number) {
    this.text = text;
    this.depth_max = depth_max;
  }

  document(): Json {
    const value = this.value(0);
    this.space();
    if (this.at < this.text.length) throw this.error("unexpected text after the value");
    return value;
  }

  private error(message: string): JsonSyntaxError {
    return new JsonSyntaxError(message, this.at);
  }

  private space(): void {
    SPACE.lastIndex = this.at;
    SPACE.exec(this.text);
    this.at = SPACE.lastIndex;
  }

  private value(depth: number): Json {
    this.space();
    const c = this.text[this.at];
    if ((c === "{" || c === "[") && depth >= this.depth_max) throw this.error(`nesting deeper than ${this.depth_max}`);
    if (c === "{") return this.object(depth);
    if (c === "[") return this.array(depth);
    if (c === '"') return this.string();
    for (const [word, value] of [
      ["true", true],
      ["false", false],
      ["null", null],
    ] as const) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  private number(): number {
    NUMBER.lastIndex = this.at;
    const match = NUMBER.exec(this.text);
    if (!match) throw this.error(this.at >= this.text.length ? "unexpected end" : "expected a value");
    const value = Number(match[0]);
    if (!Number.isFinite(value)) throw this.error("number out of range");
    this.at = NUMBER.lastIndex;
    return value;
  }

  private string(): string {
    STRING.lastIndex = this.at;
    const match = STRING.exec(this.text);
    if (!match) throw this.error("malformed string");
    const value = JSON.parse(match[0]) as string;
    if (value.includes("\0")) throw this.error("NUL in a string");
    if (!value.isWellFormed()) throw this.error("lone surrogate in a string");
    this.at = STRING.lastIndex;
    return value;
  }

  private array(depth: number): Json[] {
    const items: Json[] = [];
    this.at += 1;
    this.space();
    if (this.text[this.at] === "]") {
      this.at += 1;
      return items;
    }
    for (;;) {
      items.push(this.value(depth + 1));
      if (this.separator("]")) return items;
    }
  }

  private object(depth: number): JsonObject {
    const entries = new Map<string, Json>();
    this.at += 1;
    this.space();
    if (this.text[this.at] === "}") {
      this.at += 1;
      return {};
    }
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') throw this.error("expected a key in quotes");
      const key = this.string();
      if (entries.has(key)) throw this.error(`duplicate key ${JSON.stringify(key)}`);
      this.space();
      if (this.text[this.at] !== ":") throw this.error("expected ':'");
      this.at += 1;
      entries.set(key, this.value(depth + 1));
      // fromEntries defines own properties, so a key `__proto__` is data here and cannot reach a prototype.
      if (this.separator("}")) return Object.fromEntries(entries);
    }
  }

  /** Consumes ',' (false) or the closing bracket (true). */
  private separator(close: string): boolean {
    this.space();
    const c = this.text[this.at];
    if (c !== "," && c !== close) throw this.error(`expected ',' or '${close}'`);
    this.at += 1;
    return c === close;
  }
}

/** Where the string that begins at a quote ends: the place of its closing quote; -1 when there is none. */
function endOfString(text: string, from: number, escapes: boolean): number {
  for (let at = text.indexOf('"', from + 1); ; at = text.indexOf('"', at + 1)) {
    if (!escapes || at === -1) return at;
    let backslashes = 0;
    while (text.charCodeAt(at - 1 - backslashes) === 0x5c) backslashes += 1;
    if (backslashes % 2 === 0) return at;
  }
}

/** How many members the objects of a text have together, and how deep it nests; null when a string does not end. */
function shapeOf(text: string): { members: number; depth: number } | null {
  const escapes = text.includes("\\");
  let members = 0;
  let depth = 0;
  let open = 0;
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at);
    if (c === 0x22) {
      at = endOfString(text, at, escapes);
      if (at === -1) return null;
    } else if (c === 0x3a) members += 1;
    else if (c === 0x7b || c === 0x5b) depth = Math.max(depth, ++open);
    else if (c === 0x7d || c === 0x5d) open -= 1;
  }
  return { members, depth };
}

/** How many members a value has, at all depths; NaN where a number was out of range. */
function membersOf(value: Json): number {
  if (typeof value === "number") return Number.isFinite(value) ? 0 : Number.NaN;
  if (typeof value !== "object" || value === null) return 0;
  let members = 0;
  if (Array.isArray(value)) for (const item of value) members += membersOf(item);
  else for (const key of Object.keys(value)) members += 1 + membersOf(value[key] as Json);
  return members;
}

/**
 * What the engine's own parser makes of a text, where that is certainly what the strict one would: a member that was lost is a
 * duplicate key, and only `\u` can write what a string may not hold. Undefined where it has to be read again.
 */
function parsedFast(text: string, depth_max: number): Json | undefined {
  if (text.includes("\\u") || !text.isWellFormed()) return undefined;
  const shape = shapeOf(text);
  if (!shape || shape.depth > depth_max) return undefined;
  try {
    const value = JSON.parse(text) as Json;
    return membersOf(value) === shape.members ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Reads one JSON document. Throws JsonSyntaxError. */
export function parseJson(text: string, depth_max = 128): Json {
  return parsedFast(text, depth_max) ?? parseJsonStrictly(text, depth_max);
}

/** The same, always by the strict reader, which says what is wrong and where. */
export function parseJsonStrictly(text: string, depth_max = 128): Json {
  return new Reader(text, depth_max).document();
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
