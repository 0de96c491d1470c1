// Owns the runs of one shard group: load -> decide -> append -> dispatch.
// Invariants:
//   - one append of a run is in flight at a time; commands that arrive meanwhile are decided together after it;
//   - state is folded when decided and nobody acts on it before the commit: jobs go out, promises resolve and readers
//     are told only then; after a failed commit the state is dropped and read again from the journal;
//   - a job goes out only for an intent that is committed.
import { assert, InvariantError, present } from "../kit/assert.ts";
import { Serial } from "../kit/serial.ts";
import { AppError, isAppError, messageOf } from "../contract/errors.ts";
import type { EventDraft } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import type { JobResult } from "../contract/jobs.ts";
import type { BudgetDelta, RunSummary } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Lineage } from "../contract/replay.ts";
import type { SliceKey, SliceNeed } from "../contract/slices.ts";
import { nextDue } from "../core/advance.ts";
import { encodeAppend } from "../core/chain.ts";
import { decide } from "../core/decide.ts";
import type { Command } from "../core/decide.ts";
import type { TellCommand } from "../core/told.ts";
import { SliceShort } from "../core/decide-context.ts";
import { emptyRun } from "../core/run-state.ts";
import type { RunState } from "../core/run-state.ts";
import { AppendRejected, GroupWriter } from "../journal/writer.ts";
import type { Actor, EngineOptions, Governance, Pending, Told } from "./engine-options.ts";
import { importRows } from "./imports.ts";
import type { RunImport } from "./imports.ts";
import { jobsOf } from "./jobs.ts";
import { Ledger } from "./ledger.ts";
import { approvalRows, changesSummary, summaryOf } from "./rows.ts";
import { canPark, ParkedRuns } from "./parked-runs.ts";
import { governedBy, RunLoader, startOf } from "./run-loader.ts";
import { SliceKeeper } from "./slice-keeper.ts";

export type { Commit, EngineOptions, Governance, Told } from "./engine-options.ts";

/** A run that could not be read is tried again after so long. */
const AGAIN_MS = 250;

export class Engine {
  private readonly actors = new Map<string, Actor>();
  private readonly options: EngineOptions;
  private readonly loader: RunLoader;
  private readonly parked: ParkedRuns;
  private readonly reading = new Serial();
  private writerOrNull: GroupWriter | null = null;
  private ledgerOrNull: Ledger | null = null;
  /** Null where shared budgets belong to this group alone. */
  private keeper: SliceKeeper | null = null;
  private closed: Error | null = null;

  constructor(options: EngineOptions) {
    this.options = options;
    this.loader = new RunLoader(options);
    this.parked = new ParkedRuns({
      ...options,
      actors: this.actors,
      load: (run_id) => this.loader.load(run_id),
      forget: (actor) => this.ledger.forget(actor.run.run_id),
      unparked: (actor) => this.arm(this.keep(actor)),
    });
  }

  get writer(): GroupWriter {
    return present(this.writerOrNull, "the engine is open");
  }

  get ledger(): Ledger {
    return present(this.ledgerOrNull, "the engine is open");
  }

  get openRuns(): number {
    return this.actors.size + this.parked.size;
  }

  /** Takes the group, reads every open run back from the journal and goes on with each. Returns how many. */
  async open(): Promise<number> {
    const { store, clock, group, owner, governance } = this.options;
    const lease = this.options.lease ?? (await store.acquireGroup(group, owner));
    const use = await store.budgetUse(group);
    const { slices } = this.options;
    this.ledgerOrNull = new Ledger({
      use,
      budgetsOf: (run) =>
        governance.of({ tenant_id: run.tenant_id, project: run.project, env: run.env }).catalog.budgets(),
      ...(slices ? { slices: await slices.store.granted(group) } : {}),
    });
    const onFenced = (error: Error) => this.lost(error);
    if (slices) this.keeper = new SliceKeeper({ ...this.options, ...slices, lease, ledger: this.ledger, onFenced });
    this.writerOrNull = new GroupWriter({
      store,
      clock,
      lease,
      budgets: use,
      onFailure: (error) => this.lost(error),
      onFlush: this.options.onFlush,
    });
    const recovered: Actor[] = [];
    for await (const actor of this.loader.open(group)) {
      if (canPark(actor.run)) this.parked.add(actor.run);
      else recovered.push(this.keep(actor));
    }
    for (const actor of recovered) this.ledger.restore(actor.run);
    for (const actor of recovered)
      this.submit(actor, { type: "recover" }).catch((error) => this.complain(actor.run.run_id, error));
    return this.openRuns;
  }

