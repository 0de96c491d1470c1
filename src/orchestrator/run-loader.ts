// Reads open runs back from the journal, as their engine keeps them. The same fold as when they were decided.
import { present } from "../kit/assert.ts";
import { decodeId } from "../kit/ids.ts";
import type { Catalog } from "../contract/catalog.ts";
import type { EventDraft } from "../contract/events.ts";
import type { AppendRow, JournalStore } from "../contract/journal.ts";
import type { Lineage } from "../contract/replay.ts";
import { chainStart, decodeBody } from "../core/chain.ts";
import type { Command } from "../core/decide.ts";
import { fold } from "../core/fold.ts";
import type { Governance } from "../core/governance.ts";
import { emptyRun } from "../core/run-state.ts";
import type { RunState } from "../core/run-state.ts";
import { hasPast, lineageOf } from "../journal/past.ts";
import type { Actor } from "./engine-options.ts";
import { openArgs } from "./opened-args.ts";
import type { OpenedArgsOptions } from "./opened-args.ts";
import { approvalRows, summaryOf } from "./rows.ts";

const RECOVERY_PAGE = 500;
const RECOVERY_ROWS = 10_000;
const ROWS_PAGE = 1_000;

export interface RunLoaderOptions extends OpenedArgsOptions {
  readonly store: JournalStore;
  readonly governance: Pick<Governance, "of">;
  /** The state that a replay or fork begins with. */
  readonly past?: ((tenant_id: string, run_id: string, lineage: Lineage) => Promise<RunState>) | undefined;
}

export class RunLoader {
  private readonly options: RunLoaderOptions;

  constructor(options: RunLoaderOptions) {
    this.options = options;
  }

  /** An actor for a run that begins; `run` is its past, where it has one. */
  fresh(tenant_id: string, run_id: string, run = emptyRun(tenant_id, run_id)): Actor {
    return {
      run,
      run_bytes: present(decodeId("run", run_id), "a run id is well formed"),
      chain: chainStart(tenant_id, run_id),
      queue: [],
      inFlight: false,
      approvals: new Map(),
      timer: null,
      due_us: 0,
      summary: null,
    };
  }

  /** An actor for a run that begins, with its past as it is read. */
  async begun(tenant_id: string, run_id: string, lineage: Lineage | undefined): Promise<Actor> {
    if (!lineage || !hasPast(lineage)) return this.fresh(tenant_id, run_id);
    const past = present(this.options.past, "whoever opens replays can read their past");
    return this.fresh(tenant_id, run_id, await past(tenant_id, run_id, lineage));
  }

  /** Reads a run. */
  async load(run_id: string): Promise<Actor> {
    let actor: Actor | null = null;
    for (let from = 1; ;) {
      const rows = await this.options.store.readRun(null, run_id, from, ROWS_PAGE);
      for (const row of rows) {
        actor ??= await this.begin(row);
        this.take(actor, row);
        from = row.last_seq + 1;
      }
      if (rows.length < ROWS_PAGE) break;
    }
    return this.loaded(present(actor, `run ${run_id} is in the journal`));
  }

  /** All open runs of a group. */
  async *open(group: number): AsyncIterable<Actor> {
    for (let after: string | null = null; ;) {
      const ids: string[] = await this.options.store.openRuns(group, after, RECOVERY_PAGE);
      yield* await this.loadMany(ids);
      if (ids.length < RECOVERY_PAGE) return;
      after = ids.at(-1) ?? null;
    }
  }

  /** Many runs in one read; those that did not come whole, or that have a past, are read by themselves. */
  async loadMany(run_ids: readonly string[]): Promise<Actor[]> {
    const rows = await this.options.store.readRuns(run_ids, RECOVERY_ROWS);
    const found = new Map<string, Actor | null>();
    for (const row of rows) {
      let actor = found.get(row.run_id);
      if (actor === undefined) {
        actor = lineageOfRow(row) ? null : this.fresh(row.tenant_id, row.run_id);
        found.set(row.run_id, actor);
      }
      if (actor) this.take(actor, row);
    }
    const last = rows.at(-1);
    if (rows.length === RECOVERY_ROWS && last) found.delete(last.run_id);
    const actors: Actor[] = [];
    for (const id of run_ids) {
      const actor = found.get(id);
      actors.push(await (actor ? this.loaded(actor) : this.load(id)));
    }
    return actors;
  }

  private async loaded(actor: Actor): Promise<Actor> {
    actor.summary = summaryOf(actor.run);
    await openArgs(actor.run, this.options);
    return actor;
  }

  private async begin(first: AppendRow): Promise<Actor> {
    return this.begun(first.tenant_id, first.run_id, lineageOfRow(first) ?? undefined);
  }

  private take(actor: Actor, row: AppendRow): void {
    const { run, run_bytes, approvals: pending } = actor;
    for (const event of decodeBody(row.body)) {
      fold(run, event, event.at, this.catalogFor(run, event));
      approvalRows({ run, run_bytes, drafts: [event], pending, now_us: event.at });
    }
    actor.chain = row.chain;
  }

  /** The first event names project and environment; until it is folded they come from it. */
  private catalogFor(run: RunState, event: EventDraft): Catalog {
    return governedBy(this.options.governance, run, run.seq === 0 ? event.data : null).catalog;
  }

  /** Folds rows that are to be imported. */
  fold(tenant_id: string, run_id: string, rows: readonly AppendRow[]): RunState {
    const actor = this.fresh(tenant_id, run_id);
    for (const row of rows) this.take(actor, row);
    return actor.run;
  }
}

function lineageOfRow(row: AppendRow): Lineage | null {
  if (row.first_seq !== 1) return null;
  const lineage = lineageOf(decodeBody(row.body)[0]);
  return hasPast(lineage) ? lineage : null;
}

/** What the first event of a run says, where a command begins it. */
export function startOf(run: RunState, command: Command): { data: EventDraft["data"] } | null {
  if (command.type === "start") return command;
  const [first] = command.type === "ingest" && run.seq === 0 ? command.events : [];
  return first ? { data: first.data } : null;
}

/** What governs a run; `start` is the data of its first event while that is not folded yet. */
export function governedBy(
  governance: Pick<Governance, "of">,
  run: RunState,
  start: EventDraft["data"] | null,
): ReturnType<Governance["of"]> {
  const project = start ? String(start["project"] ?? "") : run.project;
  const env = start ? String(start["env"] ?? "dev") : run.env;
  const lineage = start ? (start["lineage"] as unknown as Lineage | undefined) : run.lineage;
  return governance.of({ tenant_id: run.tenant_id, project, env, overrides: lineage?.overrides });
}
