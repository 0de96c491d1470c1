// What is taken out of payloads before they are recorded.
export { REDACTION_LEVELS } from "../kit/redaction.ts";
export type { RedactionLevel } from "../kit/redaction.ts";

/** Stands with an event whose payload was touched. `failed`: the payload could not be looked at, and is not kept. */
export interface RedactionMark {
  readonly status: "redacted" | "failed";
  readonly ruleset: string;
  readonly rules: readonly string[];
  /** JSON pointers into the event's data. */
  readonly paths: readonly string[];
}
