import type { SharedBudget } from "../contract/catalog.ts";

const HOUR_US = 3_600_000_000;
const DAY_US = 24 * HOUR_US;

/** Start of the UTC period that holds an instant, microseconds. Weeks begin on Monday. `total` never begins again. */
export function periodStart(period: SharedBudget["period"], now_us: number): number {
  if (period === "total") return 0;
  if (period === "hour") return now_us - (now_us % HOUR_US);
  const day = now_us - (now_us % DAY_US);
  if (period === "day") return day;
  const date = new Date(day / 1000);
  // 1 January 1970 was a Thursday; getUTCDay counts from Sunday.
  if (period === "week") return day - ((date.getUTCDay() + 6) % 7) * DAY_US;
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1) * 1000;
}
