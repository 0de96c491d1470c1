// What works without a server: regression tests from bundles, put together from the parts that the server has.
import { AppError } from "../contract/errors.ts";
import { runPredicate } from "../core/predicate.ts";
import { parseUsd } from "../kit/money.ts";
import { draftPolicy } from "../orchestrator/manifests.ts";
import { junit, testBundle } from "../replay/bundle-test.ts";
import type { Assertions, TestedRun } from "../replay/bundle-test.ts";
import { BUILTINS } from "../worker/builtin-tool.ts";

export type { TestedRun } from "../replay/bundle-test.ts";

/** What is asserted of each run, as a user writes it. */
export interface AssertionTexts {
  /** Manifests of a draft policy. */
  readonly policy?: string;
  /** USD. */
  readonly max_cost?: string;
  /** CEL over the finished run. */
  readonly expect?: string;
}

function assertionsOf({ policy, max_cost, expect }: AssertionTexts): Assertions {
  const micro = max_cost === undefined ? undefined : parseUsd(max_cost);
  if (micro === null)
    throw new AppError("VALIDATION_ERROR", `--max-cost ${max_cost} is no USD amount with at most six decimals`);
  return {
    ...(policy === undefined ? {} : { policy: draftPolicy(policy) }),
    ...(micro === undefined ? {} : { cost_micro_usd_max: micro }),
    ...(expect === undefined ? {} : { predicate: { text: expect, holds: runPredicate(expect) } }),
  };
}

/** Tests bundles by their names; with the results as JUnit XML. */
export async function testBundles(
  bundles: readonly { file: string; text: string }[],
  texts: AssertionTexts,
): Promise<{ results: { file: string; runs: TestedRun[] }[]; junit: string }> {
  const assertions = assertionsOf(texts);
  const results: { file: string; runs: TestedRun[] }[] = [];
  for (const { file, text } of bundles) results.push({ file, runs: await testBundle(text, BUILTINS, assertions) });
  const suites = results.map(({ file, runs }) => junit(file, runs)).join("\n");
  return { results, junit: `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n${suites}\n</testsuites>\n` };
}
