// Rules for single fields of what is recorded: by the type of an event and where in its data. What takes away beats what a
// type does by default, and that beats what leaves as it is; of several that take away the one that leaves least counts.
import type { Json } from "./json.ts";

/** From what leaves most to what leaves least. */
export const FIELD_ACTIONS = ["raw_allowed", "redact_required", "hash_only", "drop"] as const;
export type FieldAction = (typeof FIELD_ACTIONS)[number];

export interface FieldRule {
  /** Type of event, `*` for a part of it; every type when it is left out. */
  readonly type?: string | undefined;
  /** JSON pointer into the data; `*` is one name, `**` any number. Without one the rule is the default of its types. */
  readonly path?: string | undefined;
  readonly do: FieldAction;
}

/** What is done with values; given from outside, since it needs keys and patterns. */
export interface FieldHands {
  hash(value: Json): string;
  redact(value: Json): Json;
}

export interface Ruled {
  readonly value: Json;
  /** Where something was done, and what. */
  readonly touched: readonly { readonly path: string; readonly action: FieldAction }[];
  /** Pointers below which everything stays as it is. */
  readonly raw: readonly string[];
}

interface OfType {
  readonly denied: readonly { readonly pattern: RegExp; readonly rank: number }[];
  readonly standard: number | null;
  readonly allowed: readonly RegExp[];
}

const rankOf = (action: FieldAction): number => FIELD_ACTIONS.indexOf(action);
const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
const typePattern = (type: string): RegExp => new RegExp(`^${type.split("*").map(escaped).join(".*")}$`);

function pathPattern(path: string): RegExp {
  const parts = path.split("/").slice(1);
  const text = parts.map((part) => (part === "**" ? "(?:/[^/]*)*" : `/${part === "*" ? "[^/]*" : escaped(part)}`));
  return new RegExp(`^${text.join("")}$`);
}

export class FieldRules {
  private readonly rules: readonly FieldRule[];
  private readonly known = new Map<string, OfType | null>();

  constructor(rules: readonly FieldRule[]) {
    this.rules = rules;
  }

  /** Applies the rules to a value that stands at `at` in the data of an event; null when none is about its type. */
  apply(type: string, value: Json, at: string, hands: FieldHands): Ruled | null {
    const rules = this.rulesOf(type);
    if (!rules) return null;
    const touched: { path: string; action: FieldAction }[] = [];
    const raw: string[] = [];
    const walk = (item: Json, path: string): Json | undefined => {
      const action = actionAt(rules, path);
      if (action === "raw_allowed") raw.push(path);
      else if (action) {
        touched.push({ path, action });
        if (action === "drop") return undefined;
        return action === "hash_only" ? { hmac: hands.hash(item) } : hands.redact(item);
      }
      if (Array.isArray(item)) return item.map((one, i) => walk(one, `${path}/${i}`) ?? null);
      if (typeof item !== "object" || item === null) return item;
      const out: [key: string, kept: Json][] = [];
      for (const [key, one] of Object.entries(item)) {
        const kept = walk(one, `${path}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`);
        if (kept !== undefined) out.push([key, kept]);
      }
      // Defines own properties, also one that is called `__proto__`.
      return Object.fromEntries(out);
    };
    // A default of the type is for each of its fields, not for the data as a whole.
    return { value: walk(value, at) ?? null, touched, raw };
  }

  private rulesOf(type: string): OfType | null {
    let found = this.known.get(type);
    if (found === undefined) this.known.set(type, (found = this.compiled(type)));
    return found;
  }

  private compiled(type: string): OfType | null {
    const mine = this.rules.filter((rule) => rule.type === undefined || typePattern(rule.type).test(type));
    if (mine.length === 0) return null;
    const withPath = mine.flatMap((rule) =>
      rule.path === undefined ? [] : [{ pattern: pathPattern(rule.path), rank: rankOf(rule.do) }],
    );
    const defaults = mine.filter((rule) => rule.path === undefined).map((rule) => rankOf(rule.do));
    return {
      denied: withPath.filter((rule) => rule.rank > 0),
      standard: defaults.length > 0 ? Math.max(...defaults) : null,
      allowed: withPath.filter((rule) => rule.rank === 0).map((rule) => rule.pattern),
    };
  }
}

function actionAt({ denied, standard, allowed }: OfType, path: string): FieldAction | null {
  const ranks = denied.filter((rule) => rule.pattern.test(path)).map((rule) => rule.rank);
  if (ranks.length > 0) return FIELD_ACTIONS[Math.max(...ranks)] ?? null;
  const isField = path.lastIndexOf("/") === 0;
  if (standard !== null && isField) return FIELD_ACTIONS[standard] ?? null;
  return allowed.some((pattern) => pattern.test(path)) ? "raw_allowed" : null;
}
