// A run as a list of what went in and what came out: inputs, model calls, tool calls. Read from stored events in one pass and
// without folding, so runs of any origin (ours, captured, imported) and of any length can be compared.
// Values are interned: equal values of both runs have the same number, and comparing them costs nothing.
import type { Json, JsonObject } from "../kit/json.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { atOnce } from "../kit/turn.ts";
import type { Place } from "../contract/diff.ts";
import type { StoredEvent } from "../contract/events.ts";

/** Numbers for values; equal values have equal numbers. 0 is nothing. */
export class Interner {
  private readonly numbers = new Map<string, number>();
  private readonly texts: string[] = [""];

  of(value: Json | undefined): number {
    if (value === undefined) return 0;
    return this.numberOf(typeof value === "string" ? `s${value}` : `j${canonicalJson(value)}`);
  }

  private numberOf(text: string): number {
    let number = this.numbers.get(text);
    if (number === undefined) this.numbers.set(text, (number = this.texts.push(text) - 1));
    return number;
  }

  /** A number for a composite of numbers and short words. */
  key(text: string): number {
    return this.numberOf(`k${text}`);
  }

  valueOf(number: number | undefined): Json {
    const text = this.texts[number ?? 0] ?? "";
    if (text === "" || text.startsWith("k")) return null;
    return text.startsWith("s") ? text.slice(1) : (JSON.parse(text.slice(1)) as Json);
  }
}

export type ItemKind = "input" | "model" | "tool" | "wait";

export interface TracedItem {
  readonly kind: ItemKind;
  /** Name without version; empty for inputs. */
  readonly name: string;
  readonly target: string;
  /** Where in a workflow; empty in a conversation. */
  readonly path: string;
  readonly run_id: string;
  /** 0 for inputs. */
  readonly step: number;
  /** seq of the event that has the outcome (or the request, while there is none). */
  seq: number;
  /** Messages of the conversation before this one. */
  message: number;
  /** Interned parts of the request, by section. */
  readonly request: Record<string, number>;
  /** Interned outcome; 0 while there is none. */
  outcome: number;
  status: "open" | "completed" | "failed" | "denied";
  decision: string;
  determinism: string;
  cost_micro_usd: number;
  duration_ms: number;
  tokens: number;
  /** For showing: the arguments or settings, and what came of them. */
  readonly asked: Json;
  result: Json;
}

/** What an agent is, as far as its journal does not say it. */
export interface Program {
  readonly instructions: string;
  readonly params: JsonObject;
  /** Definitions that its model sees. */
  readonly tools: Json;
}

/** Events of one run of a lineage, with what it ran. */
export interface Segment {
  readonly run_id: string;
  readonly started: StoredEvent;
  readonly events: readonly StoredEvent[];
  /** How its program stands from here on; null for captured runs. */
  readonly program: Program | null;
}

export interface Trace {
  readonly items: TracedItem[];
  readonly state: string;
  readonly output: Json;
  readonly input: Json;
  readonly target: string;
}

type Data = Record<string, Json | undefined>;
const text = (data: Data, key: string): string => (typeof data[key] === "string" ? data[key] : "");
const num = (data: Data, key: string): number => (typeof data[key] === "number" ? data[key] : 0);
/** A payload, or what stands for it where it is an artifact: equal artifacts have equal digests. */
const payload = (data: Data, key: string): Json => data[key] ?? data[`${key}_ref`] ?? null;
/** The name before `@version`. */
function bareName(target: string): string {
  const at = target.lastIndexOf("@");
  return at > 0 ? target.slice(0, at) : target;
}

export function placeOf(item: TracedItem): Place {
  const { run_id, step, seq, kind, name, message } = item;
  return { run_id, step, seq, kind, name, message };
}

