// Takes batches of observed events. Each producer numbers its events without gaps; a number is recorded once, in order.
// Invariants: what is acknowledged is durable (in the journal, or staged in the database); the same event sent again is
// answered as the first time; an event that comes too early waits until what is missing has come, or is given up on record.
import { assert } from "../kit/assert.ts";
import type { Clock, Timer } from "../kit/clock.ts";
import { derivedId } from "../kit/ids.ts";
import { Serial } from "../kit/serial.ts";
import { AppError, isAppError, messageOf } from "../contract/errors.ts";
import { isTerminal } from "../contract/events.ts";
import type { EventDraft, RunStateName, StoredEvent } from "../contract/events.ts";
import { idBytes, PREFIXES } from "../contract/ids.ts";
import { refusedItem } from "../contract/ingest.ts";
import type { FinalizeRun, IngestAnswer, IngestBatch, IngestItem, Missing } from "../contract/ingest.ts";
import type { JournalStore, RunSummary } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import { decodeBody } from "../core/chain.ts";
import type { Command } from "../core/decide.ts";
import type { IngestCommand, IngestFault, ObservedEvent } from "../core/ingest.ts";
import { placeOf, producerKey, seqOf } from "../core/observed.ts";
import type { ProducerState } from "../core/observed.ts";
import type { RunState } from "../core/run-state.ts";
import type { StagedEvents, StagedKey } from "../store/staged-events.ts";
import type { Json } from "../kit/json.ts";
import type { CaptureCaller } from "./captures.ts";
import { appendable, prepareEvents } from "./prepare.ts";
import type { Prepared, PrepareOptions } from "./prepare.ts";

/** What owns the runs, as far as observed events need it. */
export interface IngestOwner {
  ingest(
    tenant_id: string,
    run_id: string,
    command: IngestCommand,
    isNew?: boolean,
  ): Promise<{
    readonly drafts: readonly EventDraft[];
    readonly first_seq: number;
    readonly state: RunStateName | null;
  }>;
  observed(tenant_id: string, run_id: string): Promise<Readonly<RunState> | null>;
  command(tenant_id: string, run_id: string, command: Command): Promise<RunSummary>;
}

export interface IngestOptions extends PrepareOptions {
  readonly owner: () => IngestOwner;
  readonly store: Pick<JournalStore, "readRun">;
  readonly staged: StagedEvents;
  readonly find: (caller: CaptureCaller, run_id: string) => Promise<RunSummary | null>;
  readonly clock: Clock;
  readonly log: Log;
}

/** A batch, sorted out by where its numbers stand. */
interface Sorted {
  readonly now: Prepared[];
  readonly ahead: Prepared[];
  readonly again: Prepared[];
}

interface Committed {
  readonly refused: ReadonlyMap<number, IngestFault>;
  readonly seqs: ReadonlyMap<number, number>;
  /** Of the run; null where it does not exist, because its first event was refused. */
  readonly state: RunStateName | null;
}

interface Waiting {
  readonly key: StagedKey;
  count: number;
  since_us: number;
  timer: Timer;
}

const EMPTY: ProducerState = { next: 1, gaps: [], segments: [] };

export class Ingest {
  private readonly options: IngestOptions;
  private readonly serial = new Serial();
  /** Producers of which something is staged, by run and producer. */
  private readonly waiting = new Map<string, Waiting>();

  constructor(options: IngestOptions) {
    this.options = options;
  }

  /** Takes a batch. Throws what concerns the run as a whole; what concerns one event stands in its item. */
  async add(caller: CaptureCaller, run_id: string, batch: IngestBatch): Promise<IngestAnswer> {
    idBytes("run", run_id);
    const key = { tenant_id: caller.tenant_id, run_id, producer: batch.producer_id, epoch: batch.producer_epoch ?? 1 };
    const prepared = await prepareEvents(this.options, { caller, run_id, events: batch.events });
    return this.serial.run(run_id, () => this.put(key, prepared));
  }

  /** Looks at nothing any more; what is staged stays for the next owner. */
  close(): void {
    for (const waiting of this.waiting.values()) waiting.timer.cancel();
    this.waiting.clear();
  }

  /** Goes on with what was staged before this process owned these runs. */
  async resume(isOurs: (run_id: string) => boolean): Promise<void> {
    for (const [key, waiting] of this.waiting) {
      if (!isOurs(waiting.key.run_id)) continue;
      waiting.timer.cancel();
      this.waiting.delete(key);
    }
    await this.look(isOurs);
  }

