// Takes exported spans and log records: a trace is a run, a span is one or two events of it. A trace is never known to be
// complete, so spans are recorded as they come, children before parents if need be; the run ends when its root has ended and
// nothing more came for a while. The same span sent again changes nothing.
import type { Json, JsonObject } from "../../kit/json.ts";
import { Serial } from "../../kit/serial.ts";
import type { Turn } from "../../kit/turn.ts";
import { NAME_PATTERN } from "../../contract/paths.ts";
import type { RunSummary } from "../../contract/journal.ts";
import { LIMITS } from "../../contract/limits.ts";
import type { Exported, ExportedLog, ExportedSpan, ExportResult } from "../../contract/otlp.ts";
import type { IngestFault, ObservedEvent } from "../../core/ingest.ts";
import type { RunState } from "../../core/run-state.ts";
import type { CaptureCaller } from "../captures.ts";
import type { IngestOwner } from "../ingest.ts";
import { appendable, settleEvents, sizeOf } from "../prepare.ts";
import type { PrepareOptions } from "../prepare.ts";
import { ToldContent } from "./told-content.ts";
import { readSpan } from "./dialects.ts";
import type { SpanCall } from "./dialects.ts";

export interface OtlpOptions extends PrepareOptions {
  readonly owner: () => IngestOwner;
  /** For each of these names, the newest run that its source calls so, where there is one. */
  readonly external: (caller: CaptureCaller, external_ids: readonly string[]) => Promise<readonly RunSummary[]>;
  /** An id for the run of a trace, placed by its name. */
  readonly newRunId: (external_id: string) => string;
  readonly turn: Turn;
}

interface Timed {
  readonly at_us: number;
  /** Of what happens at the same moment: what begins comes before what ends, the outer before the inner. */
  readonly rank: number;
  readonly event: ObservedEvent;
}

const TRACES_KEPT = 20_000;
const FAULTS_TOLD = 5;
const PRODUCER = "otel";
const EXTERNAL = "otel:";
const isName = new RegExp(NAME_PATTERN);

export class Otlp {
  private readonly options: OtlpOptions;
  private readonly serial = new Serial();
  /** Runs by trace, the least recently used first. */
  private readonly runs = new Map<string, string>();
  private readonly told = new ToldContent();
  /** Spans above calls of the MCP protocol that were recorded as tool calls, the oldest first. */
  private readonly calledBelow = new Set<string>();

  constructor(options: OtlpOptions) {
    this.options = options;
  }

  /** Records spans; returns once they are committed. */
  async traces(caller: CaptureCaller, exported: Exported<ExportedSpan>): Promise<ExportResult> {
    return this.each(caller, exported, (trace_id, spans) => this.trace(caller, trace_id, spans));
  }

  /** Records log records of traces, each with the step of its span. */
  async logs(caller: CaptureCaller, exported: Exported<ExportedLog>): Promise<ExportResult> {
    return this.each(caller, exported, async (trace_id, records) => {
      const { run_id, state } = await this.runOf(caller, trace_id);
      const [first] = records;
      const start = state || !first ? [] : [startedBy(caller, trace_id, first.resource, null)];
      const faults = await this.record(caller, run_id, [...start, ...records.map(logEvent)], state === null);
      this.told.keep(caller.tenant_id, records);
      return faults;
    });
  }

  /** Each trace by itself; one thing at a time for each. */
  private async each<T extends { readonly trace_id: string }>(
    caller: CaptureCaller,
    exported: Exported<T>,
    take: (trace_id: string, items: readonly T[]) => Promise<IngestFault[]>,
  ): Promise<ExportResult> {
    const { tenant_id } = caller;
    const byTrace = grouped(exported.items);
    await this.lookUp(caller, [...byTrace.keys()]);
    const taken = async (trace_id: string, items: readonly T[]): Promise<IngestFault[]> => {
      await this.options.turn.next();
      return this.serial.run(`${tenant_id}/${trace_id}`, () => take(trace_id, items));
    };
    const results = await Promise.all([...byTrace].map(([trace_id, items]) => taken(trace_id, items)));
    return resultOf(exported.faults, results.flat());
  }

  /** Finds out which traces have a run, all in one go. */
  private async lookUp(caller: CaptureCaller, trace_ids: readonly string[]): Promise<void> {
    const unknown = trace_ids.filter((trace_id) => !this.runs.has(`${caller.tenant_id}/${trace_id}`));
    if (unknown.length === 0) return;
    for (const run of await this.options.external(caller, unknown.map(externalId))) {
      const key = `${caller.tenant_id}/${run.external_id?.slice(EXTERNAL.length) ?? ""}`;
      if (!this.runs.has(key)) this.runs.set(key, run.run_id);
    }
  }

