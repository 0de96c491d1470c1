// Shared budgets (agent, project, team, tenant) as the runs of one shard group use them. Where that is the only group the
// budget is its own; else it spends out of slices, and a call that does not fit into one has to wait until more is granted.
// Invariants: reserved + spent <= limit, and <= the slice, whenever a call was allowed; what an append changes is committed
// with it, so the table always equals the sum of the journal; a reservation is released in the period in which it was made.
import { assert } from "../kit/assert.ts";
import type { SharedBudget } from "../contract/catalog.ts";
import type { BudgetDelta, BudgetUse } from "../contract/journal.ts";
import type { Slice, SliceKey, SliceNeed } from "../contract/slices.ts";
import type { Bound } from "../core/budget.ts";
import { SliceShort } from "../core/decide-context.ts";
import type { LedgerMark, LedgerView, SharedRefusal } from "../core/decide-context.ts";
import type { RunState } from "../core/run-state.ts";
import { addUse, budgetKey, emptyUse } from "../journal/writer.ts";
import { periodStart } from "./period.ts";

/** Part of a run's reservation that was made in one period of one budget. */
interface Held {
  readonly period_us: number;
  micro: number;
  tokens: number;
}

/** One budget as it applies to one run. */
interface Account {
  readonly budget: SharedBudget;
  readonly key: string;
  readonly held: Held[];
  /** The row of the period last looked at: building its key anew for each call costs more than the arithmetic. */
  row: BudgetUse | null;
}

interface RunAccounts {
  /** The list of budgets these accounts were made from; another list (a new apply) makes them anew. */
  readonly source: readonly SharedBudget[];
  readonly accounts: Account[];
}

interface Change {
  spent: number;
  reserved: number;
  spent_tokens: number;
  reserved_tokens: number;
}

/** A slice as it is at hand. */
interface OwnSlice extends Slice {
  /** Asked for in vain: what was needed, and when. */
  readonly refused?: { readonly need: SliceNeed; readonly at_us: number };
}

/** A refusal is asked about again after so long. */
const REFUSED_US = 1_000_000;

export class Ledger implements LedgerView {
  private readonly use = new Map<string, BudgetUse>();
  /** Null where the budgets belong to this group alone. */
  private readonly slices: Map<string, OwnSlice> | null;
  private readonly runs = new Map<string, RunAccounts>();
  private readonly warned = new Set<string>();
  private readonly budgetsOf: (run: RunState) => readonly SharedBudget[];
  private deltas = new Map<BudgetUse, BudgetDelta>();

  constructor(options: {
    use: readonly BudgetUse[];
    budgetsOf: (run: RunState) => readonly SharedBudget[];
    /** What the group was granted so far; absent where it shares its budgets with no other group. */
    slices?: readonly (SliceKey & Slice)[];
  }) {
    this.budgetsOf = options.budgetsOf;
    this.slices = options.slices ? new Map(options.slices.map((slice) => [budgetKey(slice), slice])) : null;
    for (const row of options.use) this.use.set(budgetKey(row), { ...row });
  }

  /** Budgets that count this run, with what it holds of each. */
  private accounts(run: RunState): readonly Account[] {
    const source = this.budgetsOf(run);
    const known = this.runs.get(run.run_id);
    if (known?.source === source) return known.accounts;
    const held = new Map(known?.accounts.map((account) => [account.key, account.held]));
    const accounts = source.flatMap((budget): Account[] => {
      const key = accountKey(budget, run);
      return key === null ? [] : [{ budget, key, held: held.get(key) ?? [], row: null }];
    });
    // A budget that is gone keeps its account until the run has released what it holds of it.
    for (const account of known?.accounts ?? []) {
      if (account.held.length > 0 && !accounts.some(({ key }) => key === account.key)) accounts.push(account);
    }
    this.runs.set(run.run_id, { source, accounts });
    return accounts;
  }

  private row(tenant_id: string, key: string, period_start_us: number): BudgetUse {
    const id = { tenant_id, budget: key, period_start_us };
    const text = budgetKey(id);
    let row = this.use.get(text);
    if (!row) this.use.set(text, (row = emptyUse(id)));
    return row;
  }

  private rowOf(tenant_id: string, account: Account, period_us: number): BudgetUse {
    if (account.row?.period_start_us !== period_us) account.row = this.row(tenant_id, account.key, period_us);
    return account.row;
  }

  check(run: RunState, bound: Bound, now_us: number): SharedRefusal | null {
    for (const account of this.accounts(run)) {
      const { budget } = account;
      const use = this.rowOf(run.tenant_id, account, periodStart(budget.period, now_us));
      const micro = use.spent_micro_usd + use.reserved_micro_usd + bound.micro;
      const tokens = use.spent_tokens + use.reserved_tokens + bound.tokens;
      const over =
        (budget.limit_micro_usd !== null && micro > budget.limit_micro_usd) ||
        (budget.limit_tokens !== null && tokens > budget.limit_tokens);
      if (over || (this.slices && !this.fits(this.slices, needOf(use, budget, micro, tokens), now_us)))
        return { budget: budget.name, action: budget.action };
    }
    return null;
  }