  /**
   * Finds what is staged that this process has not heard of: a former owner may still acknowledge events after another one
   * has taken over. Called now and then.
   */
  async look(isOurs: (run_id: string) => boolean): Promise<void> {
    for (const { since_us, count, ...key } of await this.options.staged.groups()) {
      if (this.waiting.has(keyOf(key)) || !isOurs(key.run_id)) continue;
      this.expect(key, count, since_us);
      await this.serial.run(key.run_id, () => this.release(key, null));
    }
  }

  /** Ends a run, unless events are missing that others wait for. Throws EVENTS_MISSING. */
  async finalize(caller: CaptureCaller, run_id: string, request: FinalizeRun): Promise<RunSummary> {
    const run = await this.options.find(caller, run_id);
    if (!run) throw new AppError("NOT_FOUND", `There is no run ${run_id}`, { details: { run_id } });
    return this.serial.run(run_id, async () => {
      const { tenant_id } = caller;
      const missing = await this.missing(tenant_id, run_id);
      if (missing.length > 0 && request.force !== true)
        throw new AppError("EVENTS_MISSING", `Events of run ${run_id} are missing that others wait for`, {
          details: { missing },
        });
      for (const waiting of this.waitingFor(tenant_id, run_id)) await this.release(waiting.key, "forced");
      const state = await this.options.owner().observed(tenant_id, run_id);
      if (state && !isTerminal(state.state)) await this.end(tenant_id, run_id, request);
      return (await this.options.find(caller, run_id)) ?? run;
    });
  }

  private async end(tenant_id: string, run_id: string, request: FinalizeRun): Promise<void> {
    const { state = "succeeded", code = "", message = "", output } = request;
    const said = output === undefined ? {} : { output: output as Json };
    await this.options.owner().command(tenant_id, run_id, { type: "end", state, code, message, ...said });
  }

  private async put(key: StagedKey, prepared: readonly Prepared[]): Promise<IngestAnswer> {
    const { tenant_id, run_id } = key;
    const before = await this.options.owner().observed(tenant_id, run_id);
    const sorted = sortOut(before?.observed?.producers.get(producerKey(key.producer, key.epoch)) ?? EMPTY, prepared);
    const items = new Map<Prepared, IngestItem>();
    for (const one of prepared) {
      const { fault } = one.event;
      if (fault) items.set(one, refusedItem(one.no, fault.code, fault.message, fault.pointer));
    }
    // After the end of a run nothing waits any more: what may be said then is not held up by what may not.
    let state = before?.state ?? null;
    if (before && isTerminal(before.state)) await this.record(key, [...sorted.now, ...sorted.ahead], items, "ended");
    else {
      state = (await this.record(key, sorted.now, items)) ?? state;
      await this.stage(key, sorted.ahead, items);
    }
    if (sorted.now.length > 0 && this.waiting.has(keyOf(key))) state = (await this.release(key, null)) ?? state;
    await this.compare(key, sorted.again, items);
    return {
      run_id,
      state,
      items: prepared.map(
        (one) => items.get(one) ?? refusedItem(one.no, "INTERNAL_ERROR", "The event was not looked at"),
      ),
      missing: await this.missing(tenant_id, run_id),
    };
  }

  /** Commits what is in order; the state of the run after it, null where nothing was there to commit. */
  private async record(
    key: StagedKey,
    now: readonly Prepared[],
    items: Map<Prepared, IngestItem>,
    holes?: "ended",
  ): Promise<RunStateName | null> {
    if (now.length === 0) return null;
    const events = now.map((one) => one.event);
    const { refused, seqs, state } = await this.commit(key, holes ? { events, holes } : { events });
    const run = idBytes("run", key.run_id);
    for (const one of now) {
      const seq = seqs.get(one.no ?? 0);
      const fault = refused.get(one.no ?? 0);
      if (fault) items.set(one, refusedItem(one.no, fault.code, fault.message, fault.pointer));
      else if (seq !== undefined) items.set(one, committedItem("committed", one.no, seq, run));
    }
    return state;
  }

  private async commit(
    { tenant_id, run_id, producer, epoch }: StagedKey,
    given: Pick<IngestCommand, "events" | "conflicts" | "holes">,
  ): Promise<Committed> {
    const refused = new Map<number, IngestFault>();
    const command: IngestCommand = { type: "ingest", producer, epoch, refused, ...given };
    const seqs = new Map<number, number>();
    const prefix = `${producerKey(producer, epoch)}/`;
    // Conflicts alone are an append too.
    const parts = given.events.length === 0 ? [[]] : appendable(given.events);
    let state: RunStateName | null = null;
    for (const events of parts) {
      const told = await this.options.owner().ingest(tenant_id, run_id, { ...command, events });
      for (const [index, { origin }] of told.drafts.entries())
        if (origin?.from?.startsWith(prefix))
          seqs.set(Number(origin.from.slice(prefix.length)), told.first_seq + index);
      ({ state } = told);
    }
    return { refused, seqs, state };
  }