  private async trace(caller: CaptureCaller, trace_id: string, spans: readonly ExportedSpan[]): Promise<IngestFault[]> {
    const { run_id, state } = await this.runOf(caller, trace_id);
    const known = state?.observed?.steps;
    const fresh = new Map<string, ExportedSpan>();
    for (const span of spans) {
      const status = known?.get(span.span_id)?.status ?? "named";
      if (status === "named" && !fresh.has(span.span_id)) fresh.set(span.span_id, span);
    }
    if (fresh.size === 0) return [];
    const timed: Timed[] = [];
    const root = [...fresh.values()].find((span) => span.parent_span_id === "");
    let asked: Json = null;
    for (const bare of fresh.values()) {
      const span = this.filled(caller, bare);
      const call = this.read(caller, span, isTool(fresh.get(span.parent_span_id), known?.get(span.parent_span_id)));
      timed.push(...eventsOf(span, call, depthOf(span, fresh)));
      if (bare === root) asked = call.opens?.data["input"] ?? null;
      if (bare === root && call.closes.data["output"] !== undefined) timed.push(outputOf(span, call));
    }
    timed.sort((a, b) => a.at_us - b.at_us || a.rank - b.rank);
    const named = root ?? fresh.values().next().value;
    const start = state || !named ? [] : [startedBy(caller, trace_id, named.resource, root ?? null, asked)];
    return this.record(caller, run_id, [...start, ...timed.map((one) => one.event)], state === null);
  }

  /**
   * A tool's span and the protocol's below it are one call. In one export, or the outer first, it is the outer; where the inner
   * came before, it is the call already, and the outer is a step around it.
   */
  private read({ tenant_id }: CaptureCaller, span: ExportedSpan, inTool: boolean): SpanCall {
    const key = (span_id: string) => `${tenant_id}/${span.trace_id}/${span_id}`;
    const call = readSpan(span, { inTool, called: this.calledBelow.delete(key(span.span_id)) });
    if (
      call.opens?.type === "tool.requested" &&
      span.attributes["mcp.method.name"] !== undefined &&
      span.parent_span_id !== ""
    ) {
      this.calledBelow.add(key(span.parent_span_id));
      const [oldest] = this.calledBelow.size > TRACES_KEPT ? this.calledBelow : [];
      if (oldest !== undefined) this.calledBelow.delete(oldest);
    }
    return call;
  }

  /** With what log records said of it before it came. */
  private filled(caller: CaptureCaller, span: ExportedSpan): ExportedSpan {
    const told = this.told.take(caller.tenant_id, span);
    return told.length === 0 ? span : { ...span, events: [...span.events, ...told] };
  }

  private async runOf(
    caller: CaptureCaller,
    trace_id: string,
  ): Promise<{ run_id: string; state: Readonly<RunState> | null }> {
    const { tenant_id } = caller;
    const key = `${tenant_id}/${trace_id}`;
    const known = this.runs.get(key);
    const run_id = known ?? this.options.newRunId(externalId(trace_id));
    this.runs.delete(key);
    this.runs.set(key, run_id);
    const [oldest] = this.runs.size > TRACES_KEPT ? this.runs.keys() : [];
    if (oldest !== undefined) this.runs.delete(oldest);
    return { run_id, state: known === undefined ? null : await this.options.owner().observed(tenant_id, run_id) };
  }

  private async record(
    caller: CaptureCaller,
    run_id: string,
    events: readonly ObservedEvent[],
    isNew: boolean,
  ): Promise<IngestFault[]> {
    const { tenant_id } = caller;
    const prepared = await settleEvents(
      this.options,
      { tenant_id, run_id },
      events.map((event) => ({ no: null, event, size: sizeOf(event.data) })),
      "made",
    );
    // A span that was refused is one, though it is two events.
    const faults = new Map<string, IngestFault>();
    for (const part of appendable(prepared.map((one) => one.event))) {
      const refused = new Map<number, IngestFault>();
      const command = { type: "ingest" as const, producer: PRODUCER, epoch: 0, events: part, refused };
      await this.options.owner().ingest(tenant_id, run_id, command, isNew && begins(part));
      for (const [index, fault] of refused) faults.set(part[index]?.step ?? `record ${faults.size}`, fault);
    }
    return [...faults.values()];
  }
}

function grouped<T extends { readonly trace_id: string }>(items: readonly T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(item.trace_id);
    if (group) group.push(item);
    else groups.set(item.trace_id, [item]);
  }
  return groups;
}

/** What the run of a trace is known by. */
export const externalId = (trace_id: string): string => EXTERNAL + trace_id;
const begins = ([first]: readonly ObservedEvent[]): boolean => first?.type === "run.started";

