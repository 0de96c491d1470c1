// What is taken out of payloads before they are recorded.
export { REDACTION_LEVELS } from "../kit/redaction.ts";
export type { RedactionLevel } from "../kit/redaction.ts";

/** A payload that could not be looked at, kept encrypted. */
export interface Quarantined {
  /** JSON pointer into the event's data. */
  readonly at: string;
  readonly digest: string;
  readonly bytes: number;
}

/** Stands with an event whose payload was touched. `failed`: the payload could not be looked at, and is not in the journal. */
export interface RedactionMark {
  readonly status: "redacted" | "failed";
  readonly ruleset: string;
  readonly rules: readonly string[];
  /** JSON pointers into the event's data. */
  readonly paths: readonly string[];
  /** Where what could not be looked at is. */
  readonly quarantined?: readonly Quarantined[];
}
