// Slices of shared budgets, kept in memory beside the in-memory journal: what store/budget-slices.ts does in SQL.
import { FencedError } from "../../src/contract/journal.ts";
import type { Membership } from "../../src/contract/journal.ts";
import { grantOf } from "../../src/contract/slices.ts";
import type { BudgetSlices, Slice, SliceAnswer, SliceKey, SliceNeed } from "../../src/contract/slices.ts";
import type { MemoryJournalStore } from "../../src/journal/memory-store.ts";
import { budgetKey } from "../../src/journal/writer.ts";

type Owner = Parameters<BudgetSlices["ask"]>[0];
interface Row extends SliceKey {
  readonly group: number;
  granted_micro_usd: number;
  granted_tokens: number;
  wanted: boolean;
}

export class MemorySlices implements BudgetSlices {
  private readonly rows = new Map<string, Row>();
  private readonly store: MemoryJournalStore;
  private readonly groups: number;

  constructor(store: MemoryJournalStore, groups: number) {
    this.store = store;
    this.groups = groups;
  }

  private async check(owner: Owner): Promise<void> {
    const { shard_epoch } = await this.store.groupHead(owner.group);
    if (shard_epoch !== owner.shard_epoch) throw new FencedError(`group ${owner.group} has another owner`);
  }

  private row(group: number, { tenant_id, budget, period_start_us }: SliceKey): Row {
    const key = `${group}/${budgetKey({ tenant_id, budget, period_start_us })}`;
    let row = this.rows.get(key);
    if (!row) {
      row = {
        group,
        tenant_id,
        budget,
        period_start_us,
        granted_micro_usd: 0,
        granted_tokens: 0,
        wanted: false,
      };
      this.rows.set(key, row);
    }
    return row;
  }

  async ask(owner: Owner, need: SliceNeed): Promise<SliceAnswer> {
    await this.check(owner);
    const own = this.row(owner.group, need);
    const others = Array.from({ length: this.groups }, (_, group) => group)
      .filter((group) => group !== owner.group)
      .map((group) => {
        const use = this.store.budgets.get(`${group}/${budgetKey(need)}`);
        return { row: this.row(group, need), use };
      });
    const { groups } = this;
    const micro = grantOf({
      limit: need.limit_micro_usd,
      need: need.micro_usd,
      mine: { granted: own.granted_micro_usd, used: 0 },
      others: others.map(({ row, use }) => ({
        granted: row.granted_micro_usd,
        used: (use?.spent_micro_usd ?? 0) + (use?.reserved_micro_usd ?? 0),
      })),
      groups,
    });
    if (micro.enough) own.granted_micro_usd = micro.granted;
    if (micro.wait) for (const { row } of others) row.wanted = true;
    const elsewhere_micro_usd = others.reduce((sum, { use }) => sum + (use?.spent_micro_usd ?? 0), 0);
    const { granted_micro_usd, granted_tokens } = own;
    return { granted_micro_usd, granted_tokens, elsewhere_micro_usd, enough: micro.enough, wait: micro.wait };
  }

  async giveBack(owner: Owner, key: SliceKey, left: { micro_usd: number; tokens: number }): Promise<void> {
    await this.check(owner);
    const row = this.row(owner.group, key);
    Object.assign(row, { granted_micro_usd: left.micro_usd, granted_tokens: left.tokens, wanted: false });
  }

  async granted(group: number): Promise<readonly (SliceKey & Slice)[]> {
    return [...this.rows.values()]
      .filter((row) => row.group === group)
      .map((row) => ({ ...row, elsewhere_micro_usd: 0 }));
  }

  wanted(groups: readonly number[]): Membership["wanted"] {
    return [...this.rows.values()].filter((row) => row.wanted && groups.includes(row.group));
  }
}