class Tracer {
  readonly items: TracedItem[] = [];
  readonly intern: Interner;
  private readonly paths = new Map<number, string>();
  state = "running";
  output: Json = null;
  private readonly open = new Map<number, TracedItem>();
  private readonly decisions = new Map<number, string>();
  private program: Program | null = null;
  private run_id = "";
  /** The conversation so far, as one number: equal for equal conversations. */
  private history = 0;
  private messages = 0;
  private sections: Record<string, number> = {};
  /** Results of the turn, by step: parallel ones come in any order, and enter the conversation in the order of the calls. */
  private results = new Map<number, TracedItem>();

  constructor(intern: Interner) {
    this.intern = intern;
  }

  begin(segment: Segment, inherited: boolean): void {
    const { program, run_id, started } = segment;
    const data: Data = started.data;
    this.run_id = run_id;
    this.program = program;
    const system = program ? program.instructions : (data["instructions"] ?? "");
    this.sections = {
      system: this.intern.of(system),
      tools: program ? this.intern.of(program.tools) : 0,
      params: program ? this.intern.of(program.params) : 0,
    };
    const lineage = (data["lineage"] ?? {}) as Data;
    const changed = ((lineage["overrides"] ?? {}) as Data)["input"];
    if (inherited && changed === undefined) return;
    if (inherited && lineage["step"] !== 1) return this.say({ seq: started.seq, content: changed ?? null });
    this.items.length = 0;
    this.history = 0;
    const input = changed ?? data["input"] ?? null;
    this.messages = system === "" ? 0 : 1;
    // The input of a workflow is said to nobody, but it reaches its steps through their arguments.
    if (input !== null) this.say({ seq: started.seq, content: input });
  }

  private say(input: { seq: number; content: Json }): void {
    this.enterResults();
    const outcome = this.intern.of(input.content);
    const item = this.item({ kind: "input", target: "", path: "", step: 0, seq: input.seq, asked: null }, {});
    item.outcome = outcome;
    item.result = input.content;
    item.status = "completed";
    this.remember("user", outcome);
  }

  private enterResults(): void {
    if (this.results.size === 0) return;
    for (const [, item] of [...this.results].sort(([a], [b]) => a - b)) {
      item.message = this.messages;
      this.remember(`tool ${item.name}`, item.outcome);
    }
    this.results = new Map();
  }

  private remember(role: string, content: number): void {
    this.history = this.intern.key(`${this.history} ${content} ${role}`);
    this.messages += 1;
  }

  private item(
    given: Pick<TracedItem, "kind" | "target" | "path" | "step" | "seq" | "asked">,
    request: Record<string, number>,
  ): TracedItem {
    // Spelt out: a spread makes objects that are slow to read, and there are hundreds of thousands.
    const { kind, target, path, step, seq, asked } = given;
    const item: TracedItem = {
      kind,
      target,
      path,
      step,
      seq,
      asked,
      name: bareName(target),
      run_id: this.run_id,
      message: this.messages,
      request,
      outcome: 0,
      status: "open",
      decision: this.decisions.get(given.step) ?? "",
      determinism: "",
      cost_micro_usd: 0,
      duration_ms: 0,
      tokens: 0,
      result: null,
    };
    this.items.push(item);
    return item;
  }

  take(event: StoredEvent): void {
    const data: Data = event.data;
    const n = event.step ?? 0;
    switch (event.type) {
      case "policy.decided": {
        const rules = Array.isArray(data["rules"]) ? data["rules"].join(",") : "";
        const effect = text(data, "decision");
        // Why something was allowed is said by its rules; a reason beside them tells how it came about.
        const reason = effect === "allow" ? "" : text(data, "reason");
        this.decisions.set(n, [effect, reason, rules].filter(Boolean).join(" "));
        const open = this.open.get(n);
        if (open) open.decision = this.decisions.get(n) ?? "";
        return;
      }
      case "tool.proposed":
      case "tool.requested":
        return this.toolCall(event, data);
      case "model.requested":
        return this.modelCall(event, data);
      case "model.completed":
        return this.modelAnswer(event, data);
      case "tool.completed":
        return this.toolResult(n, event, payload(data, "result"));
      case "step.resolved":
        if (data["resolution"] === "completed") this.toolResult(n, event, data["result"] ?? null);
        return;
      case "tool.denied":
        return this.close(n, event, "denied", text(data, "reason"));
      case "step.ended":
        return this.close(n, event, "failed", text(data, "code"));
      case "tool.failed":
      case "model.failed":
        // Of our own steps a retry or the end of the step follows.
        if (event.origin) return this.close(n, event, "failed", text(data, "message"));
        return this.cost(this.open.get(n), event);
      case "human.input":
        return this.say({ seq: event.seq, content: data["content"] ?? null });
      default:
        if (event.origin && !event.type.startsWith("run.")) return this.observed(event, data);
        if (event.type.startsWith("run.")) this.ended(event, data);
    }
  }

