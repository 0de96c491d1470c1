// Use case of comparing runs: reads both with their pasts, lets core compare them, and looks for siblings that show how much
// runs of the same input differ by themselves.
import { AppError } from "../contract/errors.ts";
import type { RunDiff } from "../contract/diff.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { JournalStore, RunSummary } from "../contract/journal.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Turn } from "../kit/turn.ts";
import { decodeBody, decodingRows } from "../core/chain.ts";
import { diffing } from "../core/diff.ts";
import type { Governance } from "../core/governance.ts";
import { Interner, tracing } from "../core/trace.ts";
import type { Program, Segment, Trace } from "../core/trace.ts";
import { readWholeRun } from "../journal/audit.ts";
import { hasPast, lineageOf } from "../journal/past.ts";
import type { ReplayCaller } from "./replays.ts";

const DEPTH_MAX = 32;
const SIBLINGS_MAX = 5;

export interface DiffsOptions {
  readonly store: JournalStore;
  readonly governance: Pick<Governance, "asOf">;
  readonly find: (caller: ReplayCaller, run_id: string) => Promise<RunSummary | null>;
  /** The latest runs of a target that have ended. */
  readonly siblings: (caller: ReplayCaller, target: string, limit: number) => Promise<readonly RunSummary[]>;
  readonly turn: Turn;
}

export class Diffs {
  private readonly options: DiffsOptions;

  constructor(options: DiffsOptions) {
    this.options = options;
  }

  /** Compares two runs of the caller's tenant. Throws NOT_FOUND. */
  async compare(caller: ReplayCaller, a_id: string, b_id: string): Promise<RunDiff> {
    const intern = new Interner();
    const a = await this.traced(caller, a_id, intern);
    const b = a_id === b_id ? a : await this.traced(caller, b_id, intern);
    const noisy = a_id !== b_id && (await this.noisy(caller, a_id, b_id));
    const sides = { a: { ...a, run_id: a_id }, b: { ...b, run_id: b_id } };
    return this.options.turn.pieces(diffing(sides, intern, { noisy }));
  }

  private async traced(caller: ReplayCaller, run_id: string, intern: Interner): Promise<Trace> {
    if (!(await this.options.find(caller, run_id)))
      throw new AppError("NOT_FOUND", `There is no run ${run_id}`, { details: { run_id } });
    const segments = await this.segments(caller.tenant_id, run_id, Infinity, 0);
    return this.options.turn.pieces(tracing(segments, intern));
  }

  /** The run's own events, after those of its source that are its past. */
  private async segments(tenant_id: string, run_id: string, to_seq: number, depth: number): Promise<Segment[]> {
    const rows = await readWholeRun(this.options.store, tenant_id, run_id);
    const decoded = (await this.options.turn.pieces(decodingRows(rows))).flat();
    const recorded = to_seq === Infinity ? decoded : decoded.filter((event) => event.seq <= to_seq);
    const [started] = recorded;
    if (!started || depth > DEPTH_MAX) throw new AppError("NOT_FOUND", `There is no run ${run_id}`);
    const lineage = lineageOf(started);
    const before = hasPast(lineage)
      ? await this.segments(tenant_id, lineage.source_run_id, lineage.source_seq, depth + 1)
      : [];
    const events = inLogicalOrder(recorded);
    return [...before, { run_id, started, events, program: this.program(tenant_id, started) }];
  }

  /** What the journal does not repeat: the text and settings that a version of an agent stands for. */
  private program(tenant_id: string, started: StoredEvent): Program | null {
    const target = (started.data["target"] ?? {}) as JsonObject;
    if (target["kind"] !== "agent" && target["kind"] !== "workflow") return null;
    const scope = { tenant_id, project: String(started.data["project"]), env: String(started.data["env"] ?? "dev") };
    const overrides = lineageOf(started)?.overrides;
    const [governed] = this.options.governance.asOf({ ...scope, overrides }, started.at);
    const spec = governed?.catalog.agent(String(target["name"]), Number(target["version"]));
    if (!governed || !spec) return { instructions: "", params: {}, tools: null };
    const tools = governed.catalog
      .toolsMatching(spec.tools, spec.capabilities)
      .map(({ name, digest }): Json => ({ digest, name }));
    return {
      instructions: overrides?.instructions ?? spec.instructions,
      params: { ...spec.params, ...overrides?.params },
      tools,
    };
  }

  /** Whether other runs of the same target and input came to different ends among themselves. */
  private async noisy(caller: ReplayCaller, a_id: string, b_id: string): Promise<boolean> {
    const a = await this.options.find(caller, a_id);
    const wanted = a && (await this.opening(caller.tenant_id, a_id));
    if (!a || !wanted) return false;
    const ends = new Set<string>();
    let seen = 0;
    for (const run of await this.options.siblings(caller, a.target, SIBLINGS_MAX * 4)) {
      const ours = run.run_id === a_id || run.run_id === b_id;
      if (ours || run.kind === "replay" || run.kind === "fork" || seen >= SIBLINGS_MAX) continue;
      if ((await this.opening(caller.tenant_id, run.run_id)) !== wanted) continue;
      seen += 1;
      ends.add(await this.ending(caller.tenant_id, run.run_id));
    }
    return ends.size > 1;
  }

  private async opening(tenant_id: string, run_id: string): Promise<string> {
    const [row] = await this.options.store.readRun(tenant_id, run_id, 1, 1);
    const started = row && decodeBody(row.body)[0];
    return canonicalJson([started?.data["target"] ?? null, started?.data["input"] ?? null]);
  }

  private async ending(tenant_id: string, run_id: string): Promise<string> {
    const rows = await readWholeRun(this.options.store, tenant_id, run_id);
    const last = rows.at(-1);
    const end = last && decodeBody(last.body).at(-1);
    return canonicalJson([end?.type ?? "", end?.data["output"] ?? null]);
  }
}

/** Spans are recorded as they come; what they say of their times is the order in which things happened. */
function inLogicalOrder(events: readonly StoredEvent[]): readonly StoredEvent[] {
  const [started, ...rest] = events;
  if (started?.data["fidelity"] !== "span") return events;
  return [started, ...rest.sort((a, b) => (a.occurred ?? a.at) - (b.occurred ?? b.at) || a.seq - b.seq)];
}
