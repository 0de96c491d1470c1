// Redaction of what others send us to record. A payload that cannot be looked at is in no event: it goes into quarantine.
import type { Actor } from "../contract/events.ts";
import type { RedactionLevel, RedactionMark } from "../contract/redaction.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { FieldRules } from "../kit/field-rules.ts";
import type { FieldHands, FieldRule } from "../kit/field-rules.ts";
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { redactJson, rulesOf, RULESET, withoutTornSecrets } from "../kit/redaction.ts";
import type { Redacted } from "../kit/redaction.ts";
import type { RedactionRule } from "../kit/redaction-rules.ts";

export interface RedactedPayload<T> {
  readonly value: T | null;
  /** Null when nothing was touched. */
  readonly mark: RedactionMark | null;
  /** What could not be looked at, without what a rule takes out; absent where not even the rules could be followed. */
  readonly withheld?: T;
}

export type Keep = (payload: RedactedPayload<JsonObject>) => Promise<RedactedPayload<JsonObject>>;

export interface RedactorOptions {
  /** Rules for single fields, before the patterns. */
  readonly fields?: readonly FieldRule[];
  /** Keyed digest of what only its digest is kept of. */
  readonly hash?: (text: string) => string;
}

/** Names that an event has besides its data. */
export interface EventNames {
  readonly step?: string;
  readonly parent?: string;
  readonly call?: string;
  readonly actor?: Actor;
}

interface LookedAt extends EventNames {
  readonly type: string;
  readonly data: JsonObject;
  readonly said?: JsonObject;
}

/** Of the digest that stands for a name. */
const NAME_CHARS = 24;

export class Redactor {
  private readonly rules: readonly RedactionRule[];
  private readonly strict = rulesOf("personal");
  private readonly ruleset: string;
  private readonly fields: FieldRules;
  private readonly hash: (text: string) => string;

  constructor(level: RedactionLevel, { fields = [], hash = digestOf }: RedactorOptions = {}) {
    this.rules = rulesOf(level);
    this.ruleset = `${RULESET}/${level}`;
    this.fields = new FieldRules(fields);
    this.hash = hash;
  }

  /** Redacts a value; `at` names it in the data of an event of this type. */
  payload<T extends Json>(value: T, at: string, type = ""): RedactedPayload<T> {
    let seen: { readonly withheld?: T } = {};
    try {
      const ruled = this.fields.apply(type, value, at, {
        hash: (item) => this.hash(canonicalJson(item)),
        redact: (item) => redactJson(item, this.strict).value,
      });
      seen = { withheld: (ruled ? ruled.value : value) as T };
      const found = this.byPattern(ruled ? ruled.value : value, at, ruled?.raw ?? []);
      const touched = ruled?.touched ?? [];
      if (found.paths.length === 0 && touched.length === 0) return { value, mark: null };
      const mark = {
        status: "redacted" as const,
        ruleset: this.ruleset,
        rules: [...new Set([...touched.map((one) => `field:${one.action}`), ...found.rules])],
        paths: [...touched.map((one) => one.path), ...found.paths],
      };
      return { value: found.value as T, mark };
    } catch {
      return { value: null, mark: { status: "failed", ruleset: this.ruleset, rules: [], paths: [at] }, ...seen };
    }
  }

  /** True for a name that tells something, or that cannot be looked at. */
  private isTold(text: string): boolean {
    if (this.rules.length === 0) return false;
    try {
      return redactJson(text, this.rules).paths.length > 0;
    } catch {
      return true;
    }
  }

  /** What the patterns find, except below what stays as it is. */
  private byPattern(value: Json, at: string, raw: readonly string[]): Redacted<Json> {
    if (this.rules.length === 0) return { value, rules: [], paths: [] };
    const skip = (pointer: string) => raw.includes(`${at}${pointer}`);
    const found = redactJson(value, this.rules, raw.length > 0 ? skip : undefined);
    return { ...found, paths: found.paths.map((path) => `${at}${path}`) };
  }