  /** What only runs have that others saw: retrievals, and steps that hold others. */
  private observed(event: StoredEvent, data: Data): void {
    const n = event.step ?? 0;
    switch (event.type) {
      case "retrieval.requested":
        return this.retrieval(event, data);
      case "retrieval.completed":
        if (!this.open.has(n)) this.retrieval(event, data);
        return this.toolResult(n, event, { documents: payload(data, "documents") });
      case "retrieval.failed":
      case "tool.cancelled":
      case "model.cancelled":
        return this.close(n, event, "failed", text(data, "message") || event.type);
      case "step.started":
      case "agent.started": {
        const above = this.paths.get(event.parent ?? 0) ?? "";
        this.paths.set(n, `${above === "" ? "" : `${above}/`}${text(data, "name")}`);
        return;
      }
      default:
        return;
    }
  }

  private retrieval(event: StoredEvent, data: Data): void {
    const asked = { filters: data["filters"] ?? null, query: payload(data, "query"), top_k: data["top_k"] ?? null };
    this.toolCall(event, { args: asked, tool: text(data, "retriever") || "retrieval" });
  }

  /** Where a call stands: its node in a workflow, or the steps that it is part of. */
  private pathOf(event: StoredEvent, data: Data): string {
    return typeof data["node"] === "number" ? `node/${data["node"]}` : (this.paths.get(event.parent ?? 0) ?? "");
  }

  private ended(event: StoredEvent, data: Data): void {
    const state = event.type.slice("run.".length);
    if (state === "started" || state === "stopping") return;
    if (state === "input") return this.say({ seq: event.seq, content: data["content"] ?? null });
    if (state === "output") {
      this.output = payload(data, "content");
      return;
    }
    this.state = state;
    this.enterResults();
    if (data["output"] !== undefined) this.output = data["output"];
  }

  private toolCall(event: StoredEvent, data: Data): void {
    const n = event.step ?? 0;
    // A retry, or a call that was proposed before it was requested.
    const known = this.open.get(n);
    if (known && known.kind === "tool") return;
    const path = this.pathOf(event, data);
    const args = data["args"] ?? data["args_ref"] ?? {};
    const target = text(data, "tool");
    const request = { args: this.intern.of(args), target: this.intern.of(target) };
    this.open.set(n, this.item({ kind: "tool", target, path, step: n, seq: event.seq, asked: args }, request));
  }

  private modelCall(event: StoredEvent, data: Data): void {
    const n = event.step ?? 0;
    if (this.open.has(n)) return;
    this.enterResults();
    const path = this.pathOf(event, data);
    const target = text(data, "model");
    const history = this.program || path === "" ? this.history : 0;
    const isWire =
      data["signature"] !== undefined || data["request"] !== undefined || data["request_ref"] !== undefined;
    const wire = isWire ? this.wireSections(data) : null;
    const request = wire ?? {
      ...this.sections,
      history,
      target: this.intern.of(target),
      limit: this.intern.of(num(data, "max_output_tokens")),
    };
    const asked = {
      max_output_tokens: num(data, "max_output_tokens"),
      model: target,
      params: this.program?.params ?? {},
    };
    this.open.set(n, this.item({ kind: "model", target, path, step: n, seq: event.seq, asked }, request));
  }

