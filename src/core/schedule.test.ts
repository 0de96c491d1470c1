// When schedules are due: daylight saving, what is late, what was missed.
import { expect, test } from "vitest";
import { isAppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { checkSchedule, dueFires, nextFire } from "./schedule.ts";

const us = (time: string): number => Date.parse(time) * 1000;
const iso = (at_us: number | null): string | null => (at_us === null ? null : new Date(at_us / 1000).toISOString());
const LATE_US = LIMITS.schedule_late_ms * 1000;

function from(spec: { cron: string; timezone?: string }, start: string, count: number): (string | null)[] {
  const found: (string | null)[] = [];
  for (let at: number | null = us(start); found.length < count && at !== null;)
    found.push(iso((at = nextFire(spec, at))));
  return found;
}

test("a time that the clock skips in spring fires once, after the gap; one that comes twice in autumn fires once", () => {
  const spec = { cron: "30 2 * * *", timezone: "Europe/Berlin" };
  expect(from(spec, "2027-03-27T00:00:00Z", 3)).toEqual([
    "2027-03-27T01:30:00.000Z",
    "2027-03-28T01:00:00.000Z",
    "2027-03-29T00:30:00.000Z",
  ]);
  expect(from(spec, "2026-10-24T00:00:00Z", 3)).toEqual([
    "2026-10-24T00:30:00.000Z",
    "2026-10-25T00:30:00.000Z",
    "2026-10-26T01:30:00.000Z",
  ]);
});

test("what goes by every hour goes on through both changes", () => {
  const spec = { cron: "0 * * * *", timezone: "Europe/Berlin" };
  for (const start of ["2026-10-24T22:00:00Z", "2027-03-27T23:00:00Z"]) {
    const times = from(spec, start, 6).map((time) => Date.parse(time ?? ""));
    expect(times.map((time, i) => time - (times[0] ?? 0) - i * 3_600_000)).toEqual([0, 0, 0, 0, 0, 0]);
  }
});

test("seconds, the last day of a month, its second Monday", () => {
  expect(from({ cron: "*/20 * * * * *" }, "2026-01-01T00:00:05Z", 2)).toEqual([
    "2026-01-01T00:00:20.000Z",
    "2026-01-01T00:00:40.000Z",
  ]);
  expect(from({ cron: "0 0 L * *" }, "2028-02-01T00:00:00Z", 1)).toEqual(["2028-02-29T00:00:00.000Z"]);
  expect(from({ cron: "0 9 * * MON#2" }, "2026-06-01T00:00:00Z", 1)).toEqual(["2026-06-08T09:00:00.000Z"]);
});

test.each([
  ["61 * * * *", "UTC", "minute"],
  ["* * *", "UTC", "five"],
  ["* * * * * * *", "UTC", "more than six fields"],
  ["0 0 30 2 *", "UTC", "never comes"],
  ["0 0 * * *", "Mars/Olympus", "Mars/Olympus"],
])("%s in %s is refused, and the message says why", (cron, timezone, why) => {
  let refused: unknown;
  try {
    checkSchedule({ cron, timezone });
  } catch (error) {
    refused = error;
  }
  expect(isAppError(refused, "MANIFEST_INVALID") && refused.message).toContain(why);
});

const EACH_SECOND = { cron: "* * * * * *" };
const HOURLY = { cron: "0 * * * *" };

test("nothing is due before its time; what is due is due once", () => {
  const next_us = us("2026-01-01T00:00:00Z");
  expect(dueFires(HOURLY, next_us, next_us - 1, LATE_US)).toEqual({ fires_us: [], skipped: false, next_us });
  const due = dueFires(HOURLY, next_us, next_us, LATE_US);
  expect(due).toEqual({ fires_us: [next_us], skipped: false, next_us: us("2026-01-01T01:00:00Z") });
  expect(dueFires(HOURLY, due.next_us ?? 0, next_us + 1, LATE_US).fires_us).toEqual([]);
});

test("what is only late is all due: a node that took five seconds to take over leaves out nothing", () => {
  const next_us = us("2026-01-01T00:00:00Z");
  const due = dueFires(EACH_SECOND, next_us, next_us + 5_200_000, LATE_US);
  expect(due.fires_us).toEqual([0, 1, 2, 3, 4, 5].map((s) => next_us + s * 1_000_000));
  expect(iso(due.next_us)).toBe("2026-01-01T00:00:06.000Z");
});

test("what was missed is left out, or made up for by one run of its last moment", () => {
  const next_us = us("2026-01-01T00:00:00Z");
  const now_us = us("2026-01-03T10:30:00Z");
  expect(dueFires(HOURLY, next_us, now_us, LATE_US)).toEqual({
    fires_us: [],
    skipped: true,
    next_us: us("2026-01-03T11:00:00Z"),
  });
  expect(dueFires({ ...HOURLY, missed: "once" }, next_us, now_us, LATE_US)).toEqual({
    fires_us: [us("2026-01-03T10:00:00Z")],
    skipped: false,
    next_us: us("2026-01-03T11:00:00Z"),
  });
});

test("a moment that is only late makes up for those that were missed before it", () => {
  const next_us = us("2026-01-01T00:00:00Z");
  const now_us = us("2026-01-03T10:00:30Z");
  const due = dueFires({ ...HOURLY, missed: "once" }, next_us, now_us, LATE_US);
  expect(due).toMatchObject({ fires_us: [us("2026-01-03T10:00:00Z")], skipped: false });
});

test("a year of missed seconds costs no more than a minute of them", () => {
  const next_us = us("2025-01-01T00:00:00Z");
  const due = dueFires({ ...EACH_SECOND, missed: "once" }, next_us, us("2026-01-01T00:00:00.500Z"), LATE_US);
  expect(due.fires_us.length).toBe(60);
});
