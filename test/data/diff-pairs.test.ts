// Natural pairs of recorded runs: the first message that differs, and which tools were called on one side only, computed
// from the raw files by somebody else, must be what our diff says of the imported runs.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { importRecorded } from "../../src/capture/import.ts";
import type { RunDiff } from "../../src/contract/diff.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { diffRuns } from "../../src/core/diff.ts";
import { Interner, trace } from "../../src/core/trace.ts";
import { seams, TENANT } from "../support/engine.ts";

const RUNS = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs",
);
const present = existsSync(RUNS);
if (!present) console.warn(`SKIPPED: the recorded runs are not there (${RUNS}); set QUARTERDECK_SHARED_DATA`);

interface Pair {
  a: { file: string; key: string };
  b: { file: string; key: string };
  first_divergent_message: number | null;
  role_at_divergence: string | null;
  tool_calls_only_in_a: Record<string, number>;
  tool_calls_only_in_b: Record<string, number>;
  final_message_equal: boolean;
}

const caller = { tenant_id: TENANT, project: "default", principal: "ada" };
const imported = new Map<string, Awaited<ReturnType<typeof importRecorded>>>();

async function runOf({ file, key }: Pair["a"]) {
  const local = file.replace("/dev/", "/").replace("/heldout/", "/");
  let runs = imported.get(local);
  if (!runs) {
    const format = local.startsWith("tau-bench") ? "tau-bench" : "tau2";
    runs = await importRecorded({ format, text: readFileSync(path.join(RUNS, local), "utf8"), caller, seams });
    imported.set(local, runs);
  }
  const found = runs.find((run) => run.key === key);
  if (!found) throw new Error(`${local} has no run ${key}`);
  return found;
}

async function compare(pair: Pair): Promise<RunDiff> {
  const intern = new Interner();
  const side = async (given: Pair["a"]) => {
    const { rows, summary } = await runOf(given);
    const events = rows.flatMap((row) => decodeBody(row.body));
    const [started] = events;
    if (!started) throw new Error("no events");
    const { run_id } = summary;
    return { ...trace([{ run_id, started, events, program: null }], intern), run_id };
  };
  return diffRuns({ a: await side(pair.a), b: await side(pair.b) }, intern, { noisy: false });
}

describe.skipIf(!present)("natural pairs", () => {
  const file = path.join(RUNS, "diff-pairs/pairs.jsonl");
  const all = present
    ? readFileSync(file, "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Pair)
    : [];
  // Pairs over files that are not in the folder cannot be looked at.
  const pairs = all.filter((pair) => /^(tau-bench-airline|tau2-activegraph)\//.test(pair.a.file));

  test(`${pairs.length} pairs: first message that differs and delta of tools`, async () => {
    expect(pairs.length).toBeGreaterThan(40);
    const wrong: string[] = [];
    for (const pair of pairs) {
      const diff = await compare(pair);
      const message = diff.first_divergence?.message ?? null;
      const agree =
        message === pair.first_divergent_message &&
        JSON.stringify(sorted(diff.tools_only_in_a)) === JSON.stringify(sorted(pair.tool_calls_only_in_a)) &&
        JSON.stringify(sorted(diff.tools_only_in_b)) === JSON.stringify(sorted(pair.tool_calls_only_in_b));
      if (!agree) wrong.push(`${pair.a.key} / ${pair.b.key}: ${message} for ${pair.first_divergent_message}`);
    }
    if (wrong.length > 0) console.warn(wrong.join("\n"));
    expect(1 - wrong.length / pairs.length).toBeGreaterThanOrEqual(0.95);
  });

  test("a run and itself: nothing differs", async () => {
    for (const pair of pairs) {
      const diff = await compare({ ...pair, b: pair.a });
      expect(diff).toMatchObject({ equal: true, changes: [], inserted: 0, removed: 0 });
    }
  });
});

const sorted = (counts: Record<string, number>) => Object.entries(counts).toSorted(([x], [y]) => (x < y ? -1 : 1));
