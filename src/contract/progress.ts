// What a call says while it is being made: tokens of a model, notes of a tool. Passed on to whoever watches, never recorded:
// the outcome is what counts, and it is in the journal. May be lost, never comes twice.
import { Type, type Static } from "typebox";
import { LIMITS } from "./limits.ts";

export const Progress = Type.Object(
  {
    run_id: Type.String({ maxLength: 64 }),
    step: Type.Integer({ minimum: 1 }),
    attempt: Type.Integer({ minimum: 1 }),
    kind: Type.Union([Type.Literal("tokens"), Type.Literal("note")]),
    text: Type.String({
      maxLength: LIMITS.progress_chars_max,
      description: "Of tokens: what follows the text so far.",
    }),
  },
  { additionalProperties: false },
);
export type Progress = Static<typeof Progress>;

/** What a worker tells; the job that it is of says whose it is. */
export interface JobProgress extends Progress {
  readonly tenant_id: string;
}
