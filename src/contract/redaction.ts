// What is taken out of payloads before they are recorded.
export const REDACTION_LEVELS = ["off", "secrets", "personal"] as const;
/** `secrets`: keys, tokens, passwords. `personal`: cards, accounts, addresses and numbers of people too. */
export type RedactionLevel = (typeof REDACTION_LEVELS)[number];

/** Stands with an event whose payload was touched. `failed`: the payload could not be looked at, and is not kept. */
export interface RedactionMark {
  readonly status: "redacted" | "failed";
  readonly ruleset: string;
  readonly rules: readonly string[];
  /** JSON pointers into the event's data. */
  readonly paths: readonly string[];
}
