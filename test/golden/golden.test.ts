// Journals of every release, folded for ever: the same bytes must give the same state on every build. Files are never
// edited; a release adds one: `quarterdeck export RUN -o test/golden/VERSION-desk.jsonl` of the demo's run.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { BUILTINS } from "../../src/worker/builtin-tool.ts";
import { buildCatalog, policySet } from "../../src/core/catalog.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { fold } from "../../src/core/fold.ts";
import { Policy } from "../../src/core/policy.ts";
import { redecide } from "../../src/core/redecide.ts";
import { emptyRun } from "../../src/core/run-state.ts";
import type { RegistryItem } from "../../src/contract/manifests.ts";
import type { RunSummary } from "../../src/contract/journal.ts";
import { readBundle } from "../../src/journal/bundle.ts";
import { summaryOf } from "../../src/orchestrator/rows.ts";

const files = readdirSync(import.meta.dirname).filter((name) => name.endsWith(".jsonl"));

test("there is a golden journal", () => expect(files.length).toBeGreaterThan(0));

test.each(files)("%s verifies, folds to the state it had, and decides again what it decided", (file) => {
  const bundle = readBundle(readFileSync(path.join(import.meta.dirname, file), "utf8"));
  const items = bundle.lines
    .filter((line) => line["type"] === "item")
    .map((line) => line["item"] as unknown as RegistryItem);
  const current = new Map(items.map((item) => [`${item.kind}/${item.name}`, item.version]));
  const catalog = buildCatalog({ items, current }, BUILTINS);
  const policy = new Policy(policySet({ items, current }));
  const summaries = bundle.lines
    .filter((line) => line["type"] === "run")
    .map((line) => line["run"] as unknown as RunSummary);
  expect(summaries.length).toBeGreaterThan(0);
  for (const summary of summaries) {
    const rows = bundle.rows.get(summary.run_id) ?? [];
    const run = emptyRun(summary.tenant_id, summary.run_id);
    for (const row of rows) for (const event of decodeBody(row.body)) fold(run, event, event.at, catalog);
    // Fields that came later are null, or false, for runs from before.
    expect(summaryOf(run)).toEqual({
      ...summary,
      external_id: summary.external_id ?? null,
      sealed: summary.sealed ?? false,
      source_run_id: summary.source_run_id ?? null,
    });
    expect([run.steps.size, run.totals.reserved_micro, run.seq]).toEqual([0, 0, rows.at(-1)?.last_seq]);
    const replayed = redecide({
      appends: rows.map((row) => decodeBody(row.body)),
      begin: () => emptyRun(summary.tenant_id, summary.run_id),
      governed: () => [{ catalog, policy }],
    });
    expect(replayed.mismatch).toBeNull();
    expect(replayed.drafts).toHaveLength(run.seq);
  }
});
