// Compares two traced runs: aligns their items, says what differs in each section, and which difference came first.
// diff(a, a) is empty.
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";
import { atOnce } from "../kit/turn.ts";
import type { Attribution, Change, DiffSection, RunDiff } from "../contract/diff.ts";
import { DIFF_SECTIONS } from "../contract/diff.ts";
import { alignRuns, sameDecision } from "./alignment.ts";
import type { Line } from "./alignment.ts";
import { attribute } from "./attribution.ts";
import { differingPaths } from "./past-calls.ts";
import { documentsOf, rankedChange } from "./ranking.ts";
import { placeOf } from "./trace.ts";
import type { Interner, Trace, TracedItem } from "./trace.ts";

const CHANGES_MAX = 200;
const SHOWN_CHARS = 2_000;

/** Compares two runs. `noisy`: runs of the same input are known to differ among themselves. */
export function diffRuns(...given: Parameters<typeof diffing>): RunDiff {
  return atOnce(diffing(...given));
}

/** The same, in pieces. */
export function* diffing(
  sides: { a: Trace & { run_id: string }; b: Trace & { run_id: string } },
  intern: Interner,
  given: { noisy: boolean },
): Generator<void, RunDiff> {
  const { a, b } = sides;
  const lines = yield* alignRuns(a, b, intern);
  const changes: Change[] = [];
  for (const line of lines) {
    if (line.kind === "equal") continue;
    changes.push(...changesOf(line, intern));
    yield;
  }
  const outputs = differingPaths(a.output, b.output);
  if (outputs.length > 0 || a.state !== b.state)
    changes.push({
      section: "output",
      kind: "changed",
      a: null,
      b: null,
      paths: outputs,
      before: shortened({ output: a.output, state: a.state }),
      after: shortened({ output: b.output, state: b.state }),
    });
  const first = lines.find((line) => line.kind !== "equal" && contentDiffers(line)) ?? null;
  const count = (kind: Line["kind"]) => lines.filter((line) => line.kind === kind).length;
  const none: Attribution = { primary: null, supporting: [], confidence: "none", because: ["nothing differs"] };
  return {
    a: sideOf(a),
    b: sideOf(b),
    equal: changes.length === 0,
    first_divergence: first && {
      message: Math.min(first.a?.message ?? Infinity, first.b?.message ?? Infinity),
      a: first.a && placeOf(first.a),
      b: first.b && placeOf(first.b),
    },
    aligned: count("equal") + count("changed"),
    inserted: count("inserted") + count("repeated"),
    removed: lines.filter((line) => line.kind === "removed").length - count("moved"),
    changed: count("changed"),
    ...toolDelta(a, b),
    sections: sectionsOf(changes, a, b),
    changes: changes.slice(0, CHANGES_MAX),
    truncated: changes.length > CHANGES_MAX,
    attribution: changes.length === 0 ? none : attribute(lines, { a, b }, given.noisy),
  };
}

/** Whether what was said or done differs; settings alone change no conversation. */
function contentDiffers({ a, b }: Line): boolean {
  return !a || !b || a.outcome !== b.outcome || a.request["args"] !== b.request["args"] || a.name !== b.name;
}

function sideOf(run: Trace & { run_id: string }): RunDiff["a"] {
  const sum = (key: "cost_micro_usd" | "duration_ms" | "tokens") => run.items.reduce((all, item) => all + item[key], 0);
  return {
    run_id: run.run_id,
    target: run.target,
    state: run.state,
    items: run.items.length,
    cost_micro_usd: sum("cost_micro_usd"),
    duration_ms: Math.round(sum("duration_ms") * 1_000) / 1_000,
    tokens: sum("tokens"),
  };
}

function toolDelta(a: Trace, b: Trace): Pick<RunDiff, "tools_only_in_a" | "tools_only_in_b"> {
  const count = (run: Trace) => {
    const names = new Map<string, number>();
    for (const item of run.items) if (item.kind === "tool") names.set(item.name, (names.get(item.name) ?? 0) + 1);
    return names;
  };
  const minus = (x: Map<string, number>, y: Map<string, number>) =>
    Object.fromEntries([...x].map(([name, n]) => [name, n - (y.get(name) ?? 0)] as const).filter(([, n]) => n > 0));
  const [inA, inB] = [count(a), count(b)];
  return { tools_only_in_a: minus(inA, inB), tools_only_in_b: minus(inB, inA) };
}