  /** Keeps what came too early. */
  private async stage(key: StagedKey, ahead: readonly Prepared[], items: Map<Prepared, IngestItem>): Promise<void> {
    if (ahead.length === 0) return;
    const { staged, clock } = this.options;
    const room = LIMITS.staged_events_max - (this.waiting.get(keyOf(key))?.count ?? 0);
    const now_us = clock.now_us();
    const kept = ahead.slice(0, Math.max(0, room));
    for (const one of ahead.slice(kept.length)) {
      const message = `${LIMITS.staged_events_max} events of this producer wait for earlier ones already`;
      items.set(one, refusedItem(one.no, "EVENTS_MISSING", message, "/sequence_no"));
    }
    if (kept.length === 0) return;
    const rows = kept.map(({ no, event }) => ({ no: no ?? 0, event: JSON.stringify(event), staged_at_us: now_us }));
    const fresh = await staged.put(key, rows);
    for (const one of kept) if (!items.has(one)) items.set(one, { sequence_no: one.no, status: "staged" });
    this.expect(key, fresh, now_us);
  }

  /** Notes that something is staged, and looks again when it has waited long enough. */
  private expect(key: StagedKey, count: number, since_us: number): void {
    const known = this.waiting.get(keyOf(key));
    if (known) {
      known.count += count;
      return;
    }
    const waiting: Waiting = { key, count, since_us, timer: { cancel: () => undefined } };
    this.waiting.set(keyOf(key), waiting);
    this.lookAgain(waiting, LIMITS.gap_wait_ms);
  }

  private lookAgain(waiting: Waiting, after_ms: number): void {
    const { clock } = this.options;
    const due_ms = after_ms - (clock.now_us() - waiting.since_us) / 1000;
    waiting.timer = clock.timer(Math.max(0, Math.ceil(due_ms)), () => {
      void this.serial
        .run(waiting.key.run_id, () => this.giveUp(waiting))
        .catch((error: unknown) => this.notGivenUp(waiting, error));
    });
  }

  /** What is missing has not come in time: its absence goes on record, and what waited for it follows. */
  private async giveUp(waiting: Waiting): Promise<void> {
    const { key } = waiting;
    if (this.waiting.get(keyOf(key)) !== waiting) return;
    if (await this.options.owner().observed(key.tenant_id, key.run_id)) {
      await this.release(key, "timeout");
      return;
    }
    const waited_ms = (this.options.clock.now_us() - waiting.since_us) / 1000;
    if (waited_ms < LIMITS.unknown_run_wait_ms) return this.lookAgain(waiting, LIMITS.unknown_run_wait_ms);
    this.options.log.warn("ingest.unknown_run", { run_id: key.run_id, producer: key.producer, events: waiting.count });
    await this.options.staged.drop(key, Number.MAX_SAFE_INTEGER);
    this.waiting.delete(keyOf(key));
  }

  private notGivenUp(waiting: Waiting, error: unknown): void {
    this.options.log.warn("ingest.gap_not_closed", { run_id: waiting.key.run_id, error: messageOf(error) });
    // Another node owns the runs now, and has read what is staged; else the database will be back.
    if (isAppError(error, "FENCED") || this.waiting.get(keyOf(waiting.key)) !== waiting) return;
    waiting.since_us = this.options.clock.now_us();
    this.lookAgain(waiting, LIMITS.gap_wait_ms);
  }

  /**
   * Records staged events that are in order now, or all of them where what is missing is given up. Returns the state of the run
   * after it, null where there were none.
   */
  private async release(key: StagedKey, holes: "timeout" | "forced" | null): Promise<RunStateName | null> {
    const { staged, owner } = this.options;
    const rows = await staged.read(key);
    const state = await owner().observed(key.tenant_id, key.run_id);
    const producer = state?.observed?.producers.get(producerKey(key.producer, key.epoch)) ?? EMPTY;
    const events: ObservedEvent[] = [];
    let { next } = producer;
    for (const row of rows) {
      // What is on record already came by another way meanwhile.
      if (row.no < next) continue;
      if (row.no > next && holes === null) break;
      events.push(JSON.parse(row.event) as ObservedEvent);
      next = row.no + 1;
    }
    const done = events.length > 0 ? await this.commit(key, { events, ...(holes === null ? {} : { holes }) }) : null;
    await staged.drop(key, next - 1);
    this.forget(key, rows.filter((row) => row.no >= next).length);
    return done?.state ?? null;
  }

  private forget(key: StagedKey, left: number): void {
    const waiting = this.waiting.get(keyOf(key));
    if (!waiting) return;
    waiting.count = left;
    if (left > 0) return;
    waiting.timer.cancel();
    this.waiting.delete(keyOf(key));
  }

