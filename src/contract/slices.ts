// Slices of shared budgets. Where runs are in several groups, each group spends out of the part that it was granted; what is
// granted counts as used, so over all groups a limit holds at every commit, and nobody has to ask for each call.
import type { GroupLease } from "./journal.ts";

/** One shared budget in one period. */
export interface SliceKey {
  readonly tenant_id: string;
  readonly budget: string;
  readonly period_start_us: number;
}

/** What a group has to be granted in all, for its next call to fit. Null: there is no limit of this kind. */
export interface SliceNeed extends SliceKey {
  readonly limit_micro_usd: number | null;
  readonly limit_tokens: number | null;
  readonly micro_usd: number;
  readonly tokens: number;
}

/** What a group may use of a budget without asking. */
export interface Slice {
  readonly granted_micro_usd: number;
  readonly granted_tokens: number;
  /** What the other groups had spent when it was granted. */
  readonly elsewhere_micro_usd: number;
}

export interface SliceAnswer extends Slice {
  /** It is as much as was needed. */
  readonly enough: boolean;
  /** It is not enough yet, and others were asked to give back what they do not use. */
  readonly wait: boolean;
}

type Owner = Pick<GroupLease, "group" | "shard_epoch">;

/** Keeps who was granted what. A former owner of a group is refused with FencedError. */
export interface BudgetSlices {
  ask(owner: Owner, need: SliceNeed): Promise<SliceAnswer>;
  /** Leaves the group with less. */
  giveBack(owner: Owner, key: SliceKey, left: { micro_usd: number; tokens: number }): Promise<void>;
  /** What a group was granted, for whoever takes it over. */
  granted(group: number): Promise<readonly (SliceKey & Slice)[]>;
}

/** Part of what is free that is granted beyond the need, divided by the number of groups: so that few have to ask again. */
const SPARE = 2;

interface Use {
  readonly granted: number;
  readonly used: number;
}

/**
 * What to grant of one measure. `mine` and `others` are the slices as they stand; what others used beyond theirs (a provider
 * charged more than its bound) counts too.
 */
export function grantOf(given: {
  limit: number | null;
  need: number;
  mine: Use;
  others: readonly Use[];
  groups: number;
}): { granted: number; enough: boolean; wait: boolean } {
  const { limit, need, mine, others, groups } = given;
  if (limit === null || need <= mine.granted) return { granted: mine.granted, enough: true, wait: false };
  const taken = others.reduce((sum, one) => sum + Math.max(one.granted, one.used), 0);
  const unused = others.reduce((sum, one) => sum + Math.max(0, one.granted - one.used), 0);
  const free = limit - taken - Math.max(mine.granted, 0);
  const short = need - mine.granted;
  if (free < short) return { granted: mine.granted, enough: false, wait: free + unused >= short };
  const more = Math.min(free, Math.max(short, Math.floor(free / (SPARE * groups))));
  return { granted: mine.granted + more, enough: true, wait: false };
}
