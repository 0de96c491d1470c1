// Triggers on events: follows the journal of each group that this node owns, and writes down a fire for each event that fits. The
// place in the journal is kept behind the fires that were written for what is before it: after a crash nothing is left out, and
// what is looked at again is known by its key.
import { present } from "../kit/assert.ts";
import type { Json } from "../kit/json.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { CommittedRow, JournalStore } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, Log } from "../contract/ports.ts";
import { decodeBody } from "../core/chain.ts";
import { eventCondition } from "../core/event-condition.ts";
import type { ToldEvent } from "../core/event-condition.ts";
import { matchesAny } from "../core/pattern.ts";
import { eventCursor, moveCursor } from "../store/triggers.ts";
import type { ActiveTrigger, Fires } from "./fires.ts";

export interface EventTriggersOptions {
  readonly db: Db;
  readonly store: Pick<JournalStore, "readGroup" | "readRun" | "groupHead">;
  readonly fires: Pick<Fires, "row" | "add">;
  readonly log: Log;
}

/** What `run.started` of the run says that an event is of. */
interface Source {
  readonly project: string;
  readonly env: string;
  readonly target: string;
  readonly trigger: string | null;
  readonly depth: number;
}

export class EventTriggers {
  private readonly options: EventTriggersOptions;
  /** What was asked for at the last look at a group. */
  private readonly asked = new Map<number, string>();
  /** By their text. */
  private readonly conditions = new Map<string, (event: ToldEvent) => boolean>();

  constructor(options: EventTriggersOptions) {
    this.options = options;
  }

  /** Looks on in a group's journal. Returns how many fires were written down. */
  async look(group: number, triggers: readonly ActiveTrigger[]): Promise<number> {
    const { store } = this.options;
    const types = [...new Set(triggers.flatMap(({ spec }) => spec.event?.types ?? []))];
    const marks = types.map((type) => Buffer.from(`"${type}"`));
    let fired = 0;
    for (let after = await this.begin(group, triggers); ;) {
      const rows = await store.readGroup(group, after, LIMITS.followed_rows_max);
      for (const row of rows) if (marks.some((mark) => row.body.includes(mark))) fired += await this.row(row, triggers);
      const last = rows.at(-1);
      if (!last) return fired;
      after = last.offset;
      await this.move(group, after);
      if (rows.length < LIMITS.followed_rows_max) return fired;
    }
  }

  /**
   * Where to look on: behind what was looked at, and not at what all happened before anybody asked for it. Triggers that are
   * new may have been asked for a moment ago, and what happened since then counts.
   */
  private async begin(group: number, triggers: readonly ActiveTrigger[]): Promise<number> {
    const cursor = (await this.options.db.transaction({ role: "qd_system" }, (tx) => eventCursor(tx, group))) ?? 0;
    const asked = triggers.map(({ name, env, since_us }) => `${name}/${env}/${since_us}`).join("\n");
    if (this.asked.get(group) === asked) return cursor;
    const since_us = Math.min(...triggers.map((trigger) => trigger.since_us));
    const from = await this.before(group, cursor, since_us);
    this.asked.set(group, asked);
    return from;
  }

  /** An offset not below the given one, behind which all stands that was recorded since a moment: found by going back in strides. */
  private async before(group: number, lowest: number, since_us: number): Promise<number> {
    const { store } = this.options;
    const { head } = await store.groupHead(group);
    for (let stride = LIMITS.followed_rows_max; ; stride *= 4) {
      const from = head - stride;
      if (from <= lowest) return lowest;
      const [row] = await store.readGroup(group, from, 1);
      if (row && row.at_us < since_us) return from;
    }
  }

  private move(group: number, off: number): Promise<void> {
    return this.options.db.transaction({ role: "qd_system" }, (tx) => moveCursor(tx, group, off));
  }

  private async row(row: CommittedRow, triggers: readonly ActiveTrigger[]): Promise<number> {
    const { db, fires, log } = this.options;
    const { tenant_id, run_id } = row;
    const events = decodeBody(row.body);
    const fitting = triggers.filter(
      (trigger) => trigger.tenant_id === tenant_id && events.some((event) => asksFor(trigger, event)),
    );
    if (fitting.length === 0) return 0;
    const source = await this.source(tenant_id, run_id);
    const rows = fitting
      .filter((trigger) => isAbout(trigger, source))
      .flatMap((trigger) => {
        if (source.trigger === trigger.name || source.depth >= LIMITS.trigger_depth_max) {
          log.warn("trigger.circle", { trigger: trigger.name, run_id, depth: source.depth });
          return [];
        }
        const facts = { depth: source.depth + 1, run_id };
        const fits = this.conditionOf(trigger);
        return events
          .filter((event) => asksFor(trigger, event))
          .filter(({ type, data }) => fits({ type, target: source.target, run_id, data }))
          .map((event) =>
            fires.row(trigger, {
              key: `${run_id}/${event.seq}`,
              cause: "event",
              due_us: event.at,
              got: told(event, run_id, source),
              facts: { ...facts, seq: event.seq },
            }),
          );
      });
    const added = await db.transaction({ role: "qd_app", tenant_id }, (tx) => fires.add(tx, rows));
    return added.filter(Boolean).length;
  }

  private conditionOf({ spec }: ActiveTrigger): (event: ToldEvent) => boolean {
    const when = spec.event?.when;
    if (when === undefined) return () => true;
    let known = this.conditions.get(when);
    if (!known) this.conditions.set(when, (known = eventCondition(when)));
    return known;
  }

  private async source(tenant_id: string, run_id: string): Promise<Source> {
    const [first] = await this.options.store.readRun(tenant_id, run_id, 1, 1);
    const { data } = present(decodeBody(present(first, "a run has a first append").body)[0], "and that an event");
    const target = data["target"] as { name?: string } | undefined;
    const trigger = data["trigger"] as { name?: string; depth?: number } | undefined;
    return {
      project: String(data["project"] ?? ""),
      env: String(data["env"] ?? "dev"),
      target: target?.name ?? "",
      trigger: trigger?.name ?? null,
      depth: trigger?.depth ?? 0,
    };
  }
}

const asksFor = ({ spec, since_us }: ActiveTrigger, event: StoredEvent): boolean =>
  event.at >= since_us && (spec.event?.types.some((type) => type === event.type) ?? false);

const isAbout = (trigger: ActiveTrigger, source: Source): boolean =>
  source.project === trigger.project &&
  source.env === trigger.env &&
  (trigger.spec.event?.targets === undefined || matchesAny(trigger.spec.event.targets, source.target));

/** What references in the trigger's input are about. */
function told(event: StoredEvent, run_id: string, source: Source): Json {
  const step = event.step === undefined ? {} : { step: event.step };
  return {
    type: event.type,
    run_id,
    seq: event.seq,
    ...step,
    target: source.target,
    env: source.env,
    data: event.data,
  };
}
