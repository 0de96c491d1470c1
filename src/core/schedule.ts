// When a schedule is due. Pure: the moments are arguments. Cron fields and daylight saving are croner's: a time that the clock
// skips is the first one after the gap, a time that comes twice is its first coming, and what goes by every hour goes on.
import { Cron } from "croner";
import { AppError, messageOf } from "../contract/errors.ts";
import type { ScheduleSpec } from "../contract/triggers.ts";

/** What is due at a look, and when the next is. */
export interface Due {
  /** Moments to start a run for, in order. */
  readonly fires_us: readonly number[];
  /** Something was due that no run was started for, and none will be. */
  readonly skipped: boolean;
  /** Null: never again. */
  readonly next_us: number | null;
}

const FIELDS_MAX = 6;

function cronOf({ cron, timezone }: ScheduleSpec): Cron {
  return new Cron(cron, { timezone: timezone ?? "UTC", paused: true });
}

/** Throws MANIFEST_INVALID for what is no schedule, or one that never comes. */
export function checkSchedule(spec: ScheduleSpec): void {
  const wrong = (why: string) => new AppError("MANIFEST_INVALID", `schedule ${JSON.stringify(spec.cron)}: ${why}`);
  if (spec.cron.trim().split(/\s+/).length > FIELDS_MAX) throw wrong("more than six fields");
  let next: number | null;
  try {
    next = nextFire(spec, 0);
  } catch (error) {
    throw wrong(messageOf(error));
  }
  if (next === null) throw wrong("that moment never comes");
}

/** The first moment after one, in microseconds; null when there is none. */
export function nextFire(spec: ScheduleSpec, after_us: number): number | null {
  const next = cronOf(spec).nextRun(new Date(Math.floor(after_us / 1000)));
  return next === null ? null : next.getTime() * 1000;
}

/**
 * What is due of a schedule whose next moment was `next_us`. What is not older than `late_us` is only late, and each of it is
 * due; what is older was missed, and `missed: once` makes one run of all of it.
 */
export function dueFires(spec: ScheduleSpec, next_us: number, now_us: number, late_us: number): Due {
  if (next_us > now_us) return { fires_us: [], skipped: false, next_us };
  const oldest_us = now_us - late_us;
  const missed = next_us < oldest_us;
  const fires_us: number[] = [];
  let at: number | null = missed ? nextFire(spec, oldest_us) : next_us;
  for (; at !== null && at <= now_us; at = nextFire(spec, at)) fires_us.push(at);
  const made_up = missed && spec.missed === "once";
  if (made_up && fires_us.length === 0) fires_us.push(lastFire(spec, oldest_us) ?? next_us);
  return { fires_us, skipped: missed && !made_up, next_us: at };
}

/** The last moment up to one. */
function lastFire(spec: ScheduleSpec, until_us: number): number | null {
  const [last] = cronOf(spec).previousRuns(1, new Date(Math.floor(until_us / 1000) + 1));
  return last ? last.getTime() * 1000 : null;
}
