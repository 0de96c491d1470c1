// `test BUNDLE...`: replays exported runs from their files alone, as a regression test in CI: no server, no key, no network.
import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { testBundles } from "../server/offline.ts";
import type { TestedRun } from "../server/offline.ts";
import { readText } from "./apply.ts";
import { readBundleText } from "./sealed-file.ts";
import { globalsOf, show } from "./context.ts";
import { dim, green, print, red, safe } from "./output.ts";

interface TestOptions {
  policy?: string;
  maxCost?: string;
  expect?: string;
  junit?: string;
  passphraseFile?: string;
}

function runLines(file: string, run: TestedRun): void {
  const mark = run.failures.length === 0 ? green("ok    ") : red("FAILED");
  print(`${mark} ${run.run_id}  ${safe(run.target)}, ${run.events} events  ${dim(file)}`);
  for (const failure of run.failures) print(`       ${safe(failure)}`);
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
    .option("--passphrase-file <file>", "passphrase of encrypted files; else QUARTERDECK_PASSPHRASE")
    .action(async (files: string[], options: TestOptions, command: Command) => {
      const bundles = [];
      for (const file of files) bundles.push({ file, text: await readBundleText(file, options.passphraseFile) });
      const { results, junit } = await testBundles(bundles, {
        ...(options.policy === undefined ? {} : { policy: await readText(options.policy) }),
        ...(options.maxCost === undefined ? {} : { max_cost: options.maxCost }),
        ...(options.expect === undefined ? {} : { expect: options.expect }),
      });
      if (options.junit !== undefined) await writeFile(options.junit, junit);
      show(globalsOf(command), results, () => {
        for (const { file, runs } of results) for (const run of runs) runLines(file, run);
      });
      if (results.some(({ runs }) => runs.some((run) => run.failures.length > 0))) process.exitCode = 1;
    });
}