  /** Whether the slice is large enough. Throws SliceShort while that is not known. */
  private fits(slices: ReadonlyMap<string, OwnSlice>, need: SliceNeed, now_us: number): boolean {
    const { limit_micro_usd, limit_tokens, micro_usd, tokens } = need;
    const slice = slices.get(budgetKey(need));
    const enough =
      (limit_micro_usd === null || micro_usd <= (slice?.granted_micro_usd ?? 0)) &&
      (limit_tokens === null || tokens <= (slice?.granted_tokens ?? 0));
    if (enough) return true;
    const refused = slice?.refused;
    if (!refused || now_us - refused.at_us > REFUSED_US || isLess(need, refused.need)) throw new SliceShort(need);
    return false;
  }

  /** What was granted; `refused` when it was not what was needed and there is no more. */
  grant(need: SliceNeed, slice: Slice, refused: { at_us: number } | null): void {
    const { granted_micro_usd, granted_tokens, elsewhere_micro_usd } = slice;
    const own = { granted_micro_usd, granted_tokens, elsewhere_micro_usd };
    this.slices?.set(budgetKey(need), refused ? { ...own, refused: { need, at_us: refused.at_us } } : own);
  }

  /** Keeps only what is used of a slice; says how much that is. */
  shrink(key: SliceKey): { micro_usd: number; tokens: number } {
    const use = this.use.get(budgetKey(key)) ?? emptyUse(key);
    const slice = this.slices?.get(budgetKey(key));
    const left = {
      micro_usd: Math.min(slice?.granted_micro_usd ?? 0, use.spent_micro_usd + use.reserved_micro_usd),
      tokens: Math.min(slice?.granted_tokens ?? 0, use.spent_tokens + use.reserved_tokens),
    };
    const elsewhere_micro_usd = slice?.elsewhere_micro_usd ?? 0;
    const own = { granted_micro_usd: left.micro_usd, granted_tokens: left.tokens, elsewhere_micro_usd };
    this.slices?.set(budgetKey(key), own);
    return left;
  }

  moved(run: RunState, before: LedgerMark, now_us: number): readonly { budget: string; threshold: number }[] {
    const change: Change = {
      spent: run.totals.spent_micro - before.spent_micro,
      reserved: run.totals.reserved_micro - before.reserved_micro,
      spent_tokens: run.totals.spent_tokens - before.spent_tokens,
      reserved_tokens: run.totals.reserved_tokens - before.reserved_tokens,
    };
    const warnings: { budget: string; threshold: number }[] = [];
    for (const account of this.accounts(run)) {
      const now = periodStart(account.budget.period, now_us);
      if (change.reserved > 0 || change.reserved_tokens > 0) {
        hold(account.held, now, change.reserved, change.reserved_tokens);
        this.apply(this.rowOf(run.tenant_id, account, now), change);
        continue;
      }
      const period = account.held[0]?.period_us ?? now;
      if (change.reserved < 0 || change.reserved_tokens < 0) this.release(run, account, change);
      if (change.spent === 0 && change.spent_tokens === 0) continue;
      this.apply(this.rowOf(run.tenant_id, account, period), { ...change, reserved: 0, reserved_tokens: 0 });
      const threshold = this.threshold(run.tenant_id, account, period);
      if (threshold !== null) warnings.push({ budget: account.budget.name, threshold });
    }
    return warnings;
  }

  /** Takes a release out of the oldest periods first. */
  private release(run: RunState, account: Account, change: Change): void {
    let micro = -change.reserved;
    let tokens = -change.reserved_tokens;
    for (const part of account.held) {
      const m = Math.min(micro, part.micro);
      const t = Math.min(tokens, part.tokens);
      part.micro -= m;
      part.tokens -= t;
      micro -= m;
      tokens -= t;
      this.apply(this.rowOf(run.tenant_id, account, part.period_us), {
        spent: 0,
        reserved: -m,
        spent_tokens: 0,
        reserved_tokens: -t,
      });
    }
    while (account.held[0]?.micro === 0 && account.held[0].tokens === 0) account.held.shift();
    // A budget that was declared after the reservation holds nothing of it.
    const late = account.held.length === 0 && micro === -change.reserved && tokens === -change.reserved_tokens;
    assert(late || (micro === 0 && tokens === 0), "no more is released than was reserved", {
      run_id: run.run_id,
      key: account.key,
    });
  }

  private apply(row: BudgetUse, change: Change): void {
    let delta = this.deltas.get(row);
    if (!delta) this.deltas.set(row, (delta = emptyUse(row)));
    add(row, change);
    add(delta, change);
    assert(row.reserved_micro_usd >= 0 && row.spent_micro_usd >= 0, "a budget is never negative");
  }

