// What is known of a run's observed events: which numbers of which producer are on record, and which steps they opened. Events
// that others saw change nothing but this and the run's totals: nobody here decided them.
// Invariant: for each producer, every number below `next` is on record or in a declared gap.
import { assert } from "../kit/assert.ts";
import type { JsonObject } from "../kit/json.ts";
import type { EventDraft, Origin } from "../contract/events.ts";
import type { RunState } from "./run-state.ts";

export type StepFamily = "model" | "tool" | "retrieval" | "step" | "agent" | "other";

export interface ObservedStep {
  readonly n: number;
  /** `named`: somebody referred to it; nothing of it has come. */
  status: "named" | "proposed" | "open" | "closed";
  family: StepFamily;
  attempt: number;
  /** Model or tool, as its producer calls it. */
  target: string;
}

/** Consecutive numbers that are on record consecutively. */
type Segment = [no: number, seq: number, count: number];

export interface ProducerState {
  /** The number that comes next. */
  next: number;
  /** Numbers that were given up, from and to. */
  gaps: [from: number, to: number][];
  segments: Segment[];
}

export interface ObservedState {
  readonly producers: Map<string, ProducerState>;
  readonly steps: Map<string, ObservedStep>;
  readonly byNumber: Map<number, ObservedStep>;
  /** Ids that producers gave their events, where they did. */
  readonly ids: Set<string>;
  /** How the root of a trace ended; null while it has not. */
  root: "succeeded" | "failed" | null;
}

/** Names one domain of numbers: a producer, started once. */
export function producerKey(producer: string, epoch: number): string {
  return `${producer}/${epoch}`;
}

export function observedOf(run: RunState): ObservedState {
  run.observed ??= { producers: new Map(), steps: new Map(), byNumber: new Map(), ids: new Set(), root: null };
  return run.observed;
}

export function producerOf(observed: ObservedState, key: string): ProducerState {
  let producer = observed.producers.get(key);
  if (!producer) observed.producers.set(key, (producer = { next: 1, gaps: [], segments: [] }));
  return producer;
}

/** Where a number stands: it is next, it is yet to come, it fills a gap, or it is on record. */
export function placeOf(producer: ProducerState | undefined, no: number): "next" | "ahead" | "gap" | "recorded" {
  const next = producer?.next ?? 1;
  if (no === next) return "next";
  if (no > next) return "ahead";
  return producer?.gaps.some(([from, to]) => no >= from && no <= to) ? "gap" : "recorded";
}

/** The seq of a number that is on record. */
export function seqOf(producer: ProducerState, no: number): number | null {
  const segment = producer.segments.find(([from, , count]) => no >= from && no < from + count);
  return segment ? segment[1] + (no - segment[0]) : null;
}

/** True while numbers are missing that nobody sent after their gap was declared. */
export function isIncomplete(observed: ObservedState): boolean {
  return [...observed.producers.values()].some((producer) => producer.gaps.length > 0);
}

const OPENS: Readonly<Record<string, StepFamily>> = {
  "model.requested": "model",
  "tool.requested": "tool",
  "retrieval.requested": "retrieval",
  "step.started": "step",
  "agent.started": "agent",
};
const CLOSES: Readonly<Record<string, StepFamily>> = {
  "model.completed": "model",
  "model.failed": "model",
  "model.cancelled": "model",
  "tool.completed": "tool",
  "tool.failed": "tool",
  "tool.denied": "tool",
  "tool.cancelled": "tool",
  "retrieval.completed": "retrieval",
  "retrieval.failed": "retrieval",
  "step.ended": "step",
  "agent.ended": "agent",
};
/** Events in the middle of a call. */
const WITHIN: Readonly<Record<string, StepFamily>> = { "model.first_token": "model", "tool.progress": "tool" };

export type StepRole = "opens" | "closes" | "within" | "proposes" | "none";

/** What an event does to its step. */
export function roleOf(type: string): { role: StepRole; family: StepFamily } {
  const opens = OPENS[type];
  if (opens) return { role: "opens", family: opens };
  const closes = CLOSES[type];
  if (closes) return { role: "closes", family: closes };
  const within = WITHIN[type];
  if (within) return { role: "within", family: within };
  if (type === "tool.proposed") return { role: "proposes", family: "tool" };
  return { role: "none", family: "other" };
}

