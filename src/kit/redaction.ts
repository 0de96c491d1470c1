// Takes secrets out of what is recorded: in texts, in every string of a JSON value, in JSON inside strings, in base64, and
// across the chunks of a stream. Redact, then hash, then store: what was taken out is nowhere.
// Invariant: a text without a secret comes back byte for byte.
import type { Json } from "./json.ts";
import { PERSONAL_RULES, SECRET_RULES } from "./redaction-rules.ts";
import type { RedactionRule } from "./redaction-rules.ts";
import { mendStream } from "./stream-mend.ts";
import { isEventStream, streamTexts } from "./stream-texts.ts";

export const REDACTION_LEVELS = ["off", "secrets", "personal"] as const;
/** `secrets`: keys, tokens, passwords. `personal`: cards, accounts, addresses and numbers of people too. */
export type RedactionLevel = (typeof REDACTION_LEVELS)[number];

export interface Found {
  readonly rule: string;
  readonly start: number;
  readonly end: number;
}

export interface Redacted<T> {
  readonly value: T;
  /** Names of the rules that spoke. */
  readonly rules: readonly string[];
  /** JSON pointers of strings that were changed, and of members whose key was, under the key that they have now. */
  readonly paths: readonly string[];
}

/** Changed when what a rule finds changes; stands beside what was redacted. */
export const RULESET = "secrets/2";
/** Encodings of one in another (JSON in a string, base64) that are undone; what has more cannot be looked at. */
const LAYERS_MAX = 8;
/** Deeper than anything that is read from outside. */
const DEPTH_MAX = 128;
/** From twelve digits on. */
const NUMBER_MIN = 100_000_000_000;
const BASE64_MIN = 40;
/** Digests are left out: what only has lower-case hexadecimal digits says nothing as base64, and stands in most events. */
const BASE64 = /(?<![A-Za-z0-9+/=_-])(?![0-9a-f]+(?![A-Za-z0-9+/=_-]))[A-Za-z0-9+/]{40,}={0,2}(?![A-Za-z0-9+/=_-])/g;

/** Any digest looks like a key of this kind: it would leave little of a journal. */
const TOO_WIDE = new Set(["secp256k1-privatekey"]);

/** Rules of a level. */
export function rulesOf(level: RedactionLevel): readonly RedactionRule[] {
  if (level === "off") return [];
  const secrets = SECRET_RULES.filter((rule) => !TOO_WIDE.has(rule.name));
  return level === "secrets" ? secrets : [...secrets, ...PERSONAL_RULES];
}

const mark = (rule: string): string => `[redacted:${rule}]`;

/** Replaces each find by the name of its rule. What stands before `from` is looked at and left out: it says what follows it is. */
export function redactText(
  text: string,
  rules: readonly RedactionRule[] = SECRET_RULES,
  from = 0,
): { text: string; found: readonly Found[] } {
  const found: Found[] = [];
  for (const rule of rules) {
    for (const match of text.matchAll(rule.pattern)) {
      const groups = match.groups ?? {};
      if (rule.accepts?.(match[0], groups) === false) continue;
      const [start, end] = match.indices?.groups?.["secret"] ?? [match.index, match.index + match[0].length];
      if (end > from) found.push({ rule: rule.name, start: Math.max(start, from), end });
    }
  }
  if (found.length === 0) return { text: text.slice(from), found };
  // Where finds overlap they go out together, under the first one's name.
  found.sort((a, b) => a.start - b.start || b.end - a.end);
  let out = "";
  let at = from;
  for (let i = 0; i < found.length;) {
    const first = found[i] as Found;
    let { end } = first;
    for (i += 1; i < found.length && (found[i] as Found).start < end; i++) end = Math.max(end, (found[i] as Found).end);
    out += text.slice(at, first.start) + mark(first.rule);
    at = end;
  }
  return { text: out + text.slice(at), found };
}

/**
 * Redacts every string of a JSON value, and what is hidden in strings; `skip` tells what stays as it is. Throws for a value
 * that cannot be looked at as a whole: it nests too deep, or has too many encodings in each other.
 */
export function redactJson(
  value: Json,
  rules: readonly RedactionRule[] = SECRET_RULES,
  skip: (pointer: string) => boolean = () => false,
): Redacted<Json> {
  return redactLayer(value, rules, skip, 0);
}

