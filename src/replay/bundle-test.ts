// Regression tests from bundles: each run of an export file is replayed exactly from the file alone, with no server, no key and
// no network, and what is asserted of it is checked.
import type { StoredEvent } from "../contract/events.ts";
import type { CommittedRow } from "../contract/journal.ts";
import type { RegistryItem } from "../contract/manifests.ts";
import type { Json } from "../kit/json.ts";
import { backtestRun } from "../core/backtest.ts";
import type { BuiltinTable } from "../core/catalog.ts";
import type { Policy } from "../core/policy.ts";
import type { FinishedRun } from "../core/predicate.ts";
import { redecide } from "../core/redecide.ts";
import { RegistryHistory } from "../core/registry-history.ts";
import type { AliasMove, AliasState } from "../core/registry-history.ts";
import { readBundle } from "../journal/bundle.ts";
import type { Bundle } from "../journal/bundle.ts";
import { PastReader } from "../journal/past.ts";
import type { Recorded } from "../journal/past.ts";

export interface Assertions {
  /** A draft policy: what was allowed must be allowed by it too. */
  readonly policy?: Policy;
  readonly cost_micro_usd_max?: number;
  readonly predicate?: { readonly text: string; readonly holds: (run: FinishedRun) => boolean };
}

export interface TestedRun {
  readonly run_id: string;
  readonly target: string;
  readonly events: number;
  /** What is wrong, in words; empty when all holds. */
  readonly failures: readonly string[];
}

const MICRO = 1_000_000;

/** Reads a bundle and tests each of its runs. Throws IMPORT_INVALID when the file itself is not whole. */
export async function testBundle(text: string, builtins: BuiltinTable, assertions: Assertions): Promise<TestedRun[]> {
  const bundle = readBundle(text);
  const past = pastOf(bundle, builtins);
  const tenant_id = String(bundle.header["tenant_id"]);
  const tested: TestedRun[] = [];
  for (const run_id of bundle.rows.keys()) {
    const recorded = await past.read(tenant_id, run_id);
    const failures = [...replayFailures(recorded), ...assertionFailures(recorded, assertions)];
    tested.push({ run_id, target: recorded.outcome().run.target, events: recorded.events.length, failures });
  }
  return tested;
}

function pastOf(bundle: Bundle, builtins: BuiltinTable): PastReader {
  const of = <T>(type: string): T[] =>
    bundle.lines.filter((line) => line["type"] === type).map((line) => line[type] as unknown as T);
  const items = of<RegistryItem>("item");
  const aliases = of<AliasState>("alias");
  const moves = of<AliasMove>("move");
  // A file from before moves were kept says only where aliases stood in the end.
  const since = moves.length > 0 ? moves : aliases.map((alias) => ({ ...alias, at_us: 0 }));
  const history = new RegistryHistory({ items, aliases, moves: since, builtins });
  const readRun = async (_tenant: string | null, run_id: string, from_seq: number): Promise<CommittedRow[]> =>
    (bundle.rows.get(run_id) ?? [])
      .filter((row) => row.first_seq >= from_seq)
      .map((row) => ({ ...row, group: 0, offset: 0, at_us: 0 }));
  return new PastReader({
    store: { readRun },
    governance: { asOf: ({ env, overrides }, at_us) => history.at(env, at_us, overrides) },
  });
}

function replayFailures(recorded: Recorded): string[] {
  // Without a program there is nothing to decide again; its chain was verified when the file was read.
  if (!recorded.outcome().run.program) return [];
  const { mismatch } = redecide(recorded);
  return mismatch ? [`event ${mismatch.seq}, step ${mismatch.step}: ${mismatch.message}`] : [];
}

function assertionFailures(recorded: Recorded, assertions: Assertions): string[] {
  const failures: string[] = [];
  const { policy, cost_micro_usd_max, predicate } = assertions;
  const cost = recorded.outcome().run.totals.spent_micro;
  if (cost_micro_usd_max !== undefined && cost > cost_micro_usd_max)
    failures.push(`it cost ${cost / MICRO} USD, more than ${cost_micro_usd_max / MICRO}`);
  if (policy) {
    const first = (event: StoredEvent) => {
      const [governed] = recorded.governed(event);
      if (!governed) throw new Error("there is always some registry");
      return governed;
    };
    for (const flip of backtestRun(recorded.begin(), recorded.events, policy, first).flips)
      if (flip.was === "allow" && flip.certain)
        failures.push(`step ${flip.step}: ${flip.name} was allowed and would be ${flip.now} (${flip.reason})`);
  }
  if (predicate && !predicate.holds(finished(recorded))) failures.push(`not true: ${predicate.text}`);
  return failures;
}

function finished(recorded: Recorded): FinishedRun {
  const { events } = recorded;
  const { run } = recorded.outcome();
  const tools = events.flatMap((event) =>
    event.type === "tool.requested" ? [String(event.data["tool"]).replace(/@\d+$/, "")] : [],
  );
  const { spent_micro, spent_tokens } = run.totals;
  const output: Json = run.output;
  return { output, state: run.state, cost: spent_micro / MICRO, tokens: spent_tokens, steps: run.step_count, tools };
}

/** JUnit XML, as CI systems read it. */
export function junit(file: string, runs: readonly TestedRun[]): string {
  const escape = (text: string) =>
    text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
  const cases = runs.map(({ run_id, target, failures }) => {
    const open = `  <testcase classname="${escape(target)}" name="${escape(run_id)}"`;
    if (failures.length === 0) return `${open}/>`;
    return `${open}>\n    <failure message="${escape(failures[0] ?? "")}">${escape(failures.join("\n"))}</failure>\n  </testcase>`;
  });
  const failed = runs.filter((run) => run.failures.length > 0).length;
  return `<testsuite name="${escape(file)}" tests="${runs.length}" failures="${failed}">\n${cases.join("\n")}\n</testsuite>`;
}