  /** Numbers that are on record already: the same event is answered as the first time, another one is refused. */
  private async compare(key: StagedKey, again: readonly Prepared[], items: Map<Prepared, IngestItem>): Promise<void> {
    if (again.length === 0) return;
    const state = await this.options.owner().observed(key.tenant_id, key.run_id);
    const producer = state?.observed?.producers.get(producerKey(key.producer, key.epoch));
    const bySeq = new Map<number, Prepared[]>();
    for (const one of again) {
      const seq = producer && one.no !== null ? seqOf(producer, one.no) : null;
      if (seq === null) {
        // Twice in one batch: what the first of them came to holds for both.
        const waits = one.no !== null && placeOf(producer, one.no) === "ahead";
        const refused = refusedItem(one.no, "CONFLICT", "Its number was refused before");
        if (!items.has(one)) items.set(one, waits ? { sequence_no: one.no, status: "staged" } : refused);
      } else bySeq.set(seq, [...(bySeq.get(seq) ?? []), one]);
    }
    const run = idBytes("run", key.run_id);
    const conflicts: { no: number; first: string; second: string }[] = [];
    for (const event of await this.stored(key, [...bySeq.keys()])) {
      for (const one of bySeq.get(event.seq) ?? []) {
        const [first, second] = [event.origin?.mac ?? "", one.event.mac ?? ""];
        if (first === second) items.set(one, committedItem("duplicate", one.no, event.seq, run));
        else {
          const message = `Number ${one.no} of ${key.producer} is on record with other content`;
          items.set(one, refusedItem(one.no, "EVENT_CONFLICT", message, "/sequence_no"));
          conflicts.push({ no: one.no ?? 0, first, second });
        }
      }
    }
    if (conflicts.length > 0) await this.commit(key, { events: [], conflicts });
  }

  private async stored({ tenant_id, run_id }: StagedKey, seqs: readonly number[]): Promise<StoredEvent[]> {
    const wanted = new Set(seqs);
    const found: StoredEvent[] = [];
    for (const seq of seqs.toSorted((a, b) => a - b)) {
      if (!wanted.has(seq)) continue;
      const [row] = await this.options.store.readRun(tenant_id, run_id, seq, 1);
      assert(row !== undefined, "an event that is on record can be read", { run_id, seq });
      for (const event of decodeBody(row.body)) if (wanted.delete(event.seq)) found.push(event);
    }
    return found;
  }

  private waitingFor(tenant_id: string, run_id: string): Waiting[] {
    return [...this.waiting.values()].filter(({ key }) => key.run_id === run_id && key.tenant_id === tenant_id);
  }

  /** What staged events of a run wait for. */
  private async missing(tenant_id: string, run_id: string): Promise<Missing[]> {
    const found: Missing[] = [];
    const waiting = this.waitingFor(tenant_id, run_id);
    if (waiting.length === 0) return found;
    const state = await this.options.owner().observed(tenant_id, run_id);
    for (const { key } of waiting) {
      const ranges: { from: number; to: number }[] = [];
      let next = state?.observed?.producers.get(producerKey(key.producer, key.epoch))?.next ?? 1;
      for (const { no } of await this.options.staged.read(key)) {
        if (no > next) ranges.push({ from: next, to: no - 1 });
        next = Math.max(next, no + 1);
      }
      if (ranges.length > 0) found.push({ producer_id: key.producer, producer_epoch: key.epoch, ranges });
    }
    return found;
  }
}

const keyOf = (key: StagedKey): string => `${key.run_id}/${producerKey(key.producer, key.epoch)}`;

function committedItem(status: "committed" | "duplicate", no: number | null, seq: number, run: Buffer): IngestItem {
  return { sequence_no: no, status, seq, event_id: derivedId(PREFIXES.event, run, seq) };
}

function sortOut(producer: ProducerState, prepared: readonly Prepared[]): Sorted {
  const sorted: Sorted = { now: [], ahead: [], again: [] };
  const seen = new Set<number>();
  let { next } = producer;
  // What fills a gap comes first: its numbers are lower.
  const numbered = prepared.filter((one) => one.no !== null).sort((a, b) => (a.no ?? 0) - (b.no ?? 0));
  for (const one of numbered) {
    const no = one.no ?? 0;
    const place = no >= producer.next ? (no === next ? "next" : "ahead") : placeOf(producer, no);
    if (seen.has(no) || place === "recorded") sorted.again.push(one);
    else if (place === "ahead") sorted.ahead.push(one);
    else sorted.now.push(one);
    if (!seen.has(no) && place === "next") next += 1;
    seen.add(no);
  }
  return sorted;
}
