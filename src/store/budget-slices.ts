// SQL of slices of shared budgets. One transaction at a time per budget and period decides who is granted what.
import { decodeId, encodeId, uuidBytes, uuidText } from "../kit/ids.ts";
import { present } from "../kit/assert.ts";
import { FencedError } from "../contract/journal.ts";
import type { GroupLease } from "../contract/journal.ts";
import type { Db, DbTx } from "../contract/ports.ts";
import { grantOf } from "../contract/slices.ts";
import type { BudgetSlices, Slice, SliceAnswer, SliceKey, SliceNeed } from "../contract/slices.ts";

type Owner = Pick<GroupLease, "group" | "shard_epoch">;

interface SliceRow {
  grp: number;
  granted_micro: number;
  granted_tokens: number;
  used_micro: number;
  used_tokens: number;
  spent_micro: number;
}

const tenant = (id: string): string => uuidText(present(decodeId("ten", id), "a tenant id is well formed"));
const keyOf = (key: SliceKey): unknown[] => [tenant(key.tenant_id), key.budget, key.period_start_us];

export class PostgresBudgetSlices implements BudgetSlices {
  private readonly db: Db;
  private readonly groups: number;

  constructor(db: Db, groups: number) {
    this.db = db;
    this.groups = groups;
  }

  ask(owner: Owner, need: SliceNeed): Promise<SliceAnswer> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      await lockBudget(tx, need);
      const rows = await readSlices(tx, need);
      const { groups } = this;
      const none: SliceRow = {
        grp: owner.group,
        granted_micro: 0,
        granted_tokens: 0,
        used_micro: 0,
        used_tokens: 0,
        spent_micro: 0,
      };
      const own = rows.find((row) => row.grp === owner.group) ?? none;
      const others = rows.filter((row) => row.grp !== owner.group);
      const money = (row: SliceRow) => ({ granted: row.granted_micro, used: row.used_micro });
      const tokens = (row: SliceRow) => ({ granted: row.granted_tokens, used: row.used_tokens });
      const micro = grantOf({
        limit: need.limit_micro_usd,
        need: need.micro_usd,
        mine: money(own),
        others: others.map(money),
        groups,
      });
      const token = grantOf({
        limit: need.limit_tokens,
        need: need.tokens,
        mine: tokens(own),
        others: others.map(tokens),
        groups,
      });
      const enough = micro.enough && token.enough;
      // All or nothing: what cannot be used is not taken from others.
      const granted = {
        granted_micro_usd: enough ? micro.granted : own.granted_micro,
        granted_tokens: enough ? token.granted : own.granted_tokens,
      };
      if (enough) await writeSlice(tx, owner, need, granted);
      const wait = !enough && (micro.enough || micro.wait) && (token.enough || token.wait);
      if (wait) await wantSlices(tx, owner, need);
      const elsewhere_micro_usd = others.reduce((sum, row) => sum + row.spent_micro, 0);
      return { ...granted, elsewhere_micro_usd, enough, wait };
    });
  }

  giveBack(owner: Owner, key: SliceKey, left: { micro_usd: number; tokens: number }): Promise<void> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      await lockBudget(tx, key);
      await writeSlice(tx, owner, key, { granted_micro_usd: left.micro_usd, granted_tokens: left.tokens });
    });
  }

  granted(group: number): Promise<readonly (SliceKey & Slice)[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<SliceKey & Slice>({
        text: `select tenant_id, budget, period_start_us, granted_micro_usd, granted_tokens, 0 as elsewhere_micro_usd
          from qd.budget_slices where grp = $1`,
        values: [group],
      });
      return rows.map((row) => ({ ...row, tenant_id: encodeId("ten", uuidBytes(row.tenant_id)) }));
    });
  }
}

async function lockBudget(tx: DbTx, key: SliceKey): Promise<void> {
  await tx.query({
    name: "lock_budget",
    text: "select pg_advisory_xact_lock(hashtextextended($1, 0))",
    values: [`budget/${key.tenant_id}/${key.budget}/${key.period_start_us}`],
  });
}

/** Slices and use of all groups. */
async function readSlices(tx: DbTx, key: SliceKey): Promise<SliceRow[]> {
  const { rows } = await tx.query<SliceRow>({
    name: "read_slices",
    text: `select grp, coalesce(s.granted_micro_usd, 0) as granted_micro, coalesce(s.granted_tokens, 0) as granted_tokens,
        coalesce(u.spent_micro_usd + u.reserved_micro_usd, 0) as used_micro,
        coalesce(u.spent_tokens + u.reserved_tokens, 0) as used_tokens, coalesce(u.spent_micro_usd, 0) as spent_micro
      from (select * from qd.budget_slices where tenant_id = $1 and budget = $2 and period_start_us = $3) s
      full join (select * from qd.budget_use where tenant_id = $1 and budget = $2 and period_start_us = $3) u using (grp)`,
    values: keyOf(key),
  });
  return rows;
}

/**
 * Only the owner of a group changes its slices. Its row is held until that is committed: a take-over comes before, and then it
 * is refused, or after, and then the next owner reads what was written.
 */
async function writeSlice(
  tx: DbTx,
  owner: Owner,
  key: SliceKey,
  granted: Pick<Slice, "granted_micro_usd" | "granted_tokens">,
): Promise<void> {
  const { count } = await tx.query({
    name: "write_slice",
    text: `insert into qd.budget_slices (tenant_id, budget, period_start_us, grp, granted_micro_usd, granted_tokens)
      select $1, $2, $3, $4, $6, $7 from (select from qd.groups where grp = $4 and shard_epoch = $5 for share) own
      on conflict (tenant_id, budget, period_start_us, grp) do update
        set granted_micro_usd = excluded.granted_micro_usd, granted_tokens = excluded.granted_tokens, wanted = false`,
    values: [...keyOf(key), owner.group, owner.shard_epoch, granted.granted_micro_usd, granted.granted_tokens],
  });
  if (count !== 1) throw new FencedError(`group ${owner.group} has another owner`);
}

/** The others are to give back what they do not use. */
async function wantSlices(tx: DbTx, owner: Owner, key: SliceKey): Promise<void> {
  await tx.query({
    name: "want_slices",
    text: `update qd.budget_slices set wanted = true
      where tenant_id = $1 and budget = $2 and period_start_us = $3 and grp <> $4 and not wanted`,
    values: [...keyOf(key), owner.group],
  });
}

/** Slices of these groups that others need. */
export async function wantedSlices(tx: DbTx, groups: readonly number[]): Promise<(SliceKey & { group: number })[]> {
  const { rows } = await tx.query<SliceKey & { group: number }>({
    name: "wanted_slices",
    text: `select tenant_id, budget, period_start_us, grp as "group" from qd.budget_slices where wanted and grp = any($1)`,
    values: [[...groups]],
  });
  return rows.map((row) => ({ ...row, tenant_id: encodeId("ten", uuidBytes(row.tenant_id)) }));
}