function resultOf(unread: readonly string[], refused: readonly IngestFault[]): ExportResult {
  const said = [...new Set([...unread, ...refused.map((fault) => fault.message)])];
  const more = said.length > FAULTS_TOLD ? ` (and ${said.length - FAULTS_TOLD} more)` : "";
  return { rejected: unread.length + refused.length, message: said.slice(0, FAULTS_TOLD).join("; ") + more };
}

function isTool(parent: ExportedSpan | undefined, known: { family: string } | undefined): boolean {
  const said = parent?.attributes;
  return (
    known?.family === "tool" ||
    said?.["gen_ai.operation.name"] === "execute_tool" ||
    said?.["openinference.span.kind"] === "TOOL"
  );
}

/** How many of the spans at hand are above a span. */
function depthOf(span: ExportedSpan, spans: ReadonlyMap<string, ExportedSpan>): number {
  let depth = 0;
  for (let at = spans.get(span.parent_span_id); at && depth < spans.size; at = spans.get(at.parent_span_id)) depth += 1;
  return depth;
}

function eventsOf(span: ExportedSpan, { opens, closes }: SpanCall, depth: number): Timed[] {
  const { span_id: step, parent_span_id: parent, start_us, end_us } = span;
  const eventOf = ({ type, data }: SpanCall["closes"], occurred: number): ObservedEvent =>
    parent === "" ? { no: null, type, data, step, occurred } : { no: null, type, data, step, parent, occurred };
  const end: Timed = { at_us: end_us, rank: LIMITS.steps_per_run_max * 2 - depth, event: eventOf(closes, end_us) };
  return opens ? [{ at_us: start_us, rank: depth, event: eventOf(opens, start_us) }, end] : [end];
}

function outputOf(span: ExportedSpan, { closes }: SpanCall): Timed {
  const data: JsonObject = { content: closes.data["output"] ?? null };
  const event: ObservedEvent = { no: null, type: "run.output", data, occurred: span.end_us };
  return { at_us: span.end_us, rank: LIMITS.steps_per_run_max * 2 + 1, event };
}

/** A record of a span's own content, where its exporter sends that apart; it stands with the span's step. */
function logEvent(record: ExportedLog): ObservedEvent {
  const { name, severity, body, attributes, scope, span_id } = record;
  const data: JsonObject = { attributes: { ...attributes }, body, name, scope, severity };
  return {
    no: null,
    type: "wire.message",
    data,
    ...(span_id === "" ? {} : { parent: span_id }),
    ...(record.time_us > 0 ? { occurred: record.time_us } : {}),
  };
}

/** `root`: the span that everything is below, where it is at hand. */
function startedBy(
  caller: CaptureCaller,
  trace_id: string,
  resource: Readonly<Record<string, Json>>,
  root: ExportedSpan | null,
  input: Json = null,
): ObservedEvent {
  const said = root?.attributes ?? {};
  const text = (...values: (Json | undefined)[]): string => {
    const found = values.find((value) => typeof value === "string" && value !== "");
    return typeof found === "string" ? found : "";
  };
  const agent = text(
    said["gen_ai.agent.name"],
    said["agent.name"],
    said["langfuse.trace.name"],
    resource["service.name"],
    root?.name,
  );
  const env = text(resource["deployment.environment.name"], resource["deployment.environment"]);
  const conversation = text(said["langfuse.session.id"], said["session.id"], said["gen_ai.conversation.id"]);
  const user = text(said["user.id"], said["enduser.id"]);
  const labels: JsonObject = {
    ...(conversation === "" ? {} : { session: conversation.slice(0, 512) }),
    ...(user === "" ? {} : { user: user.slice(0, 512) }),
  };
  const data: JsonObject = {
    about: { resource: { ...resource }, trace_id },
    ...(conversation === "" ? {} : { correlation: conversation.slice(0, 128) }),
    env: isName.test(env) ? env : "dev",
    external_id: externalId(trace_id),
    fidelity: "span",
    input,
    kind: "captured",
    ...(Object.keys(labels).length > 0 ? { labels } : {}),
    project: caller.project,
    requester: caller.principal,
    target: { kind: "captured", name: nameOf(agent), version: 1 },
  };
  return { no: null, type: "run.started", data, ...(root ? { occurred: root.start_us } : {}) };
}

/** A name that can stand in paths and filters. */
function nameOf(text: string): string {
  const name = text
    .replaceAll(/[^a-zA-Z0-9._-]+/g, "-")
    .replace(/^[^a-zA-Z0-9]+/, "")
    .slice(0, 128);
  return name === "" ? "otel" : name;
}