  private threshold(tenant_id: string, account: Account, period_us: number): number | null {
    const { budget, key } = account;
    if (budget.limit_micro_usd === null || budget.limit_micro_usd === 0) return null;
    const row = this.rowOf(tenant_id, account, period_us);
    const elsewhere = this.slices?.get(budgetKey(row))?.elsewhere_micro_usd ?? 0;
    const share = ((row.spent_micro_usd + elsewhere) / budget.limit_micro_usd) * 100;
    let passed: number | null = null;
    for (const threshold of budget.thresholds) {
      if (share < threshold) continue;
      const mark = `${tenant_id}/${key}/${period_us}/${threshold}`;
      if (!this.warned.has(mark)) passed = threshold;
      this.warned.add(mark);
    }
    return passed;
  }

  /** What changed since the last call: it is committed with the append that caused it. */
  takeDeltas(): readonly BudgetDelta[] {
    if (this.deltas.size === 0) return [];
    const taken = [...this.deltas.values()];
    this.deltas = new Map();
    return taken;
  }

  /** Takes back what an append that was refused had changed, and forgets what the run held. */
  revert(run_id: string, deltas: readonly BudgetDelta[]): void {
    for (const delta of deltas) {
      const row = this.row(delta.tenant_id, delta.budget, delta.period_start_us);
      addUse(row, {
        ...delta,
        spent_micro_usd: -delta.spent_micro_usd,
        reserved_micro_usd: -delta.reserved_micro_usd,
        spent_tokens: -delta.spent_tokens,
        reserved_tokens: -delta.reserved_tokens,
      });
    }
    this.deltas = new Map();
    this.runs.delete(run_id);
  }

  /** Forgets a run that has ended: all of its reservations are released by then. */
  forget(run_id: string): void {
    this.runs.delete(run_id);
  }

  /** After a restart: the open reservations of a recovered run. They are in the table already; only who holds them is not. */
  restore(run: RunState): void {
    for (const account of this.accounts(run)) {
      account.held.length = 0;
      for (const step of run.steps.values()) {
        if (step.reserved_micro === 0 && step.reserved_tokens === 0) continue;
        hold(
          account.held,
          periodStart(account.budget.period, step.reserved_at_us),
          step.reserved_micro,
          step.reserved_tokens,
        );
      }
    }
  }

  /** What an imported open run still holds, as changes to be committed with its append. */
  heldBy(run: RunState): BudgetDelta[] {
    const deltas: BudgetDelta[] = [];
    for (const { budget, key } of this.accounts(run)) {
      for (const step of run.steps.values()) {
        if (step.reserved_micro === 0 && step.reserved_tokens === 0) continue;
        const id = {
          tenant_id: run.tenant_id,
          budget: key,
          period_start_us: periodStart(budget.period, step.reserved_at_us),
        };
        deltas.push({
          ...emptyUse(id),
          reserved_micro_usd: step.reserved_micro,
          reserved_tokens: step.reserved_tokens,
        });
      }
    }
    return deltas;
  }

  /** Takes over changes that were committed from outside (an import). */
  absorb(deltas: readonly BudgetDelta[]): void {
    for (const delta of deltas) addUse(this.row(delta.tenant_id, delta.budget, delta.period_start_us), delta);
  }

  /** Use of all budgets as decided so far, for reports. */
  snapshot(): readonly BudgetUse[] {
    return [...this.use.values()];
  }
}

/** What the group has to be granted for its use to become so much. */
function needOf(row: BudgetUse, of: SharedBudget, micro_usd: number, tokens: number): SliceNeed {
  const { tenant_id, budget, period_start_us } = row;
  const { limit_micro_usd, limit_tokens } = of;
  return { tenant_id, budget, period_start_us, limit_micro_usd, limit_tokens, micro_usd, tokens };
}

/** Less was asked for, or more may be had: a refusal says nothing of it. */
function isLess(need: SliceNeed, refused: SliceNeed): boolean {
  return (
    need.micro_usd < refused.micro_usd ||
    need.tokens < refused.tokens ||
    need.limit_micro_usd !== refused.limit_micro_usd ||
    need.limit_tokens !== refused.limit_tokens
  );
}

function add(use: BudgetUse, change: Change): void {
  use.spent_micro_usd += change.spent;
  use.reserved_micro_usd += change.reserved;
  use.spent_tokens += change.spent_tokens;
  use.reserved_tokens += change.reserved_tokens;
}

/** Unique within the tenant; null when the budget does not count this run. */
function accountKey(budget: SharedBudget, run: RunState): string | null {
  if (budget.scope === "tenant") return budget.name;
  if (budget.scope === "project") return `${run.project}:${budget.name}`;
  const agent = run.target.slice(0, run.target.lastIndexOf("@"));
  const team = typeof run.labels["team"] === "string" ? run.labels["team"] : "";
  const subject = budget.scope === "agent" ? agent : team;
  if (subject === "" || (budget.subject !== "*" && budget.subject !== subject)) return null;
  return `${run.project}:${budget.name}:${subject}`;
}

function hold(held: Held[], period_us: number, micro: number, tokens: number): void {
  const last = held.at(-1);
  if (last?.period_us === period_us) {
    last.micro += micro;
    last.tokens += tokens;
  } else held.push({ period_us, micro, tokens });
}
