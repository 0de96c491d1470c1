// What a comparison of two runs says.
import { Type, type Static, type TSchema } from "typebox";
import { RunId } from "./ids.ts";

const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

export const DIFF_SECTIONS = [
  "input",
  "prompt",
  "retrieval",
  "tool",
  "model",
  "policy",
  "cost",
  "latency",
  "output",
] as const;
export type DiffSection = (typeof DIFF_SECTIONS)[number];

export const CAUSES = [
  "input",
  "prompt",
  "retrieval",
  "tool_result",
  "tool_arguments",
  "tool_definition",
  "model",
  "model_parameters",
  "model_answer",
  "policy",
  "budget",
] as const;
export type Cause = (typeof CAUSES)[number];

/** A place in a run. */
export const Place = Type.Object({
  run_id: RunId,
  step: Type.Integer({ description: "0 for an input." }),
  seq: Type.Integer(),
  kind: Type.String(),
  name: Type.String(),
  message: Type.Integer({ description: "Messages of the conversation before it." }),
});
export type Place = Static<typeof Place>;

export const Change = Type.Object({
  section: Type.String(),
  /** changed, inserted (only in b), removed (only in a), moved, repeated. */
  kind: Type.String(),
  a: nullable(Place),
  b: nullable(Place),
  /** JSON pointers that differ. */
  paths: Type.Array(Type.String()),
  before: Type.Unknown(),
  after: Type.Unknown(),
});
export type Change = Static<typeof Change>;

export const SectionView = Type.Object({
  section: Type.String(),
  /** `equal`, `different`, or `not_recorded` with the reason. */
  status: Type.String(),
  changes: Type.Integer(),
  note: nullable(Type.String()),
});

export const Attribution = Type.Object({
  primary: nullable(
    Type.Object({
      cause: Type.String(),
      a: nullable(Place),
      b: nullable(Place),
      paths: Type.Array(Type.String()),
      says: Type.String(),
    }),
  ),
  supporting: Type.Array(
    Type.Object({ cause: Type.String(), a: nullable(Place), b: nullable(Place), says: Type.String() }),
  ),
  confidence: Type.String({ description: "high, medium, low or none." }),
  /** What the confidence rests on. */
  because: Type.Array(Type.String()),
});
export type Attribution = Static<typeof Attribution>;

const Side = Type.Object({
  run_id: RunId,
  target: Type.String(),
  state: Type.String(),
  items: Type.Integer(),
  cost_micro_usd: Type.Integer(),
  duration_ms: Type.Integer(),
  tokens: Type.Integer(),
});

export const RunDiff = Type.Object(
  {
    a: Side,
    b: Side,
    equal: Type.Boolean(),
    /** The first item that is not the same on both sides. */
    first_divergence: nullable(Type.Object({ message: Type.Integer(), a: nullable(Place), b: nullable(Place) })),
    aligned: Type.Integer(),
    inserted: Type.Integer(),
    removed: Type.Integer(),
    changed: Type.Integer(),
    tools_only_in_a: Type.Record(Type.String(), Type.Integer()),
    tools_only_in_b: Type.Record(Type.String(), Type.Integer()),
    sections: Type.Array(SectionView),
    changes: Type.Array(Change),
    /** More changes than are listed. */
    truncated: Type.Boolean(),
    attribution: Attribution,
  },
  { $id: "RunDiff" },
);
export type RunDiff = Static<typeof RunDiff>;

export const CompareRuns = Type.Object({ a: RunId, b: RunId }, { additionalProperties: false });