  /**
   * What a name is recorded as: one that holds something becomes a keyed digest of itself, the same for the same name, so that
   * what belongs together still does.
   */
  name(text: string): string {
    return this.isTold(text) ? `redacted-${this.hash(text).replace("sha256:", "").slice(0, NAME_CHARS)}` : text;
  }

  /** Names of an event, and what they are recorded as. */
  names<T extends EventNames>(event: T): T {
    const { step, parent, call, actor } = event;
    return {
      ...event,
      ...(step === undefined ? {} : { step: this.name(step) }),
      ...(parent === undefined ? {} : { parent: this.name(parent) }),
      ...(call === undefined ? {} : { call: this.name(call) }),
      ...(actor === undefined ? {} : { actor: { ...actor, id: this.name(actor.id) } }),
    };
  }

  /** Redacts an event's data; its mark stands in it. `keep` puts away what could not be looked at. */
  async data(given: JsonObject, type: string, keep: Keep): Promise<JsonObject> {
    const data = type === "run.started" ? this.startedNames(given) : given;
    const { kept, open } = structureOf(data, type);
    const { value, mark } = await keep(this.payload(open, "", type));
    if (!mark) return data;
    const clean = withoutTornSecrets(isObject(value) ? value : {}, mark.paths);
    return { ...kept, ...clean, redaction: markJson(mark) };
  }

  /** Names in `run.started` that come from its producer. */
  private startedNames(data: JsonObject): JsonObject {
    const { correlation, target } = data;
    const named = (key: string, value: Json | undefined): JsonObject =>
      typeof value === "string" ? { [key]: this.name(value) } : {};
    return {
      ...data,
      ...named("correlation", correlation),
      ...(isObject(target) ? { target: { ...target, ...named("name", target["name"]) } } : {}),
    };
  }

  /** True when nothing of these would be touched; they are looked at together. */
  isClean(events: readonly LookedAt[]): boolean {
    const isRuled = ({ type, data }: { type: string; data: JsonObject }) =>
      (this.fields.apply(type, structureOf(data, type).open, "", LOOKING)?.touched.length ?? 0) > 0;
    if (events.some(isRuled)) return false;
    return (
      this.payload(
        events.map(({ data, said, step, parent, call, actor }): Json => [
          data,
          said ?? null,
          step ?? null,
          parent ?? null,
          call ?? null,
          actor?.id ?? null,
        ]),
        "",
      ).mark === null
    );
  }
}

/** Of `run.started` the fields that are its producer's words; the rest says whose the run is, and is ours. */
const STARTED: readonly string[] = ["input", "about", "labels", "instructions"];

function structureOf(data: JsonObject, type: string): { kept: JsonObject; open: JsonObject } {
  if (type !== "run.started") return { kept: {}, open: data };
  const fields = Object.entries(data);
  const part = (is: boolean) => Object.fromEntries(fields.filter(([key]) => STARTED.includes(key) === is));
  return { kept: part(false), open: part(true) };
}

/** For asking whether something would be done, without doing it. */
const LOOKING: FieldHands = { hash: () => "", redact: (value) => value };

export function markJson(mark: RedactionMark): JsonObject {
  const { paths, quarantined, rules, ruleset, status } = mark;
  const away = quarantined ? { quarantined: quarantined.map((one) => ({ ...one })) } : {};
  return { paths: [...paths], ...away, rules: [...rules], ruleset, status };
}

/** One mark for several parts of an event; a failure outweighs the rest. */
export function joined(marks: readonly (RedactionMark | null)[]): RedactionMark | null {
  const given = marks.filter((mark) => mark !== null);
  const [first] = given;
  if (!first) return null;
  const quarantined = given.flatMap((mark) => mark.quarantined ?? []);
  return {
    ...(quarantined.length > 0 ? { quarantined } : {}),
    status: given.some((mark) => mark.status === "failed") ? "failed" : "redacted",
    ruleset: first.ruleset,
    rules: [...new Set(given.flatMap((mark) => mark.rules))],
    paths: given.flatMap((mark) => mark.paths),
  };
}