  /** Stops taking commands and waits for what is staged. Runs stay as they are, for the next owner. */
  async close(): Promise<void> {
    this.closed ??= new AppError("SHUTTING_DOWN", "The server is stopping");
    this.stopTimers();
    this.keeper?.close();
    await this.writerOrNull?.drained();
  }

  /** Others need what this group does not use of a shared budget. */
  async giveBack(key: SliceKey): Promise<void> {
    await this.keeper?.giveBack(key);
  }

  /** Creates a run. The data is what `run.started` holds; `past` is the state that a replay or fork begins with. */
  async start(run: {
    tenant_id: string;
    run_id: string;
    command: Extract<Command, { type: "start" }>;
    past?: RunState;
  }): Promise<RunSummary> {
    this.checkRoom();
    if (this.actors.has(run.run_id) || this.parked.tenantOf(run.run_id) !== undefined)
      throw new AppError("RUN_EXISTS", `Run ${run.run_id} exists`);
    const actor = this.keep(this.loader.fresh(run.tenant_id, run.run_id, run.past));
    return this.submit(actor, run.command);
  }

  /** A command for an open run. */
  async command(tenant_id: string, run_id: string, command: Command): Promise<RunSummary> {
    return this.at(tenant_id, run_id, (actor) => this.submit(actor, command));
  }

  /** A command for an open run; returns what was committed with it. */
  async decided(tenant_id: string, run_id: string, command: Command): Promise<readonly EventDraft[]> {
    let drafts: readonly EventDraft[] = [];
    await this.at(tenant_id, run_id, (actor) => this.submit(actor, command, (committed) => (drafts = committed)));
    return drafts;
  }

  /**
   * Records observed events; returns what was committed with them and the seq of its first event. A run that nobody has
   * started begins with them; one that has ended is read again, for what may still be said of it. `isNew`: the id was made
   * just now, so there is nothing to look for.
   */
  ingest(tenant_id: string, run_id: string, command: TellCommand, isNew = false): Promise<Told> {
    const tell = () => this.tell(tenant_id, run_id, command, isNew);
    // Two that read a run back at once would each go on with their own.
    return isNew || this.actors.has(run_id) ? tell() : this.reading.run(run_id, tell);
  }

  private async tell(tenant_id: string, run_id: string, command: TellCommand, isNew: boolean): Promise<Told> {
    if (!this.actors.has(run_id)) await this.parked.take(run_id);
    let actor = this.actors.get(run_id);
    if (!actor) {
      const fresh = isNew || (await this.options.store.readRun(null, run_id, 1, 1)).length === 0;
      if (fresh) this.checkRoom();
      actor = this.keep(fresh ? this.loader.fresh(tenant_id, run_id) : await this.loader.load(run_id));
    }
    const { run } = actor;
    try {
      if (run.tenant_id !== tenant_id) throw new AppError("RUN_EXISTS", `Run ${run_id} cannot be used here`);
      let told: Pick<Told, "drafts" | "first_seq"> = { drafts: [], first_seq: run.seq + 1 };
      const { state } = await this.submit(actor, command, (drafts, first_seq) => (told = { drafts, first_seq }));
      return { ...told, state: run.seq === 0 ? null : state };
    } finally {
      const isOver = run.seq === 0 || (isTerminal(run.state) && run.abandoned.size === 0);
      if (isOver && !actor.inFlight && actor.queue.length === 0) this.actors.delete(run_id);
    }
  }

  /** The state of a run of a tenant, read from the journal when it has ended; null when there is none. */
  async observed(tenant_id: string, run_id: string): Promise<Readonly<RunState> | null> {
    const open = this.actors.get(run_id);
    if (open) return open.run.tenant_id === tenant_id ? open.run : null;
    const existing = await this.options.store.readRun(tenant_id, run_id, 1, 1);
    return existing.length === 0 ? null : (await this.loader.load(run_id)).run;
  }