function redactLayer(
  value: Json,
  rules: readonly RedactionRule[],
  skip: (pointer: string) => boolean,
  layer: number,
): Redacted<Json> {
  const spoke = new Set<string>();
  const paths: string[] = [];
  const look = lookAt(value, rules);
  if (look === "nothing") return { value, rules: [], paths: [] };
  const clean = (text: string, key?: string): string =>
    look === "hidden" ? redactHidden(text, rules, layer, spoke) : redactString(text, rules, layer, spoke, key);
  const walk = (item: Json, at: string, depth: number, member?: string): Json => {
    if (skip(at)) return item;
    if (isText(item)) {
      const text = clean(String(item), member);
      if (text === String(item)) return item;
      paths.push(at);
      return text;
    }
    if (typeof item !== "object" || item === null) return item;
    checkDepth(depth);
    if (Array.isArray(item)) return item.map((one, i) => walk(one, `${at}/${i}`, depth + 1));
    const out = new Map<string, Json>();
    for (const [key, one] of Object.entries(item)) {
      let name = clean(key);
      // Two keys may have become the same one; neither value is lost by that.
      while (name !== key && (out.has(name) || Object.hasOwn(item, name))) name += "'";
      const here = `${at}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
      if (name !== key) paths.push(here);
      out.set(name, walk(one, here, depth + 1, key));
    }
    // Defines own properties, also one that is called `__proto__`.
    return Object.fromEntries(out);
  };
  return { value: walk(value, "", 0), rules: [...spoke], paths };
}

/** True for a text of which nothing is left: it was taken out as a whole. */
export function isOnlyMark(text: string): boolean {
  return /^\[redacted:[a-z0-9-]+\]$/.test(text);
}

/**
 * What was said in a stream, without the stream's bytes where those hold a secret in pieces: they were taken out as a whole, or a
 * secret was found in what was said (`content`, `tool_calls`) and nothing in `raw`, whatever form that has.
 */
export function withoutTornSecrets<T extends Record<string, Json>>(data: T, paths: readonly string[]): T {
  if (typeof data["raw"] !== "string") return data;
  const said = paths.some((path) => path.startsWith("/content") || path.startsWith("/tool_calls"));
  if (!isOnlyMark(data["raw"]) && (!said || paths.includes("/raw"))) return data;
  const { raw: _raw, ...rest } = data;
  return { ...rest, raw_withheld: true } as unknown as T;
}

/** Between strings that are looked at together. No rule takes it for a part of a word, so it bounds them as their ends do. */
const BETWEEN = "\u0000";

/**
 * What a closer look could find in a value: nothing, only what is hidden in strings (base64), or anything. All strings are
 * looked at together: payloads have many short ones, and forty patterns cost more to begin than to run. What matches across
 * two strings only costs a closer look.
 */
function lookAt(value: Json, rules: readonly RedactionRule[]): "nothing" | "hidden" | "anything" {
  // Many stand there twice: keys, and what was said beside the bytes that say it.
  const strings = new Set<string>();
  const within = (text: string, depth: number): void => {
    // JSON without an escape holds its strings as they are, between quotes, which are no part of a word either.
    const inner = text.includes("\\") ? nestedIn(text) : undefined;
    if (inner !== undefined) collect(inner, depth + 1);
    if (isEventStream(text)) for (const said of streamTexts(text)) collect(said, depth + 1);
  };
  const add = (text: string, depth: number, parts: readonly string[] = [text]): void => {
    if (strings.has(text)) return;
    strings.add(text);
    for (const part of parts) within(part, depth);
  };
  const collect = (item: Json, depth: number): void => {
    if (isText(item)) return add(String(item), depth);
    if (typeof item !== "object" || item === null) return;
    checkDepth(depth);
    if (Array.isArray(item)) {
      for (const one of item) collect(one, depth + 1);
      return;
    }
    for (const key of Object.keys(item)) {
      const one = item[key] as Json;
      if (isText(one)) add(called(key, String(one)), depth, [key, String(one)]);
      else {
        add(key, depth);
        collect(one, depth + 1);
      }
    }
  };
  collect(value, 0);
  const text = [...strings].join(BETWEEN);
  const lower = text.toLowerCase();
  if (rules.some((rule) => lower.includes(rule.needs ?? "") && text.search(rule.pattern) !== -1)) return "anything";
  for (const word of longWords(text))
    for (const [match] of word.matchAll(BASE64)) if (textIn(match) !== null) return "hidden";
  return "nothing";
}

/**
 * Words that are long enough to be base64, each with what stands around it. Most texts have none: no more characters are looked
 * at than it takes to know.
 */
function* longWords(text: string): Iterable<string> {
  // Where a word of that length would end that begins after the last character that is in none.
  for (let end = BASE64_MIN - 1; end < text.length;) {
    let at = end;
    while (at > end - BASE64_MIN && isBase64(text.charCodeAt(at))) at -= 1;
    if (at === end - BASE64_MIN) {
      let after = end + 1;
      while (isBase64(text.charCodeAt(after))) after += 1;
      // The character before it, and behind it two signs that fill it up and one more.
      yield text.slice(Math.max(0, at), after + 3);
      at = after;
    }
    end = at + BASE64_MIN;
  }
}

function isBase64(code: number): boolean {
  const isLetter = (code | 0x20) >= 0x61 && (code | 0x20) <= 0x7a;
  // The slash stands before the digits.
  return isLetter || (code >= 0x2f && code <= 0x39) || code === 0x2b;
}

/** What base64 says; null for what is no text, in which these rules know no secret: pictures, digests, long words. */
function textIn(base64: string): string | null {
  const decoded = Buffer.from(base64, "base64").toString("utf8");
  return decoded.includes("\ufffd") ? null : decoded;
}

/** Strings, and numbers that are long enough to be those of cards and accounts. */
function isText(item: Json): item is string | number {
  return typeof item === "string" || (typeof item === "number" && Math.abs(item) >= NUMBER_MIN);
}

/** A member as JSON writes it: what a value is, is often only said by its key. */
function called(key: string, value: string): string {
  return `"${key}":"${value}"`;
}

/** The value of a string that is JSON itself; undefined for others. */
function nestedIn(text: string): Json | undefined {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}

function checkDepth(depth: number): void {
  if (depth > DEPTH_MAX) throw new RangeError(`the value nests deeper than ${DEPTH_MAX}`);
}

/** What no rule sees as it stands: JSON in a string, base64, and what an event stream says in pieces. */
function redactHidden(text: string, rules: readonly RedactionRule[], layer: number, spoke: Set<string>): string {
  if (layer > LAYERS_MAX) throw new RangeError(`more than ${LAYERS_MAX} encodings in each other`);
  const plain = redactBase64(redactNested(text, rules, layer, spoke), rules, layer, spoke);
  return isEventStream(plain) ? redactStream(plain, rules, layer, spoke) : plain;
}

/** What a stream says in pieces is taken out of them; where that cannot be, the stream goes out as a whole. */
function redactStream(text: string, rules: readonly RedactionRule[], layer: number, spoke: Set<string>): string {
  const looked = (stream: string) => redactLayer(streamTexts(stream), rules, () => false, layer + 1);
  const { paths, rules: names } = looked(text);
  if (paths.length === 0) return text;
  for (const name of names) spoke.add(name);
  const mended = mendStream(text, (said) => redactString(said, rules, layer + 1, spoke));
  const isClean = mended !== null && redactText(mended, rules).found.length === 0 && looked(mended).paths.length === 0;
  return isClean ? mended : mark(names[0] ?? "stream");
}

/** `key`: what it is called, where it is a member's value. */
function redactString(
  text: string,
  rules: readonly RedactionRule[],
  layer: number,
  spoke: Set<string>,
  key?: string,
): string {
  const whole = key === undefined ? text : called(key, text);
  const { text: clean, found } = redactText(whole, rules, key === undefined ? 0 : whole.length - text.length - 1);
  for (const { rule } of found) spoke.add(rule);
  return redactHidden(key === undefined ? clean : clean.slice(0, -1), rules, layer, spoke);
}

/** A string that is JSON itself: its own strings are looked at, with their escapes undone. */
function redactNested(text: string, rules: readonly RedactionRule[], layer: number, spoke: Set<string>): string {
  const inner = nestedIn(text);
  if (inner === undefined) return text;
  const before = spoke.size;
  const { value, rules: names, paths } = redactLayer(inner, rules, () => false, layer + 1);
  for (const name of names) spoke.add(name);
  return paths.length > 0 || spoke.size > before ? JSON.stringify(value) : text;
}

/** Base64 whose content holds a secret goes out as a whole. */
function redactBase64(text: string, rules: readonly RedactionRule[], layer: number, spoke: Set<string>): string {
  if (text.length < BASE64_MIN) return text;
  return text.replaceAll(BASE64, (match) => {
    const decoded = textIn(match);
    if (decoded === null) return match;
    const inner = new Set<string>();
    if (redactString(decoded, rules, layer + 1, inner) === decoded) return match;
    for (const name of inner) spoke.add(name);
    return mark([...inner][0] ?? "base64");
  });
}
