// SQL of triggers: where each stands, and each time that it fired.
import type { DbTx } from "../contract/ports.ts";
import type { FireCause, FireState } from "../contract/triggers.ts";

/** A trigger in one environment. */
export interface TriggerKey {
  readonly name: string;
  readonly env: string;
}

export interface TriggerRow extends TriggerKey {
  readonly version: number;
  readonly paused_by: string | null;
  readonly resumed_at_us: number | null;
  readonly next_at_us: number | null;
  readonly last_at_us: number | null;
  readonly last_run_id: string | null;
}

export interface FireRow extends TriggerKey {
  readonly project_id: string;
  readonly key: string;
  readonly run_id: string;
  readonly cause: FireCause;
  readonly state: FireState;
  readonly reason: string | null;
  readonly due_us: number;
  readonly made_us: number;
  readonly request: string;
}

const FIRE = "project_id, name, env, key, run_id, cause, state, reason, due_us, made_us, request";

export async function listTriggers(tx: DbTx, project_id: string): Promise<TriggerRow[]> {
  const { rows } = await tx.query<TriggerRow>({
    name: "list_triggers",
    text: `select name, env, version, paused_by, resumed_at_us, next_at_us, last_at_us, last_run_id from qd.triggers
      where project_id = $1`,
    values: [project_id],
  });
  return rows;
}

/** Another version begins anew: it is due when it says, and what holds it up stays. */
export async function beginTrigger(
  tx: DbTx,
  project_id: string,
  row: TriggerKey & { version: number; next_at_us: number | null },
): Promise<void> {
  await tx.query({
    text: `insert into qd.triggers (tenant_id, project_id, name, env, version, next_at_us) values (qd.tenant(), $1, $2, $3, $4, $5)
      on conflict (tenant_id, project_id, name, env) do update set version = excluded.version, next_at_us = excluded.next_at_us
      where qd.triggers.version <> excluded.version`,
    values: [project_id, row.name, row.env, row.version, row.next_at_us],
  });
}

/** False when somebody else moved it, or it is paused: then nothing of it is due here. */
export async function moveTrigger(
  tx: DbTx,
  project_id: string,
  from: TriggerKey & { version: number; next_at_us: number },
  next_at_us: number | null,
): Promise<boolean> {
  const { count } = await tx.query({
    text: `update qd.triggers set next_at_us = $6 where project_id = $1 and name = $2 and env = $3 and version = $4
      and next_at_us = $5 and paused_by is null`,
    values: [project_id, from.name, from.env, from.version, from.next_at_us, next_at_us],
  });
  return count === 1;
}

export async function pauseTrigger(
  tx: DbTx,
  project_id: string,
  { name, env }: TriggerKey,
  by: string,
  now_us: number,
): Promise<void> {
  await tx.query({
    text: `update qd.triggers set paused_by = $4, paused_at_us = $5 where project_id = $1 and name = $2 and env = $3
      and paused_by is null`,
    values: [project_id, name, env, by, now_us],
  });
}

export async function resumeTrigger(
  tx: DbTx,
  project_id: string,
  { name, env }: TriggerKey,
  next_at_us: number | null,
  now_us: number,
): Promise<void> {
  await tx.query({
    text: `update qd.triggers set paused_by = null, paused_at_us = null, next_at_us = $4, resumed_at_us = $5
      where project_id = $1 and name = $2 and env = $3 and paused_by is not null`,
    values: [project_id, name, env, next_at_us, now_us],
  });
}

/** What it did last. */
export async function keepLast(
  tx: DbTx,
  project_id: string,
  { name, env }: TriggerKey,
  last: { at_us: number; run_id: string },
): Promise<void> {
  await tx.query({
    text: `update qd.triggers set last_at_us = $4, last_run_id = $5 where project_id = $1 and name = $2 and env = $3
      and (last_at_us is null or last_at_us <= $4)`,
    values: [project_id, name, env, last.at_us, last.run_id],
  });
}

/** False when it is there already: the same fire twice is one. */
export async function insertFire(tx: DbTx, row: FireRow): Promise<boolean> {
  const { count } = await tx.query({
    text: `insert into qd.fires (tenant_id, ${FIRE}) values (qd.tenant(), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
      on conflict (tenant_id, project_id, name, env, key) do nothing`,
    values: [
      row.project_id,
      row.name,
      row.env,
      row.key,
      row.run_id,
      row.cause,
      row.state,
      row.reason,
      row.due_us,
      row.made_us,
      row.request,
    ],
  });
  return count === 1;
}

export async function findFire(
  tx: DbTx,
  project_id: string,
  { name, env }: TriggerKey,
  key: string,
): Promise<FireRow | null> {
  const { rows } = await tx.query<FireRow>({
    text: `select ${FIRE} from qd.fires where project_id = $1 and name = $2 and env = $3 and key = $4`,
    values: [project_id, name, env, key],
  });
  return rows[0] ?? null;
}

/** Fires whose run has not begun, after one, the oldest first (index fires_pending). */
export async function listPending(
  tx: DbTx,
  after: { made_us: number; run_id: string },
  limit: number,
): Promise<FireRow[]> {
  const { rows } = await tx.query<FireRow>({
    name: "list_pending_fires",
    text: `select ${FIRE} from qd.fires where tenant_id = qd.tenant() and state = 'pending' and (made_us, run_id) > ($1, $2)
      order by made_us, run_id limit $3`,
    values: [after.made_us, after.run_id, limit],
  });
  return rows;
}

export async function endFire(
  tx: DbTx,
  { project_id, name, env, key }: FireRow,
  end: { state: FireState; reason: string | null },
): Promise<void> {
  await tx.query({
    text: `update qd.fires set state = $5, reason = $6 where project_id = $1 and name = $2 and env = $3 and key = $4
      and state = 'pending'`,
    values: [project_id, name, env, key, end.state, end.reason],
  });
}

/** The latest first (index fires_latest). */
export async function listFires(
  tx: DbTx,
  project_id: string,
  { name, env }: TriggerKey,
  limit: number,
): Promise<FireRow[]> {
  const { rows } = await tx.query<FireRow>({
    text: `select ${FIRE} from qd.fires where project_id = $1 and name = $2 and env = $3 order by made_us desc, due_us desc limit $4`,
    values: [project_id, name, env, limit],
  });
  return rows;
}

/** What is long done; how many. */
export async function expireFires(tx: DbTx, before_us: number): Promise<number> {
  const { count } = await tx.query({
    text: "delete from qd.fires where state <> 'pending' and made_us < $1",
    values: [before_us],
  });
  return count;
}

/** How far a group was looked at; null: never. */
export async function eventCursor(tx: DbTx, group: number): Promise<number | null> {
  const { rows } = await tx.query<{ off: number }>({
    name: "event_cursor",
    text: "select off from qd.event_cursors where grp = $1",
    values: [group],
  });
  return rows[0]?.off ?? null;
}

export async function moveCursor(tx: DbTx, group: number, off: number): Promise<void> {
  await tx.query({
    name: "move_event_cursor",
    text: `insert into qd.event_cursors (grp, off) values ($1, $2)
      on conflict (grp) do update set off = greatest(qd.event_cursors.off, excluded.off)`,
    values: [group, off],
  });
}
