// A draft policy over recorded decisions.
import { Type, type Static } from "typebox";
import { LIMITS } from "./limits.ts";
import { MicroUsd } from "./money.ts";

export const StartBacktest = Type.Object(
  {
    policy: Type.String({ maxLength: LIMITS.manifest_bytes_max, description: "Manifests of kind Policy, as YAML." }),
    run_ids: Type.Optional(Type.Array(Type.String({ maxLength: 64 }), { maxItems: LIMITS.backtest_runs_max })),
    target: Type.Optional(Type.String({ maxLength: 200 })),
    state: Type.Optional(Type.String({ maxLength: 32 })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.backtest_runs_max })),
  },
  { additionalProperties: false },
);
export type StartBacktest = Static<typeof StartBacktest>;

export const BacktestReport = Type.Object(
  {
    policy_digest: Type.String(),
    runs: Type.Integer(),
    runs_with_flips: Type.Integer(),
    decisions: Type.Integer(),
    approvals_before: Type.Integer(),
    approvals_after: Type.Integer(),
    /** What was paid for calls that the draft would not have allowed. */
    cost_denied_micro_usd: MicroUsd,
    flips: Type.Array(
      Type.Object({
        run_id: Type.String(),
        step: Type.Integer(),
        seq: Type.Integer(),
        name: Type.String(),
        was: Type.String(),
        now: Type.String(),
        reason: Type.String(),
        rules: Type.Array(Type.String()),
        certain: Type.Boolean({ description: "False after the first flip of a run: it would have gone another way." }),
      }),
    ),
    truncated: Type.Boolean(),
    /** Runs that could not be read, and why. */
    skipped: Type.Array(Type.Object({ run_id: Type.String(), reason: Type.String() })),
  },
  { $id: "BacktestReport" },
);
export type BacktestReport = Static<typeof BacktestReport>;
