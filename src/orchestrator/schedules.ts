// Schedules: looks what is due and writes it down as fires. One node does it, the one that signs; should two of them look at once,
// each moment is taken by who moves the trigger on.
import type { Clock } from "../kit/clock.ts";
import { rfc3339 } from "../kit/clock.ts";
import { assert } from "../kit/assert.ts";
import { isTerminal } from "../contract/events.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, Log } from "../contract/ports.ts";
import type { ScheduleSpec } from "../contract/triggers.ts";
import { dueFires, nextFire } from "../core/schedule.ts";
import type { Due } from "../core/schedule.ts";
import { beginTrigger, listFires, listTriggers, moveTrigger } from "../store/triggers.ts";
import type { FireRow, TriggerRow } from "../store/triggers.ts";
import type { ActiveTrigger, Fires } from "./fires.ts";
import type { Runs } from "./runs.ts";

export interface SchedulesOptions {
  readonly db: Db;
  readonly fires: Pick<Fires, "row" | "add">;
  readonly runs: Pick<Runs, "find">;
  readonly clock: Clock;
  readonly log: Log;
}

const scheduleOf = ({ spec }: ActiveTrigger): ScheduleSpec => {
  assert(spec.schedule !== undefined, "only triggers with a schedule are looked at here");
  return spec.schedule;
};

export class Schedules {
  private readonly options: SchedulesOptions;

  constructor(options: SchedulesOptions) {
    this.options = options;
  }

  /** Writes down what is due of these triggers, which are of one project. Returns how many fires. */
  async look(triggers: readonly ActiveTrigger[]): Promise<number> {
    const [first] = triggers;
    if (!first) return 0;
    const { tenant_id, project } = first;
    const { db, clock } = this.options;
    const scope = { role: "qd_app" as const, tenant_id };
    const known = await db.transaction(scope, (tx) => listTriggers(tx, project));
    let fired = 0;
    for (const trigger of triggers) {
      const row = known.find((one) => one.name === trigger.name && one.env === trigger.env);
      const now_us = clock.now_us();
      if (!row || row.version !== trigger.version) {
        const next_at_us = nextFire(scheduleOf(trigger), now_us);
        await db.transaction(scope, (tx) => beginTrigger(tx, project, { ...trigger, next_at_us }));
      } else if (row.paused_by === null && row.next_at_us !== null && row.next_at_us <= now_us) {
        fired += await this.due(trigger, { ...row, next_at_us: row.next_at_us }, now_us);
      }
    }
    return fired;
  }

  private async due(trigger: ActiveTrigger, row: TriggerRow & { next_at_us: number }, now_us: number): Promise<number> {
    const { db, fires, log } = this.options;
    const { tenant_id, project, name, env } = trigger;
    const due = dueFires(scheduleOf(trigger), row.next_at_us, now_us, LIMITS.schedule_late_ms * 1000);
    if (due.skipped) log.warn("trigger.missed", { trigger: name, env, since: rfc3339(row.next_at_us) });
    const rows = await this.rows(trigger, due);
    return db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      if (!(await moveTrigger(tx, project, row, due.next_us))) return 0;
      await fires.add(tx, rows);
      return rows.length;
    });
  }

  private async rows(trigger: ActiveTrigger, { fires_us }: Due): Promise<FireRow[]> {
    const { fires } = this.options;
    const skips = scheduleOf(trigger).overlap === "skip";
    let open = skips && fires_us.length > 0 ? await this.openRun(trigger) : null;
    return fires_us.map((due_us) => {
      const key = rfc3339(due_us);
      const cause = { key, cause: "schedule" as const, due_us, got: { due: key } };
      const row = fires.row(trigger, open === null ? cause : { ...cause, skipped: `${open} still goes on` });
      if (skips && open === null) open = row.run_id;
      return row;
    });
  }

  /** The last run that the trigger began, or is about to begin, where that has not ended. */
  private async openRun(trigger: ActiveTrigger): Promise<string | null> {
    const { tenant_id, project, name } = trigger;
    const { db, runs } = this.options;
    const rows = await db.transaction({ role: "qd_app", tenant_id }, (tx) =>
      listFires(tx, project, trigger, LIMITS.fires_at_once_max),
    );
    const last = rows.find(({ state }) => state === "started" || state === "pending");
    if (!last) return null;
    if (last.state === "pending") return last.run_id;
    const run = await runs.find({ tenant_id, project, principal: name }, last.run_id);
    return run && !isTerminal(run.state) ? last.run_id : null;
  }
}
