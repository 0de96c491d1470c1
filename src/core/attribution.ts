// Which change caused the other outcome: the earliest difference that something downstream may have come from. A difference in
// a model's request that only repeats an earlier one (another conversation) is no cause; where several inputs of one call
// differ at once, what reaches the model first counts: prompt, then documents, then results of tools, then settings.
import type { Attribution, Cause } from "../contract/diff.ts";
import { sameDecision } from "./alignment.ts";
import type { Line } from "./alignment.ts";
import { documentsOf } from "./ranking.ts";
import { placeOf } from "./trace.ts";
import type { Trace, TracedItem } from "./trace.ts";

interface Found {
  readonly cause: Cause;
  readonly line: Line;
  readonly paths: string[];
  readonly says: string;
}

const ORDER: readonly Cause[] = [
  "input",
  "prompt",
  "retrieval",
  "tool_result",
  "tool_arguments",
  "tool_definition",
  "policy",
  "budget",
  "model",
  "model_parameters",
  "model_answer",
];
const SUPPORTING_MAX = 10;

/** Attributes the difference of two runs. */
export function attribute(lines: readonly Line[], runs: { a: Trace; b: Trace }, noisy: boolean): Attribution {
  const found: Found[] = [];
  for (const line of lines) if (line.kind !== "equal") found.push(...causesOf(line, runs));
  const [first] = found;
  if (!first) return { primary: null, supporting: [], confidence: "none", because: ["only measurements differ"] };
  // Causes of the same line compete; what comes later follows from what came first, unless it is a change of its own.
  const together = found.filter((one) => one.line === first.line).sort(byOrder);
  const primary = together[0] ?? first;
  const rest = found.filter((one) => one !== primary && one.line !== primary.line && independent(one));
  const supporting = [...together.slice(1), ...rest].slice(0, SUPPORTING_MAX);
  const { confidence, because } = confidenceOf(primary, together.length, runs, noisy);
  return {
    primary: { cause: primary.cause, ...places(primary.line), paths: primary.paths, says: primary.says },
    supporting: supporting.map(({ cause, line, says }) => ({ cause, ...places(line), says })),
    confidence,
    because,
  };
}

const byOrder = (x: Found, y: Found) => ORDER.indexOf(x.cause) - ORDER.indexOf(y.cause);
const places = ({ a, b }: Line) => ({ a: a && placeOf(a), b: b && placeOf(b) });
/** Results that follow from other requests are consequences; settings are not. */
const independent = ({ cause }: Found) =>
  !["model_answer", "tool_result", "retrieval", "tool_arguments"].includes(cause);

function causesOf(line: Line, runs: { a: Trace; b: Trace }): Found[] {
  const { a, b } = line;
  if (!a || !b) return [onlyOn(line, (a ?? b) as TracedItem, (a ? runs.b : runs.a).state)];
  const found: Found[] = [];
  const add = (cause: Cause, paths: string[], says: string) => void found.push({ cause, line, paths, says });
  const changed = (key: string) => a.request[key] !== b.request[key];
  const where = a.step > 0 ? `step ${a.step}` : "the conversation";
  if (a.kind === "input" && a.outcome !== b.outcome) add("input", ["/content"], `another input in ${where}`);
  if (a.kind === "model") {
    if (changed("system")) add("prompt", ["/system"], `another system prompt reached the model at ${where}`);
    if (changed("tools"))
      add("tool_definition", ["/tools"], `other definitions of tools reached the model at ${where}`);
    if (changed("target")) add("model", ["/model"], `${a.target} was asked in one, ${b.target} in the other`);
    if (changed("params") || changed("limit")) add("model_parameters", ["/params"], `other parameters at ${where}`);
    if (found.length === 0 && a.outcome !== b.outcome && !changed("history"))
      add("model_answer", ["/answer"], `the model answered otherwise to the same request at ${where}`);
  }
  const denied = (a.status === "denied") !== (b.status === "denied");
  if (a.kind === "tool" && !denied) {
    // What came of a call follows from what was called, and with what.
    const retrieval = documentsOf(a.result) !== null && documentsOf(b.result) !== null;
    if (changed("target")) add("tool_definition", ["/tool"], `${a.target} was called in one, ${b.target} in the other`);
    else if (changed("args"))
      add(
        retrieval ? "retrieval" : "tool_arguments",
        ["/args"],
        `${a.name} was called with other arguments at ${where}`,
      );
    else if (a.outcome !== b.outcome)
      add(retrieval ? "retrieval" : "tool_result", ["/result"], `${a.name} gave another result at ${where}`);
  }
  if (denied || (!sameDecision(a, b) && found.length === 0)) {
    const budget = `${a.decision} ${b.decision}`.includes("budget_exceeded");
    add(budget ? "budget" : "policy", ["/decision"], `${a.name} was decided otherwise at ${where}`);
  }
  return found;
}

/** An item on one side only: one of the runs ended, or went another way, there. */
function onlyOn(line: Line, item: TracedItem, otherState: string): Found {
  const side = line.a ? "the first" : "the second";
  const cause: Cause = item.kind === "input" ? "input" : item.kind === "model" ? "model_answer" : "tool_arguments";
  // The run without it may have been stopped there.
  const decided = item.status === "denied" || item.decision.startsWith("deny") || otherState === "policy_blocked";
  const budget = item.decision.includes("budget_exceeded") || otherState === "budget_exceeded";
  return {
    cause: budget ? "budget" : decided ? "policy" : cause,
    line,
    paths: [""],
    says: `${item.kind === "input" ? "an input" : item.name} is in ${side} run only`,
  };
}

function confidenceOf(
  primary: Found,
  together: number,
  runs: { a: Trace; b: Trace },
  noisy: boolean,
): Pick<Attribution, "confidence" | "because"> {
  const because: string[] = [];
  let level = 2;
  if (primary.cause === "model_answer") {
    level = 1;
    because.push("nothing that was recorded differs before the model's answer");
  } else because.push("it is the first difference, and what follows comes after it");
  if (together > 1) {
    level -= 1;
    because.push(`${together} inputs of the same call differ`);
  }
  if (noisy) {
    level -= 1;
    because.push("other runs of the same input differ too");
  }
  if (JSON.stringify(runs.a.output) === JSON.stringify(runs.b.output) && runs.a.state === runs.b.state)
    because.push("the outcome is the same all the same");
  return { confidence: (["low", "medium", "high"] as const)[Math.max(0, level)] ?? "low", because };
}