  /**
   * One result of a remote worker; resolves once it is committed, so it can be acknowledged. Throws STALE_RESULT when it
   * belongs to no attempt that is open.
   */
  async result(given: JobResult): Promise<void> {
    const isForeign = given.kind === "tool" && this.stateOf(given.run_id)?.program === null;
    const result = isForeign && this.options.redacted ? await this.options.redacted(given) : given;
    const actor = this.actors.get(result.run_id);
    if (!actor || actor.run.tenant_id !== result.tenant_id) {
      throw new AppError("STALE_RESULT", `Run ${result.run_id} has no open attempt`, {
        details: { run_id: result.run_id, step: result.step, attempt: result.attempt },
      });
    }
    await this.submit(actor, { type: "result", result });
  }

  /** Results from workers. Each is accepted or refused by itself; a refusal is logged and visible, never an effect. */
  results(results: readonly JobResult[]): void {
    for (const result of results)
      this.result(result).catch((error: unknown) => {
        const { run_id, step, attempt } = result;
        if (isAppError(error, "STALE_RESULT")) this.options.log.warn("result.stale", { run_id, step, attempt });
        else this.complain(run_id, error);
      });
  }

  /** Commits rows as they are; an open run is then taken over like after a crash. Throws RUN_EXISTS. */
  async importRun(given: RunImport): Promise<void> {
    if (this.closed) throw this.closed;
    const { writer, ledger, loader } = this;
    if (!(await importRows(given, { store: this.options.store, writer, ledger, loader }))) return;
    const actor = this.keep(await loader.load(given.summary.run_id));
    ledger.restore(actor.run);
    await this.submit(actor, { type: "recover" });
  }

  /** The run as of its last commit, while it is open here. */
  peek(run_id: string): RunSummary | null {
    return this.actors.get(run_id)?.summary ?? null;
  }

  /** The folded state of an open run, for explanations. Not to be changed. */
  stateOf(run_id: string): Readonly<RunState> | null {
    return this.actors.get(run_id)?.run ?? null;
  }

  /** Folded states of all open runs, for reports. Not to be changed. */
  get states(): Readonly<RunState>[] {
    return [...this.actors.values()].map((actor) => actor.run);
  }

  /** Uses an open run, at hand or parked. Nothing happens between finding and using it: it could be parked meanwhile. */
  private async at<T>(tenant_id: string, run_id: string, use: (actor: Actor) => Promise<T>): Promise<T> {
    if (!this.actors.has(run_id)) await this.parked.take(run_id);
    const actor = this.actors.get(run_id);
    if (actor?.run.tenant_id === tenant_id) return use(actor);
    throw new AppError("RUN_TERMINAL", `Run ${run_id} has ended`, { details: { run_id } });
  }

  private checkRoom(): void {
    if (this.openRuns < LIMITS.open_runs_max) return;
    throw new AppError("OVERLOADED", `There are ${this.openRuns} open runs`);
  }

  private stopTimers(): void {
    this.parked.stop();
    for (const actor of this.actors.values()) actor.timer?.cancel();
  }

  private keep(actor: Actor): Actor {
    this.actors.set(actor.run.run_id, actor);
    return actor;
  }

  private submit(actor: Actor, command: Command, told?: Pending["told"]): Promise<RunSummary> {
    if (this.closed) return Promise.reject(this.closed);
    return new Promise((resolve, reject) => {
      actor.queue.push({ command, resolve, reject, told });
      if (!actor.inFlight) this.turn(actor);
    });
  }

  /** Decides everything that waits for this run and stages one append. */
  private turn(actor: Actor): void {
    const taken = actor.queue;
    actor.queue = [];
    const drafts: EventDraft[] = [];
    const accepted: Pending[] = [];
    const now_us = this.options.clock.now_us();
    for (const [at, pending] of taken.entries()) {
      try {
        const { catalog, policy } = this.governance(actor.run, startOf(actor.run, pending.command));
        const events = decide(actor.run, pending.command, {
          now_us,
          catalog,
          policy,
          ledger: this.ledger,
          random: () => this.options.random.float(),
          seal_after_ms: this.options.seal_after_ms,
        });
        for (const event of events) drafts.push(event);
        accepted.push(pending);
      } catch (error) {
        if (error instanceof SliceShort) return void this.redo(actor, [...accepted, ...taken.slice(at)], error.need);
        pending.reject(error);
        if (isAppError(error)) continue;
        // A bug: what was folded cannot be trusted. Forget the turn and read the run again.
        return void this.abandonTurn(actor, accepted, this.ledger.takeDeltas(), error);
      }
    }
    if (drafts.length === 0) {
      for (const pending of accepted) pending.resolve(actor.summary ?? summaryOf(actor.run));
      return this.arm(actor);
    }
    this.stage(actor, drafts, accepted, now_us);
  }

