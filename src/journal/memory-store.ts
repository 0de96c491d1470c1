// The in-memory journal: for simulation and unit tests. Same contract and suite as the Postgres store.
// `fault` lets a simulation make a flush fail before or after it took effect, as a broken connection would.
import { FencedError, UnknownCommitError } from "../contract/journal.ts";
import type {
  ApprovalRow,
  BudgetUse,
  CommittedRow,
  Flush,
  FlushResult,
  GroupLease,
  JournalStore,
  RunSummary,
} from "../contract/journal.ts";
import { isTerminal } from "../contract/events.ts";
import { appendLeaf } from "./checkpoint.ts";
import { addUse } from "./writer.ts";

/** What happens to one flush: `before` = lost on the way, `after` = committed but the answer was lost. */
export type FlushFault = "none" | "before" | "after" | "reject";

export class MemoryJournalStore implements JournalStore {
  readonly rows: CommittedRow[] = [];
  readonly runs = new Map<string, RunSummary>();
  readonly approvals = new Map<string, ApprovalRow>();
  readonly budgets = new Map<string, BudgetUse>();
  private readonly groups = new Map<number, { shard_epoch: number; head: number; owner: string }>();
  private readonly byRun = new Map<string, CommittedRow[]>();
  /** Called at each flush; awaits model the network. */
  fault: () => Promise<FlushFault> = async () => "none";

  async acquireGroup(group: number, owner: string): Promise<GroupLease> {
    const current = this.groups.get(group) ?? { shard_epoch: 0, head: 0, owner };
    const next = { shard_epoch: current.shard_epoch + 1, head: current.head, owner };
    this.groups.set(group, next);
    return { group, shard_epoch: next.shard_epoch, head: next.head };
  }

  async flush(lease: GroupLease, flush: Flush): Promise<FlushResult> {
    const fault = await this.fault();
    if (fault === "before") throw new UnknownCommitError("the connection broke before the commit");
    const group = this.groups.get(lease.group);
    if (!group || group.shard_epoch !== lease.shard_epoch || group.head !== lease.head) {
      throw new FencedError(`group ${lease.group} has another owner or head`);
    }
    if (fault === "reject") return { ok: false, rejected: flush.rows.slice(0, 1).map((row) => row.run_id) };
    const ends = new Map<string, number>();
    for (const row of flush.rows) {
      const end = ends.get(row.run_id) ?? this.byRun.get(row.run_id)?.at(-1)?.last_seq ?? 0;
      if (end !== row.first_seq - 1) return { ok: false, rejected: [row.run_id] };
      ends.set(row.run_id, row.last_seq);
    }
    for (const row of flush.rows) {
      group.head += 1;
      const committed = { ...row, group: lease.group, offset: group.head, at_us: flush.at_us };
      this.rows.push(committed);
      this.byRun.set(row.run_id, [...(this.byRun.get(row.run_id) ?? []), committed]);
    }
    for (const run of flush.runs) this.runs.set(run.run_id, run);
    for (const approval of flush.approvals) this.approvals.set(approval.approval_id, approval);
    for (const use of flush.budgets)
      this.budgets.set(`${lease.group}/${use.tenant_id}/${use.budget}/${use.period_start_us}`, use);
    if (fault === "after") throw new UnknownCommitError("the connection broke after the commit");
    return { ok: true };
  }

  async groupHead(group: number): Promise<{ shard_epoch: number; head: number }> {
    const current = this.groups.get(group);
    return { shard_epoch: current?.shard_epoch ?? 0, head: current?.head ?? 0 };
  }

  async readRun(
    tenant_id: string | null,
    run_id: string,
    from_seq: number,
    limit_rows: number,
    to_seq = Infinity,
  ): Promise<CommittedRow[]> {
    return (this.byRun.get(run_id) ?? [])
      .filter((row) => row.last_seq >= from_seq && row.first_seq <= to_seq)
      .filter((row) => tenant_id === null || row.tenant_id === tenant_id)
      .slice(0, limit_rows);
  }

  async readRuns(run_ids: readonly string[], limit_rows: number): Promise<CommittedRow[]> {
    return run_ids
      .toSorted()
      .flatMap((id) => this.byRun.get(id) ?? [])
      .slice(0, limit_rows);
  }

  async readGroup(group: number, after_offset: number, limit_rows: number): Promise<CommittedRow[]> {
    return this.rows.filter((row) => row.group === group && row.offset > after_offset).slice(0, limit_rows);
  }

  async readLeaves(
    group: number,
    after_offset: number,
    limit_rows: number,
    ends: ReadonlyMap<string, number>,
  ): Promise<{ to_off: number; leaves: Map<string, Buffer> }> {
    const rows = await this.readGroup(group, after_offset, limit_rows);
    const leaves = new Map<string, Buffer>();
    for (const row of rows) {
      if (row.offset <= (ends.get(row.tenant_id) ?? 0)) continue;
      leaves.set(row.tenant_id, Buffer.concat([leaves.get(row.tenant_id) ?? Buffer.alloc(0), appendLeaf(row)]));
    }
    return { to_off: rows.at(-1)?.offset ?? after_offset, leaves };
  }

  async openRuns(group: number, after_run_id: string | null, limit: number): Promise<string[]> {
    const ids = new Set(this.rows.filter((row) => row.group === group).map((row) => row.run_id));
    return [...this.runs.values()]
      .filter((run) => ids.has(run.run_id) && !isTerminal(run.state))
      .map((run) => run.run_id)
      .filter((id) => after_run_id === null || id > after_run_id)
      .sort()
      .slice(0, limit);
  }

  async budgetUse(group: number | null): Promise<BudgetUse[]> {
    const sums = new Map<string, BudgetUse>();
    for (const [key, use] of this.budgets) {
      const [of = "", ...name] = key.split("/");
      if (group !== null && Number(of) !== group) continue;
      const sum = sums.get(name.join("/"));
      if (sum) addUse(sum, use);
      else sums.set(name.join("/"), { ...use });
    }
    return [...sums.values()];
  }
}
