// Fires of triggers: each is written down with the id of its run, and then that run is begun by whoever owns it. Invariant: a fire
// begins at most one run, and one that was written down is begun, refused or skipped in the end, whoever dies in between.
import type { Clock } from "../kit/clock.ts";
import { rfc3339 } from "../kit/clock.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { ERRORS, isAppError, messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, DbTx, Log } from "../contract/ports.ts";
import type { StartRun } from "../contract/runs.ts";
import type { TaskRequest } from "../contract/tasks.ts";
import type { Fire, FireCause, TriggerManifest } from "../contract/triggers.ts";
import { resolveTemplate, UnresolvedReference } from "../core/template.ts";
import { endFire, insertFire, keepLast, listPending } from "../store/triggers.ts";
import type { FireRow } from "../store/triggers.ts";
import type { Caller, Runs, StartExtra } from "./runs.ts";
import type { Tasks } from "./tasks.ts";

/** A version of a trigger that an environment uses. */
export interface ActiveTrigger {
  readonly tenant_id: string;
  readonly project: string;
  readonly name: string;
  readonly env: string;
  readonly version: number;
  /** Since when the environment uses it. */
  readonly since_us: number;
  readonly spec: TriggerManifest;
}

/** What made it fire. */
export interface Cause {
  /** The same key twice is one fire. */
  readonly key: string;
  readonly cause: FireCause;
  readonly due_us: number;
  /** What references in the input are about; the whole of it is the input where the manifest names none. */
  readonly got: Json;
  /** More to say of it in `run.started`. */
  readonly facts?: JsonObject;
  /** Why no run is begun for it. */
  readonly skipped?: string;
}

export interface FiresOptions {
  readonly db: Db;
  readonly runs: Pick<Runs, "start">;
  readonly tasks: Pick<Tasks, "begin">;
  readonly newRunId: () => string;
  /** Whether the run of this id is begun here. */
  readonly owns: (run_id: string) => boolean;
  readonly clock: Clock;
  readonly log: Log;
}

/** Who runs of a trigger are started by; no person has this name, so each of them may approve. */
export const principalOf = (name: string): string => `trigger:${name}`;

export function fireView(row: FireRow): Fire {
  const { key, cause, state, reason, run_id } = row;
  return { key, cause, due_at: rfc3339(row.due_us), state, reason, run_id };
}

interface Written {
  /** With an intent it is a task. */
  readonly run: StartRun & { intent?: string };
  readonly trigger: JsonObject;
}

export class Fires {
  private readonly options: FiresOptions;
  /** Fires whose run is being begun, by its id: whoever else has one of them waits for the same. */
  private readonly beginning = new Map<string, Promise<boolean>>();

  constructor(options: FiresOptions) {
    this.options = options;
  }

  /** A fire as it is written down. One whose input cannot be made is refused from the beginning. */
  row(trigger: ActiveTrigger, cause: Cause): FireRow {
    const { project, name, env, version, spec } = trigger;
    const { key, due_us } = cause;
    const common = { project_id: project, name, env, key, run_id: this.options.newRunId(), cause: cause.cause, due_us };
    const made_us = this.options.clock.now_us();
    let state: FireRow["state"] = cause.skipped === undefined ? "pending" : "skipped";
    let reason = cause.skipped ?? null;
    let input: Json = null;
    try {
      input = inputOf(spec, cause);
    } catch (error) {
      if (!(error instanceof UnresolvedReference)) throw error;
      [state, reason] = ["refused", error.message];
    }
    const run: Written["run"] = {
      ...(spec.agent === undefined ? {} : { agent: spec.agent }),
      ...(spec.workflow === undefined ? {} : { workflow: spec.workflow }),
      ...(spec.intent === undefined ? {} : { intent: spec.intent }),
      env,
      input,
      ...(spec.labels ? { labels: spec.labels } : {}),
      ...(spec.priority === undefined ? {} : { priority: spec.priority }),
    };
    const facts = { cause: cause.cause, due: due_us, key, name, version, ...cause.facts };
    const written: Written = { run, trigger: facts };
    return { ...common, state, reason, made_us, request: JSON.stringify(written) };
  }

  /** Writes fires down. False for each that is there already. */
  async add(tx: DbTx, rows: readonly FireRow[]): Promise<boolean[]> {
    const added: boolean[] = [];
    for (const row of rows) added.push(await insertFire(tx, row));
    return added;
  }

  /** Begins the runs of fires that are owned here and wait. Returns how many were done with. */
  async look(tenant_id: string): Promise<number> {
    const limit = LIMITS.fires_at_once_max;
    let done = 0;
    for (let after = { made_us: 0, run_id: "" }; ;) {
      const from = after;
      const rows = await this.options.db.transaction({ role: "qd_app", tenant_id }, (tx) =>
        listPending(tx, from, limit),
      );
      for (const row of rows) if (await this.begin(tenant_id, row)) done += 1;
      const last = rows.at(-1);
      if (rows.length < limit || !last) return done;
      after = last;
    }
  }

  /** Begins the run of one fire that waits. False when that has to be tried again, or is not for this node to do. */
  begin(tenant_id: string, row: FireRow): Promise<boolean> {
    const { run_id } = row;
    const known = this.beginning.get(run_id);
    if (known) return known;
    if (!this.options.owns(run_id)) return Promise.resolve(false);
    const begun = this.beginOnce(tenant_id, row).finally(() => this.beginning.delete(run_id));
    this.beginning.set(run_id, begun);
    return begun;
  }

  private async beginOnce(tenant_id: string, row: FireRow): Promise<boolean> {
    const { db, clock, log } = this.options;
    const { project_id, name, run_id } = row;
    const caller: Caller = { tenant_id, project: project_id, principal: principalOf(name) };
    const { run, trigger } = JSON.parse(row.request) as Written;
    let end: { state: "started" | "refused"; reason: string | null } = { state: "started", reason: null };
    try {
      await this.start(caller, run, { run_id, facts: { trigger } });
    } catch (error) {
      if (!isAppError(error) || ERRORS[error.code].retryable || ERRORS[error.code].status >= 500) {
        log.warn("trigger.waits", { trigger: name, run_id, error: messageOf(error) });
        return false;
      }
      end = { state: "refused", reason: error.message };
      log.warn("trigger.refused", { trigger: name, run_id, error: error.message });
    }
    await db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      await endFire(tx, row, end);
      if (end.state === "started") await keepLast(tx, project_id, row, { at_us: clock.now_us(), run_id });
    });
    return true;
  }

  private start(caller: Caller, { intent, ...run }: Written["run"], extra: StartExtra): Promise<unknown> {
    const { runs, tasks } = this.options;
    if (intent === undefined) return runs.start(caller, run, extra);
    const { env, input, labels, priority } = run;
    const task: TaskRequest = {
      intent,
      params: input,
      ...(env === undefined ? {} : { env }),
      ...(labels === undefined ? {} : { metadata: labels }),
    };
    return tasks.begin(caller, task, { ...extra, ...(priority === undefined ? {} : { priority }) });
  }
}

function inputOf({ input }: TriggerManifest, { got }: Cause): Json {
  if (input === undefined) return got;
  return resolveTemplate(input as Json, { input: got, output: () => undefined });
}
