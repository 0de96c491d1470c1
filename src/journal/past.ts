// Reads a recorded run back: its calls with their requests, and, for a run that begins with another one's past, the state
// at the fork point. The source is read, never changed; where its chain is not what the lineage says, nothing is read.
import { present } from "../kit/assert.ts";
import { AppError } from "../contract/errors.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { CommittedRow, JournalStore } from "../contract/journal.ts";
import type { Lineage } from "../contract/replay.ts";
import { sha256 } from "../kit/hash.ts";
import type { JsonObject } from "../kit/json.ts";
import { atOnce } from "../kit/turn.ts";
import type { Turn } from "../kit/turn.ts";
import { bodyLines, chainNext, chainStart, decodingRows } from "../core/chain.ts";
import { fold } from "../core/fold.ts";
import type { Governance, Governed } from "../core/governance.ts";
import { CallCollector, PastCalls } from "../core/past-calls.ts";
import type { PastCall, PastInput } from "../core/past-calls.ts";
import { emptyRun } from "../core/run-state.ts";
import type { RunState } from "../core/run-state.ts";
import { readWholeRun } from "./audit.ts";

/** A fork of a fork of a fork …: this many, and no more. */
const DEPTH_MAX = 32;

export interface RecordedOutcome {
  /** With those of its past, where it has one. */
  readonly calls: readonly PastCall[];
  readonly inputs: readonly PastInput[];
  /** As of its last event. */
  readonly run: RunState;
}

/** A run as it was recorded. */
export interface Recorded {
  readonly rows: readonly CommittedRow[];
  readonly appends: readonly (readonly StoredEvent[])[];
  readonly events: readonly StoredEvent[];
  /** Its calls and its last state; computed when first asked for. */
  readonly outcome: () => RecordedOutcome;
  readonly lineage: Lineage | null;
  /** The state before its first event. */
  readonly begin: () => RunState;
  /** What may have governed it at an event, the likeliest first. */
  readonly governed: (event: StoredEvent) => readonly Governed[];
}

export function lineageOf(started: { data: JsonObject } | undefined): Lineage | null {
  return (started?.data["lineage"] ?? null) as Lineage | null;
}

/** A replay in exact mode begins from nothing, like its source; all others go on from a point of it. */
export function hasPast(lineage: Lineage | null): lineage is Lineage {
  return lineage !== null && lineage.mode !== "exact";
}

/** The chain value after an event of a run (hex); at 0 the value that every chain begins with. */
export function chainAt(rows: readonly CommittedRow[], tenant_id: string, run_id: string, seq: number): string {
  let chain = chainStart(tenant_id, run_id);
  let at = 0;
  for (const row of rows) {
    if (row.last_seq < seq) {
      ({ chain, last_seq: at } = row);
      continue;
    }
    for (const line of bodyLines(row.body)) {
      if (at === seq) return chain.toString("hex");
      at += 1;
      chain = chainNext(chain, at, sha256(line));
    }
  }
  if (at !== seq) throw new AppError("NOT_FOUND", `Run ${run_id} has no event ${seq}`);
  return chain.toString("hex");
}

export class PastReader {
  private readonly options: {
    store: Pick<JournalStore, "readRun">;
    governance: Pick<Governance, "asOf">;
    /** Absent where nobody waits for anything else. */
    turn?: Turn;
  };

  constructor(options: PastReader["options"]) {
    this.options = options;
  }

  /** Reads a whole run. Throws NOT_FOUND. */
  async read(tenant_id: string, run_id: string): Promise<Recorded> {
    return this.readAt(tenant_id, run_id, 0);
  }

  /** The state that a run of this lineage begins with, and what it may take outcomes from. */
  async state(tenant_id: string, run_id: string, lineage: Lineage): Promise<RunState> {
    return (await this.beginning(tenant_id, run_id, lineage, 0))();
  }

  private async readAt(tenant_id: string, run_id: string, depth: number): Promise<Recorded> {
    if (depth > DEPTH_MAX) throw new AppError("REPLAY_REFUSED", `${run_id} has more than ${DEPTH_MAX} ancestors`);
    const rows = await readWholeRun(this.options.store, tenant_id, run_id);
    const { turn } = this.options;
    const appends = turn ? await turn.pieces(decodingRows(rows)) : atOnce(decodingRows(rows));
    const events = appends.flat();
    const [started] = events;
    if (!started) throw new AppError("NOT_FOUND", `There is no run ${run_id}`, { details: { run_id } });
    const lineage = lineageOf(started);
    const begin = await this.beginning(tenant_id, run_id, lineage, depth);
    const governed = this.governedAt(tenant_id, started);
    let known: RecordedOutcome | null = null;
    const outcome = () => (known ??= outcomeOf({ events, lineage, begin, governed }));
    return { rows, appends, events, lineage, begin, governed, outcome };
  }

  /** Makes the state before a run's first event, each time anew. */
  private async beginning(
    tenant_id: string,
    run_id: string,
    lineage: Lineage | null,
    depth: number,
  ): Promise<() => RunState> {
    if (!hasPast(lineage)) return () => emptyRun(tenant_id, run_id);
    const { source_run_id, source_seq, source_chain, step } = lineage;
    const source = await this.readAt(tenant_id, source_run_id, depth + 1);
    if (chainAt(source.rows, tenant_id, source_run_id, source_seq) !== source_chain) {
      throw new AppError(
        "REPLAY_REFUSED",
        `The journal of ${source_run_id} is not the one that ${run_id} was forked from: its chain differs at event ${source_seq}`,
      );
    }
    const above = await this.beginning(tenant_id, run_id, source.lineage, depth + 1);
    return () => {
      const run = above();
      for (const event of source.events) {
        if (event.seq > source_seq) break;
        fold(run, event, event.at, first(source.governed(event)).catalog);
      }
      run.seq = 0;
      run.past = new PastCalls(source_run_id, source.outcome(), { step, seq: source_seq });
      return run;
    };
  }

  /** The registry and policy when an event was recorded. Events of one append have one time. */
  private governedAt(tenant_id: string, started: StoredEvent): (event: StoredEvent) => readonly Governed[] {
    const project = String(started.data["project"] ?? "");
    const env = String(started.data["env"] ?? "dev");
    const scope = { tenant_id, project, env, overrides: lineageOf(started)?.overrides };
    let at = -1;
    let found: readonly Governed[] = [];
    return (event) => {
      if (event.at !== at) found = this.options.governance.asOf(scope, event.at);
      at = event.at;
      return found;
    };
  }
}

function outcomeOf({
  events,
  lineage,
  begin,
  governed,
}: Omit<Recorded, "rows" | "appends" | "outcome">): RecordedOutcome {
  const run = begin();
  const before = lineage ? (run.past?.until(lineage.source_seq) ?? []) : [];
  const collector = new CallCollector(run);
  for (const event of events) collector.take(event, first(governed(event)).catalog);
  return { calls: [...before, ...collector.done()], inputs: collector.inputs, run };
}

function first(governed: readonly Governed[]): Governed {
  return present(governed[0], "there is always some registry, if an empty one");
}
