// A comparison of two runs in words.
import type { Change, Place, RunDiff } from "../contract/diff.ts";
import { formatUsd } from "../kit/money.ts";
import { bold, cyan, dim, green, red, safe, table, yellow } from "./output.ts";

const CHANGES_SHOWN = 30;
const VALUE_CHARS = 160;

const value = (given: unknown): string => {
  const text = safe(typeof given === "string" ? given : JSON.stringify(given ?? null)).replaceAll(/\s+/g, " ");
  return text.length > VALUE_CHARS ? `${text.slice(0, VALUE_CHARS - 1)}…` : text;
};
const at = (place: Place | null): string => {
  if (!place) return "-";
  return place.step > 0 ? `step ${place.step} ${place.name}` : `${place.kind} at message ${place.message}`;
};

function changeLines(change: Change): string[] {
  const where =
    change.a && change.b && at(change.a) !== at(change.b)
      ? `${at(change.a)} / ${at(change.b)}`
      : at(change.a ?? change.b);
  const paths = change.paths.length > 0 ? dim(` ${change.paths.join(" ")}`) : "";
  const lines = [`  ${yellow(change.section)} ${change.kind}  ${safe(where)}${paths}`];
  if (change.kind !== "inserted" && change.kind !== "repeated") lines.push(red(`    - ${value(change.before)}`));
  if (change.kind !== "removed") lines.push(green(`    + ${value(change.after)}`));
  return lines;
}

export function diffLines(diff: RunDiff): string {
  const side = (name: string, run: RunDiff["a"]) => [
    name,
    run.run_id,
    run.state,
    String(run.items),
    formatUsd(run.cost_micro_usd),
    String(run.tokens),
    `${run.duration_ms} ms`,
  ];
  const lines = [
    table(["", "run", "state", "items", "cost", "tokens", "duration"], [side("a", diff.a), side("b", diff.b)]),
  ];
  if (diff.equal) return [...lines, green("nothing differs")].join("\n");
  const { aligned, inserted, removed, changed, attribution } = diff;
  lines.push("", `${aligned} aligned, ${changed} of them changed; ${inserted} only in b, ${removed} only in a`);
  const of = (status: string) => diff.sections.filter((one) => one.status === status);
  lines.push(
    `differs:   ${of("different")
      .map(({ section }) => yellow(section))
      .join(", ")}`,
  );
  const equal = of("equal").map(({ section }) => section);
  if (equal.length > 0) lines.push(`equal:     ${equal.join(", ")}`);
  for (const { section, note } of of("not_recorded")) lines.push(dim(`${section}: ${note ?? "not recorded"}`));
  lines.push("");
  const { primary } = attribution;
  if (primary) {
    lines.push(
      `${bold("cause")}  ${cyan(primary.cause)}: ${safe(primary.says)} (confidence ${attribution.confidence})`,
    );
    lines.push(dim(`  evidence: ${at(primary.a)} / ${at(primary.b)}; ${attribution.because.join("; ")}`));
    for (const one of attribution.supporting.slice(0, 5)) lines.push(dim(`  also: ${one.cause}, ${safe(one.says)}`));
    lines.push("");
  }
  const shown = diff.changes.slice(0, CHANGES_SHOWN);
  lines.push(...shown.flatMap(changeLines));
  const left = diff.changes.length - shown.length;
  if (left > 0 || diff.truncated)
    lines.push(dim(`  … ${left}${diff.truncated ? " or more" : ""} further changes; --json has them`));
  return lines.join("\n");
}