  private governance(run: RunState, start: { data: EventDraft["data"] } | null): ReturnType<Governance["of"]> {
    return governedBy(this.options.governance, run, start?.data ?? null);
  }

  private stage(actor: Actor, drafts: readonly EventDraft[], accepted: readonly Pending[], now_us: number): void {
    const { run } = actor;
    const budgets = this.ledger.takeDeltas();
    const first_seq = run.seq - drafts.length + 1;
    let encoded: ReturnType<typeof encodeAppend>;
    try {
      encoded = encodeAppend({ drafts, seq: first_seq - 1, chain: actor.chain, at_us: now_us });
      if (encoded.body.length > LIMITS.append_bytes_max || drafts.length > LIMITS.append_events_max) {
        throw new AppError(
          "PAYLOAD_TOO_LARGE",
          `An append of ${drafts.length} events and ${encoded.body.length} bytes is over its limit`,
        );
      }
    } catch (error) {
      return void this.abandonTurn(actor, accepted, budgets, error);
    }
    assert(encoded.last_seq === run.seq, "fold and encode count alike", { run_id: run.run_id });
    actor.chain = encoded.chain;
    actor.inFlight = true;
    const summary = summaryOf(run);
    const approvals = approvalRows({ run, run_bytes: actor.run_bytes, drafts, pending: actor.approvals, now_us });
    const row = {
      tenant_id: run.tenant_id,
      run_id: run.run_id,
      run_bytes: actor.run_bytes,
      first_seq,
      last_seq: encoded.last_seq,
      body: encoded.body,
      chain: encoded.chain,
    };
    this.writer.append({ row, run: changesSummary(drafts) ? summary : null, approvals, budgets }).then(
      (offset) => this.committed(actor, { drafts, accepted, summary, offset }),
      (error) => this.refused(actor, accepted, budgets, error),
    );
  }

  private committed(
    actor: Actor,
    done: { drafts: readonly EventDraft[]; accepted: readonly Pending[]; summary: RunSummary; offset: number },
  ): void {
    const { run } = actor;
    actor.inFlight = false;
    actor.summary = done.summary;
    if (this.closed === null) this.dispatch(actor, done.drafts);
    for (const pending of done.accepted) {
      pending.told?.(done.drafts, run.seq - done.drafts.length + 1);
      pending.resolve(done.summary);
    }
    this.options.onCommit?.({
      run_id: run.run_id,
      tenant_id: run.tenant_id,
      last_seq: run.seq,
      offset: done.offset,
      drafts: done.drafts,
      summary: done.summary,
    });
    if (isTerminal(run.state)) this.ended(actor);
    else this.arm(actor);
    if (run.state === "waiting") this.parked.soon();
    if (actor.queue.length > 0) this.turn(actor);
  }

  private dispatch({ run }: Actor, drafts: readonly EventDraft[]): void {
    if (drafts.some((draft) => draft.type === "run.stopping")) this.options.queue.abort(run.run_id);
    const jobs = jobsOf(run, drafts, () => ({
      catalog: this.governance(run, null).catalog,
      tenant_key: this.options.tenantKey(run.tenant_id),
    }));
    if (jobs.length > 0) this.options.queue.dispatch(jobs, run.priority);
  }

  private ended(actor: Actor): void {
    actor.timer?.cancel();
    actor.timer = null;
    this.ledger.forget(actor.run.run_id);
    if (actor.run.abandoned.size === 0) {
      if (actor.queue.length === 0) this.actors.delete(actor.run.run_id);
      else queueMicrotask(() => this.actors.delete(actor.run.run_id));
      return;
    }
    // A call that was given up may still report; for that long its run is remembered, so the report can be recorded.
    actor.timer = this.options.clock.timer(LIMITS.tool_timeout_ms_default, () => this.actors.delete(actor.run.run_id));
  }