  /** A request as a foreign agent sent it. One that is an artifact is known by its signature alone. */
  private wireSections(data: Data): Record<string, number> {
    const target = this.intern.of(text(data, "model"));
    const sent = data["request"];
    if (typeof sent !== "object" || sent === null || Array.isArray(sent))
      return { target, history: this.intern.of(data["signature"] ?? data["request_ref"]) };
    const { model: _model, messages, input, system, instructions, tools, stream: _stream, ...params } = sent;
    const list = Array.isArray(messages) ? messages : [];
    const [first] = list as Data[];
    const leads = first?.["role"] === "system" || first?.["role"] === "developer";
    return {
      target,
      system: this.intern.of(system ?? instructions ?? (leads ? (first?.["content"] ?? "") : "")),
      tools: this.intern.of(tools),
      params: this.intern.of(params),
      history: this.intern.of([input ?? null, leads ? list.slice(1) : list]),
    };
  }

  private modelAnswer(event: StoredEvent, data: Data): void {
    const n = event.step ?? 0;
    const item = this.open.get(n);
    if (!item) return;
    const calls = Array.isArray(data["tool_calls"]) ? (data["tool_calls"] as JsonObject[]) : [];
    // Ids of calls are the provider's, and differ each time.
    const said = calls.map((call) => ({ arguments: call["arguments"] ?? "", name: call["name"] ?? "" }));
    const result: JsonObject = { content: payload(data, "content"), tool_calls: said };
    this.finish(item, event, "completed", result);
    item.message = this.messages;
    this.open.delete(n);
    this.remember("assistant", item.outcome);
  }

  private toolResult(n: number, event: StoredEvent, result: Json): void {
    const item = this.open.get(n);
    if (!item) return;
    const isError = event.data["is_error"] === true;
    this.finish(item, event, isError ? "failed" : "completed", result);
    this.open.delete(n);
    this.results.set(n, item);
  }

  private close(n: number, event: StoredEvent, status: "denied" | "failed", why: string): void {
    const item = this.open.get(n);
    if (!item) return;
    this.finish(item, event, status, why);
    this.open.delete(n);
    if (item.kind === "tool") this.results.set(n, item);
  }

  private finish(item: TracedItem, event: StoredEvent, status: TracedItem["status"], result: Json): void {
    item.status = status;
    item.result = result;
    item.outcome = this.intern.key(`${status === "completed" ? "ok" : status} ${this.intern.of(result)}`);
    item.seq = event.seq;
    const label = event.data["determinism"];
    if (typeof label === "object" && label !== null) item.determinism = text(label as Data, "mode");
    this.cost(item, event);
  }

  private cost(item: TracedItem | undefined, event: StoredEvent): void {
    if (!item) return;
    const data: Data = event.data;
    item.cost_micro_usd += num(data, "cost_micro_usd");
    item.duration_ms += num(data, "duration_ms");
    const usage = (data["usage"] ?? {}) as Data;
    item.tokens += num(usage, "input_tokens") + num(usage, "output_tokens");
  }
}

/** Traces a run with its past: the segments come in the order of its lineage, the run itself last. */
export function trace(segments: readonly Segment[], intern: Interner): Trace {
  return atOnce(tracing(segments, intern));
}

/** The same, event by event. */
export function* tracing(segments: readonly Segment[], intern: Interner): Iterator<void, Trace> {
  const tracer = new Tracer(intern);
  let input: Json = null;
  let target = "";
  for (const [index, segment] of segments.entries()) {
    tracer.begin(segment, index > 0);
    const started: Data = segment.started.data;
    if (index === 0 || started["input"] !== undefined) input = started["input"] ?? null;
    target = text((started["target"] ?? {}) as Data, "name");
    for (const event of segment.events) {
      tracer.take(event);
      yield;
    }
  }
  return { items: tracer.items, state: tracer.state, output: tracer.output, input, target };
}
