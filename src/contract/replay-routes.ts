// Routes of replays and forks. Part of the route table (routes.ts).
import { Type } from "typebox";
import { BacktestReport, StartBacktest } from "./backtest.ts";
import { CompareRuns, RunDiff } from "./diff.ts";
import { COMMON_ERRORS } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { ReplaySession, StartFork, StartReplay } from "./replay.ts";
import type { Route } from "./routes.ts";

const IdParam = Type.Object({ id: Type.String({ maxLength: 64 }) }, { additionalProperties: false });
const START: readonly ErrorCode[] = [
  ...COMMON_ERRORS,
  "NOT_FOUND",
  "REPLAY_REFUSED",
  "IDEMPOTENCY_MISMATCH",
  "CONFLICT",
  "OVERLOADED",
  "SHUTTING_DOWN",
];

export const REPLAY_ROUTES = {
  startReplay: {
    method: "POST",
    path: "/replays",
    permission: "runs:replay",
    summary: "Replays a run from its start: exactly, from recorded outcomes, with given payloads, or live.",
    body: StartReplay,
    status: 201,
    response: ReplaySession,
    idempotent: true,
    errors: START,
  },
  getReplay: {
    method: "GET",
    path: "/replays/:id",
    permission: "runs:read",
    tool: "get_replay",
    summary: "A replay or fork as a session: its state, its reason, where each outcome came from.",
    params: IdParam,
    status: 200,
    response: ReplaySession,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  forkRun: {
    method: "POST",
    path: "/runs/:id/fork",
    permission: "runs:replay",
    summary: "Starts a run with this one's past up to a step, and something changed from there on.",
    params: IdParam,
    body: StartFork,
    status: 201,
    response: ReplaySession,
    idempotent: true,
    errors: START,
  },
  compareRuns: {
    method: "POST",
    path: "/diffs",
    permission: "runs:read",
    tool: "compare_runs",
    summary: "Compares two runs: what differs, section by section, and which difference came first.",
    body: CompareRuns,
    status: 200,
    response: RunDiff,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  backtestPolicy: {
    method: "POST",
    path: "/policies/backtest",
    permission: "runs:read",
    tool: "backtest_policy",
    summary: "What a draft policy would have decided over recorded runs: flips, approvals, cost.",
    body: StartBacktest,
    status: 200,
    response: BacktestReport,
    errors: [...COMMON_ERRORS, "MANIFEST_INVALID", "EXPRESSION_INVALID"],
  },
} as const satisfies Record<string, Route>;