/** The id that its producer gave an event; one that held something to be redacted is none any more. */
export function givenId(said: JsonObject | undefined): string | null {
  const id = said?.["id"];
  return typeof id === "string" && said?.["redaction"] === undefined ? id : null;
}

/** Notes what a producer has sent. `run.seq` is the event's own. */
export function noteOrigin(run: RunState, origin: Origin): void {
  if (origin.from === undefined) return;
  const at = origin.from.lastIndexOf("/");
  const no = Number(origin.from.slice(at + 1));
  const observed = observedOf(run);
  const producer = producerOf(observed, origin.from.slice(0, at));
  const id = givenId(origin.said);
  if (id !== null) observed.ids.add(id);
  if (no === producer.next) producer.next += 1;
  else fillGap(producer, no);
  const last = producer.segments.at(-1);
  if (last && last[0] + last[2] === no && last[1] + last[2] === run.seq) last[2] += 1;
  else producer.segments.push([no, run.seq, 1]);
}

function fillGap(producer: ProducerState, no: number): void {
  const at = producer.gaps.findIndex(([from, to]) => no >= from && no <= to);
  assert(at >= 0, "a late event fills a gap", { no, next: producer.next });
  const [from, to] = producer.gaps[at] as [number, number];
  const rest: [number, number][] = [];
  if (from < no) rest.push([from, no - 1]);
  if (no < to) rest.push([no + 1, to]);
  producer.gaps.splice(at, 1, ...rest);
}

/** Numbers were given up. */
export function foldGap(run: RunState, data: JsonObject): void {
  const key = producerKey(String(data["producer"]), Number(data["epoch"]));
  const producer = producerOf(observedOf(run), key);
  const [from, to] = [Number(data["from"]), Number(data["to"])];
  assert(from === producer.next && to >= from, "a gap begins where a producer stands", { from, next: producer.next });
  const last = producer.gaps.at(-1);
  if (last && last[1] === from - 1) last[1] = to;
  else producer.gaps.push([from, to]);
  producer.next = to + 1;
}

function numbered(run: RunState, n: number, name: string | undefined): ObservedStep {
  const observed = observedOf(run);
  let step = observed.byNumber.get(n);
  if (!step) {
    step = { n, status: "named", family: "other", attempt: 1, target: "" };
    observed.byNumber.set(n, step);
    run.step_count = Math.max(run.step_count, n);
  }
  if (name !== undefined) observed.steps.set(name, step);
  return step;
}

/** Applies an observed event to its step and to the totals. */
export function foldObserved(run: RunState, event: EventDraft): void {
  const { origin, data } = event;
  if (event.parent !== undefined) numbered(run, event.parent, origin?.parent);
  if (event.type === "run.input") run.input ??= data["content"] ?? null;
  if (event.type === "run.output") run.output = data["content"] ?? null;
  if (event.step === undefined) return;
  const step = numbered(run, event.step, origin?.step);
  const { role, family } = roleOf(event.type);
  if (role === "none" || role === "within") {
    if (step.status === "named" && role === "none") step.status = "closed";
    return;
  }
  step.family = family;
  step.attempt = event.attempt ?? 1;
  step.status = role === "opens" ? "open" : role === "proposes" ? "proposed" : "closed";
  if (role === "closes") return settleObserved(run, data, event);
  step.target = String(data["model"] ?? data["tool"] ?? data["retriever"] ?? data["name"] ?? "");
  if (event.type === "model.requested") run.totals.model_calls += 1;
  if (event.type === "tool.requested") run.totals.tool_calls += 1;
}

function settleObserved(run: RunState, data: JsonObject, event: EventDraft): void {
  const count = (value: unknown): number => (typeof value === "number" ? value : 0);
  const usage = (data["usage"] ?? {}) as JsonObject;
  const [input, output] = [count(usage["input_tokens"]), count(usage["output_tokens"])];
  run.totals.spent_micro += count(data["cost_micro_usd"]);
  run.totals.input_tokens += input;
  run.totals.output_tokens += output;
  run.totals.spent_tokens += input + output;
  const isRoot = event.origin?.from === undefined && event.parent === undefined && data["root"] === true;
  if (isRoot)
    observedOf(run).root = event.type.endsWith(".failed") || data["is_error"] === true ? "failed" : "succeeded";
}
