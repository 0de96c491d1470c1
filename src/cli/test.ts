// `test BUNDLE...`: replays exported runs from their files alone, as a regression test in CI: no server, no key, no network.
import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import { runPredicate } from "../core/predicate.ts";
import { parseUsd } from "../kit/money.ts";
import { draftPolicy } from "../orchestrator/manifests.ts";
import { junit, testBundle } from "../replay/bundle-test.ts";
import type { Assertions, TestedRun } from "../replay/bundle-test.ts";
import { BUILTINS } from "../worker/builtin-tool.ts";
import { readText } from "./apply.ts";
import { globalsOf, show } from "./context.ts";
import { dim, green, print, red, safe } from "./output.ts";

interface TestOptions {
  policy?: string;
  maxCost?: string;
  expect?: string;
  junit?: string;
}

async function assertionsOf(options: TestOptions): Promise<Assertions> {
  const micro = options.maxCost === undefined ? undefined : parseUsd(options.maxCost);
  if (micro === null)
    throw new AppError("VALIDATION_ERROR", `--max-cost ${options.maxCost} is no USD amount with at most six decimals`);
  return {
    ...(options.policy === undefined ? {} : { policy: draftPolicy(await readText(options.policy)) }),
    ...(micro === undefined ? {} : { cost_micro_usd_max: micro }),
    ...(options.expect === undefined
      ? {}
      : { predicate: { text: options.expect, holds: runPredicate(options.expect) } }),
  };
}

export function addTest(root: Command): void {
  root
    .command("test <bundle...>")
    .description("replay exported runs offline: the same decisions, and what is asserted of them")
    .option("--policy <file>", "a draft policy: what was allowed must still be allowed")
    .option("--max-cost <usd>", "most that a run may have cost")
    .option(
      "--expect <cel>",
      "a predicate over output, state, cost, tokens, steps and tools: 'output.contains(\"paid\")'",
    )
    .option("--junit <file>", "write the results as JUnit XML")
    .action(async (files: string[], options: TestOptions, command: Command) => {
      const globals = globalsOf(command);
      const assertions = await assertionsOf(options);
      const results: { file: string; runs: TestedRun[] }[] = [];
      for (const file of files)
        results.push({ file, runs: await testBundle(await readText(file), BUILTINS, assertions) });
      if (options.junit !== undefined) {
        const suites = results.map(({ file, runs }) => junit(file, runs)).join("\n");
        await writeFile(
          options.junit,
          `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n${suites}\n</testsuites>\n`,
        );
      }
      show(globals, results, () => {
        for (const { file, runs } of results) {
          for (const run of runs) {
            const ok = run.failures.length === 0;
            print(
              `${ok ? green("ok    ") : red("FAILED")} ${run.run_id}  ${safe(run.target)}, ${run.events} events  ${dim(file)}`,
            );
            for (const failure of run.failures) print(`       ${safe(failure)}`);
          }
        }
      });
      if (results.some(({ runs }) => runs.some((run) => run.failures.length > 0))) process.exitCode = 1;
    });
}