  private arm(actor: Actor): void {
    if (isTerminal(actor.run.state)) return;
    const due = nextDue(actor.run);
    if (due === actor.due_us && actor.timer) return;
    actor.timer?.cancel();
    actor.due_us = due;
    actor.timer = null;
    if (due === 0 || this.closed) return;
    const delay_ms = Math.max(0, (due - this.options.clock.now_us()) / 1000);
    actor.timer = this.options.clock.timer(Math.ceil(delay_ms), () => {
      actor.timer = null;
      actor.due_us = 0;
      this.submit(actor, { type: "tick" }).catch((error) => this.complain(actor.run.run_id, error));
    });
  }

  /** The database refused this append alone: the run's state is read again and the run ends, with the reason on record. */
  private refused(actor: Actor, accepted: readonly Pending[], budgets: readonly BudgetDelta[], error: unknown): void {
    actor.inFlight = false;
    if (error instanceof AppendRejected) return void this.abandonTurn(actor, accepted, budgets, error);
    for (const pending of [...accepted, ...actor.queue.splice(0)]) pending.reject(this.closed ?? error);
  }

  /** Forgets the turn, and takes it again when it is known whether a shared budget has room. */
  private async redo(actor: Actor, todo: readonly Pending[], need: SliceNeed): Promise<void> {
    const { run_id } = actor.run;
    this.ledger.revert(run_id, this.ledger.takeDeltas());
    actor.inFlight = true;
    actor.timer?.cancel();
    await this.keeper?.ask(need);
    const fresh = await this.again(actor, todo);
    const queue = [...todo, ...actor.queue.splice(0)];
    if (!fresh) return queue.forEach((pending) => pending.reject(this.closed));
    fresh.queue.push(...queue);
    // One that is yet to begin holds nothing, and does not know yet which budgets it counts for.
    if (this.keep(fresh).summary) this.ledger.restore(fresh.run);
    this.turn(fresh);
  }

  /** The run as it was before the turn; null when the engine was closed first. */
  private async again(actor: Actor, [first]: readonly Pending[]): Promise<Actor | null> {
    const { run_id, tenant_id } = actor.run;
    const start = first ? startOf(emptyRun(tenant_id, run_id), first.command) : null;
    while (!this.closed) {
      try {
        if (actor.summary) return await this.loader.load(run_id);
        return await this.loader.begun(tenant_id, run_id, start?.data["lineage"] as Lineage | undefined);
      } catch (error) {
        this.options.log.warn("run.not_read", { run_id, error: messageOf(error) });
        await this.options.clock.sleep(AGAIN_MS);
      }
    }
    return null;
  }

  private async abandonTurn(
    actor: Actor,
    accepted: readonly Pending[],
    budgets: readonly BudgetDelta[],
    error: unknown,
  ): Promise<void> {
    const { run_id } = actor.run;
    for (const pending of accepted) pending.reject(error);
    this.ledger.revert(run_id, budgets);
    actor.inFlight = true;
    actor.timer?.cancel();
    this.options.log.error("run.turn_failed", { run_id, error: messageOf(error) });
    if (actor.ending) this.options.log.error("run.unrecoverable", { run_id, error: messageOf(error) });
    // A run that cannot even be ended is left as it is on record.
    if (actor.summary === null || actor.ending) {
      this.actors.delete(run_id);
      for (const pending of actor.queue.splice(0)) pending.reject(error);
      return;
    }
    try {
      const fresh = this.keep(await this.loader.load(run_id));
      this.ledger.restore(fresh.run);
      fresh.queue.push(...actor.queue.splice(0));
      fresh.ending = true;
      const code = error instanceof InvariantError ? "internal_error" : "unrecordable";
      await this.submit(fresh, { type: "abort", code, message: messageOf(error) });
      if (isTerminal(fresh.run.state)) this.actors.delete(run_id);
    } catch (failure) {
      this.options.log.error("run.unrecoverable", { run_id, error: messageOf(failure) });
    }
  }

  private complain(run_id: string, error: unknown): void {
    if (this.closed || isAppError(error)) return;
    this.options.log.error("run.command_failed", { run_id, error: messageOf(error) });
  }

  private lost(error: Error): void {
    if (this.closed) return;
    this.closed =
      error instanceof AppError
        ? error
        : new AppError("FENCED", "This process does not own the runs any more", { cause: error });
    this.keeper?.close();
    this.stopTimers();
    for (const actor of this.actors.values()) for (const pending of actor.queue.splice(0)) pending.reject(this.closed);
    this.options.onLost?.(error);
  }
}