/** What differs in one line, section by section. */
function changesOf(line: Line, intern: Interner): Change[] {
  const { a, b, kind } = line;
  const item = (b ?? a) as TracedItem;
  const places = { a: a && placeOf(a), b: b && placeOf(b) };
  if (!a || !b) {
    const section = item.kind === "wait" ? "tool" : item.kind;
    const view = (one: TracedItem | null) => one && shortened({ asked: one.asked, result: one.result });
    return [{ section, kind, ...places, paths: [], before: view(a), after: view(b) }];
  }
  const changes: Change[] = [];
  const add = (section: DiffSection, paths: string[], before: Json, after: Json) =>
    void changes.push({ section, kind, ...places, paths, before: shortened(before), after: shortened(after) });
  const changed = (key: string) => a.request[key] !== b.request[key];
  if (a.kind === "model") {
    if (changed("system"))
      add("prompt", ["/system"], intern.valueOf(a.request["system"]), intern.valueOf(b.request["system"]));
    if (changed("tools"))
      add("tool", ["/definitions"], intern.valueOf(a.request["tools"]), intern.valueOf(b.request["tools"]));
    if (changed("target") || changed("params") || changed("limit"))
      add("model", differingPaths(a.asked, b.asked), a.asked, b.asked);
    if (a.outcome !== b.outcome)
      add(
        "model",
        differingPaths(a.result, b.result).map((path) => `/answer${path}`),
        a.result,
        b.result,
      );
  }
  if (a.kind === "tool") {
    if (changed("args") || changed("target")) add("tool", differingPaths(sent(a), sent(b)), sent(a), sent(b));
    if (a.outcome !== b.outcome) changes.push(resultChange(line, a, b));
  }
  if (a.kind === "input" && a.outcome !== b.outcome)
    add("input", differingPaths(a.result, b.result), a.result, b.result);
  if (!sameDecision(a, b) || (a.status === "denied") !== (b.status === "denied"))
    add("policy", ["/decision"], `${a.status}: ${a.decision}`, `${b.status}: ${b.decision}`);
  return changes;
}

const sent = (item: TracedItem): JsonObject => ({ args: item.asked, tool: item.target });

/** A tool's other result; documents are compared by their ranks. */
function resultChange({ kind }: Line, a: TracedItem, b: TracedItem): Change {
  const places = { a: placeOf(a), b: placeOf(b) };
  const [before, after] = [documentsOf(a.result), documentsOf(b.result)];
  if (before && after) {
    const delta = rankedChange(before, after);
    return {
      section: "retrieval",
      kind,
      ...places,
      paths: delta.paths,
      before: shortened(delta.before),
      after: shortened(delta.after),
    };
  }
  const paths = differingPaths(a.result, b.result).map((path) => `/result${path}`);
  return { section: "tool", kind, ...places, paths, before: shortened(a.result), after: shortened(b.result) };
}

function sectionsOf(changes: readonly Change[], a: Trace, b: Trace): RunDiff["sections"] {
  const [x, y] = [sideOf({ ...a, run_id: "" }), sideOf({ ...b, run_id: "" })];
  const items = [...a.items, ...b.items];
  const measured: Record<string, boolean> = {
    cost: x.cost_micro_usd !== y.cost_micro_usd || x.tokens !== y.tokens,
    latency: x.duration_ms !== y.duration_ms,
  };
  const missing: Record<string, string | null> = {
    retrieval: items.some((item) => documentsOf(item.result)) ? null : "neither run retrieved documents",
    cost: items.some((item) => item.tokens > 0 || item.cost_micro_usd > 0) ? null : "no usage was recorded",
    latency: items.some((item) => item.duration_ms > 0) ? null : "no durations were recorded",
    policy: items.some((item) => item.decision !== "") ? null : "no policy decided over these calls",
    prompt: items.some((item) => (item.request["system"] ?? 0) > 0) ? null : "the prompts were not recorded",
  };
  return DIFF_SECTIONS.map((section) => {
    const count = changes.filter((change) => change.section === section).length;
    const note = missing[section] ?? null;
    const differs = count > 0 || measured[section] === true;
    return {
      section,
      status: differs ? "different" : note ? "not_recorded" : "equal",
      changes: count,
      note: differs ? null : note,
    };
  });
}

function shortened(value: Json): Json {
  const whole = typeof value === "string" ? value : JSON.stringify(value);
  if (whole.length <= SHOWN_CHARS) return value;
  if (!isObject(value)) return `${whole.slice(0, SHOWN_CHARS)}…`;
  const share = Math.floor(SHOWN_CHARS / Math.max(1, Object.keys(value).length));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      const part = typeof item === "string" ? item : JSON.stringify(item);
      return [key, part.length <= share ? item : `${part.slice(0, share)}…`];
    }),
  );
}
