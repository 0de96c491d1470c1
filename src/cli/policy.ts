import type { Command } from "commander";
import type { BacktestReport } from "../contract/backtest.ts";
import { formatUsd } from "../kit/money.ts";
import { readText } from "./apply.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import { bold, dim, green, print, red, safe, table, yellow } from "./output.ts";

const PAINT: Record<string, (text: string) => string> = { allow: green, deny: red, require_approval: yellow };

export function addPolicy(root: Command): void {
  const policy = root.command("policy").description("explain decisions, try a draft");
  policy
    .command("explain <run> <step>")
    .description("why a step was allowed, denied or held")
    .action(async (run: string, step: string, _options, command: Command) => {
      const globals = globalsOf(command);
      show(globals, await clientOf(globals).explain(run, step), (found) => {
        const paint = PAINT[found.decision] ?? red;
        print(`${bold(`step ${found.step}`)} ${paint(found.decision)}${found.reason ? `: ${safe(found.reason)}` : ""}`);
        print(`  decided by ${found.rules.length > 0 ? found.rules.join(", ") : "no rule"}`);
        print(
          `  policy ${found.policy_digest.slice(0, 16)}${found.same_policy ? "" : yellow(" (the policy has changed since; below is today's)")}`,
        );
        print(`  call ${dim(safe(JSON.stringify(found.call)))}`);
        print(
          table(
            ["RULE", "EFFECT", "OUTCOME", "CONDITION"],
            found.trace.map((row) => [
              row.rule,
              row.effect,
              row.outcome + (row.error ? `: ${row.error}` : ""),
              row.condition ?? "-",
            ]),
          ),
        );
      });
    });
  addBacktest(policy);
}

interface BacktestOptions {
  run?: string[];
  target?: string;
  state?: string;
  limit?: number;
  failOnFlip?: boolean;
}

function addBacktest(policy: Command): void {
  policy
    .command("backtest <file>")
    .description("evaluate a draft policy over recorded decisions: what would have been decided otherwise")
    .option("--run <id...>", "these runs; else the latest ones")
    .option("--target <name>", "only runs of this agent or workflow")
    .option("--state <state>", "only runs in this state")
    .option("--limit <n>", "at most so many runs (100)", Number)
    .option("--fail-on-flip", "exit with 1 when a decision flips")
    .action(async (file: string, options: BacktestOptions, command: Command) => {
      const globals = globalsOf(command);
      const { run, failOnFlip, ...filter } = options;
      const body = { policy: await readText(file), ...filter, ...(run ? { run_ids: run } : {}) };
      const report = await clientOf(globals).json<BacktestReport>("/policies/backtest", { method: "POST", body });
      show(globals, report, backtestLines);
      if (failOnFlip && report.flips.length > 0) process.exitCode = 1;
    });
}

function backtestLines(report: BacktestReport): void {
  const { runs, decisions, approvals_before, approvals_after, flips } = report;
  print(`${bold(`${flips.length} flips`)} in ${report.runs_with_flips} of ${runs} runs, ${decisions} decisions`);
  print(
    `  approvals ${approvals_before} -> ${approvals_after}; paid for what would be denied: ${formatUsd(report.cost_denied_micro_usd)}`,
  );
  if (flips.length > 0) {
    const rows = flips.map((flip) => [
      flip.run_id,
      String(flip.step),
      flip.name,
      `${flip.was} -> ${flip.now}`,
      flip.reason,
      flip.certain ? "certain" : "conjecture",
    ]);
    print(table(["RUN", "STEP", "CALL", "DECISION", "REASON", ""], rows));
  }
  for (const { run_id, reason } of report.skipped) print(dim(`  ${run_id} was skipped: ${safe(reason)}`));
}
