// Use case: what a draft policy would have decided over runs that are recorded.
import { messageOf } from "../contract/errors.ts";
import type { BacktestReport, StartBacktest } from "../contract/backtest.ts";
import type { RunSummary } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import { present } from "../kit/assert.ts";
import { backtestRun } from "../core/backtest.ts";
import type { Backtest } from "../core/backtest.ts";
import type { Policy } from "../core/policy.ts";
import type { PastReader } from "../journal/past.ts";
import type { ReplayCaller } from "./replays.ts";

export interface BacktestsOptions {
  readonly past: PastReader;
  /** Runs of the caller's tenant, newest first. */
  readonly list: (
    caller: ReplayCaller,
    filter: { target?: string; state?: string; limit: number },
  ) => Promise<readonly Pick<RunSummary, "run_id" | "kind">[]>;
}

export class Backtests {
  private readonly options: BacktestsOptions;

  constructor(options: BacktestsOptions) {
    this.options = options;
  }

  async run(caller: ReplayCaller, draft: Policy, request: Omit<StartBacktest, "policy">): Promise<BacktestReport> {
    const { run_ids, target, state, limit } = request;
    const filter = { ...(target === undefined ? {} : { target }), ...(state === undefined ? {} : { state }) };
    const runs = run_ids ?? (await this.latest(caller, { ...filter, limit: limit ?? 100 }));
    const flips: BacktestReport["flips"] = [];
    const skipped: BacktestReport["skipped"] = [];
    const sums = { decisions: 0, approvals_before: 0, approvals_after: 0, cost_denied_micro_usd: 0 };
    let withFlips = 0;
    for (const run_id of runs) {
      const found = await this.one(caller, draft, run_id).catch((error: unknown) => messageOf(error));
      if (typeof found === "string") {
        skipped.push({ run_id, reason: found });
        continue;
      }
      sums.decisions += found.decisions;
      sums.approvals_before += found.approvals_before;
      sums.approvals_after += found.approvals_after;
      sums.cost_denied_micro_usd += found.cost_denied_micro_usd;
      if (found.flips.length > 0) withFlips += 1;
      for (const flip of found.flips) flips.push({ run_id, ...flip, rules: [...flip.rules] });
    }
    return {
      policy_digest: draft.digest,
      runs: runs.length - skipped.length,
      runs_with_flips: withFlips,
      ...sums,
      flips: flips.slice(0, LIMITS.backtest_flips_max),
      truncated: flips.length > LIMITS.backtest_flips_max,
      skipped,
    };
  }

  /** Replays decided nothing of their own. */
  private async latest(caller: ReplayCaller, filter: Parameters<BacktestsOptions["list"]>[1]): Promise<string[]> {
    const runs = await this.options.list(caller, filter);
    return runs.filter((run) => run.kind !== "replay").map((run) => run.run_id);
  }

  private async one(caller: ReplayCaller, draft: Policy, run_id: string): Promise<Backtest> {
    const recorded = await this.options.past.read(caller.tenant_id, run_id);
    return backtestRun(recorded.begin(), recorded.events, draft, (event) =>
      present(recorded.governed(event)[0], "there is always some registry, if an empty one"),
    );
  }
}
