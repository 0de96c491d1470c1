// Redaction of what others send us to record. A payload that cannot be looked at is not kept: nothing is stored unseen.
import type { RedactionLevel, RedactionMark } from "../contract/redaction.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { redactJson, rulesOf, RULESET, withoutTornSecrets } from "../kit/redaction.ts";
import type { RedactionRule } from "../kit/redaction-rules.ts";

export interface RedactedPayload<T> {
  readonly value: T | null;
  /** Null when nothing was touched. */
  readonly mark: RedactionMark | null;
}

export class Redactor {
  private readonly rules: readonly RedactionRule[];
  private readonly ruleset: string;

  constructor(level: RedactionLevel) {
    this.rules = rulesOf(level);
    this.ruleset = `${RULESET}/${level}`;
  }

  /** Redacts every string of a value; `at` names it in the event's data. */
  payload<T extends Json>(value: T, at: string): RedactedPayload<T> {
    if (this.rules.length === 0) return { value, mark: null };
    try {
      const { value: clean, rules, paths } = redactJson(value, this.rules);
      if (paths.length === 0) return { value, mark: null };
      const mark = {
        status: "redacted" as const,
        ruleset: this.ruleset,
        rules,
        paths: paths.map((path) => `${at}${path}`),
      };
      return { value: clean as T, mark };
    } catch {
      return { value: null, mark: { status: "failed", ruleset: this.ruleset, rules: [], paths: [at] } };
    }
  }

  /** Redacts an event's data; its mark stands in it. */
  data(data: JsonObject): JsonObject {
    const { value, mark } = this.payload(data, "");
    if (!mark) return data;
    const clean = withoutTornSecrets(isObject(value) ? value : {}, mark.paths);
    return { ...clean, redaction: markJson(mark) };
  }
}

export function markJson(mark: RedactionMark): JsonObject {
  return { paths: [...mark.paths], rules: [...mark.rules], ruleset: mark.ruleset, status: mark.status };
}

/** One mark for several parts of an event; a failure outweighs the rest. */
export function joined(marks: readonly (RedactionMark | null)[]): RedactionMark | null {
  const given = marks.filter((mark) => mark !== null);
  const [first] = given;
  if (!first) return null;
  return {
    status: given.some((mark) => mark.status === "failed") ? "failed" : "redacted",
    ruleset: first.ruleset,
    rules: [...new Set(given.flatMap((mark) => mark.rules))],
    paths: given.flatMap((mark) => mark.paths),
  };
}
