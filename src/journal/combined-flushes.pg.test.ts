// Flushes of several groups in one commit: all of them or none, and each group's writer learns what became of its own.
import { afterAll, beforeAll, expect, test } from "vitest";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { seams, TENANT } from "../../test/support/engine.ts";
import { withClient } from "../adapters/postgres/db.ts";
import { newId } from "../contract/ids.ts";
import { FencedError } from "../contract/journal.ts";
import type { AppendRow, BudgetUse, Flush, GroupLease, RunSummary } from "../contract/journal.ts";
import { CombinedFlushes } from "./combined-flushes.ts";
import { PostgresJournalStore } from "./postgres-store.ts";

const GROUPS = 4;
let database: TestDatabase;
let store: PostgresJournalStore;
beforeAll(async () => {
  database = await testDatabase();
  await withClient(database.owner, async (tx) => {
    await tx.query({ text: `insert into qd.groups select g, 0, 0, '' from generate_series(1, ${GROUPS - 1}) g` });
    await tx.query({ text: "alter table qd.budget_use drop constraint budget_use_pkey" });
  });
  store = new PostgresJournalStore(database.db);
});
afterAll(async () => {
  await store.close();
  await database.close();
});

const rowOf = (text: string, run_id = newId("run", seams)): AppendRow => ({
  tenant_id: TENANT,
  run_id,
  first_seq: 1,
  last_seq: 1,
  body: Buffer.from(text),
  chain: Buffer.alloc(32, 1),
});
const summaryOf = ({ run_id }: AppendRow, target: string): RunSummary => ({
  tenant_id: TENANT,
  project_id: "p",
  run_id,
  kind: "workflow",
  target,
  env: "dev",
  state: "running",
  reason: null,
  requester: "ada",
  created_at_us: 1,
  updated_at_us: 1,
  steps: 0,
  cost_micro_usd: 0,
  tokens: 0,
  retry_of: null,
  source_run_id: null,
  external_id: null,
  sealed: false,
});
const use = (spent_micro_usd: number): BudgetUse => ({
  tenant_id: TENANT,
  budget: "b",
  period_start_us: 0,
  spent_micro_usd,
  reserved_micro_usd: 0,
  spent_tokens: 0,
  reserved_tokens: 0,
});
const flushOf = (rows: readonly AppendRow[], more: Partial<Flush> = {}): Flush => ({
  rows,
  runs: [],
  approvals: [],
  budgets: [],
  at_us: 1_700_000_000_123_000,
  ...more,
});
const heads = () =>
  Promise.all(Array.from({ length: GROUPS }, async (_, group) => (await store.groupHead(group)).head));
const leasesOf = async () => {
  const leases: GroupLease[] = [];
  for (let group = 0; group < GROUPS; group++) leases.push(await store.acquireGroup(group, "me"));
  return leases;
};

test("what comes while a commit is in flight goes out as one; every row has its group, its offset and its time", async () => {
  let commits = 0;
  const counted = {
    flush: (...given: Parameters<PostgresJournalStore["flush"]>) => ((commits += 1), store.flush(...given)),
    flushMany: (...given: Parameters<PostgresJournalStore["flushMany"]>) => ((commits += 1), store.flushMany(...given)),
  };
  const combined = new CombinedFlushes(counted).over(store);
  const leases = await leasesOf();
  const rows = leases.map(({ group }) => [rowOf(`{"a":${group}}`), rowOf(`{"b":${group}}`)]);
  const done = await Promise.all(
    leases.map((lease, group) => {
      const own = rows[group] ?? [];
      const runs = own.slice(0, 1).map((row) => summaryOf(row, `of ${group}`));
      return combined.flush(lease, flushOf(own, { runs, budgets: [use(10 * (group + 1))] }));
    }),
  );
  expect([done.every(({ ok }) => ok), commits]).toEqual([true, 1]);
  expect(await heads()).toEqual(leases.map((lease) => lease.head + 2));
  for (const { group, head } of leases) {
    const found = await store.readGroup(group, head, 10);
    expect(found.map((row) => [row.group, row.offset, row.at_us, row.body.toString()])).toEqual([
      [group, head + 1, 1_700_000_000_123_000, `{"a":${group}}`],
      [group, head + 2, 1_700_000_000_123_000, `{"b":${group}}`],
    ]);
    expect(await store.openRuns(group, null, 10)).toEqual([rows[group]?.[0]?.run_id]);
    expect((await store.budgetUse(group))[0]?.spent_micro_usd).toBe(10 * (group + 1));
  }
  expect((await store.budgetUse(null))[0]?.spent_micro_usd).toBe(100);
});

test("where one is fenced or refused the others are written, and only it is told", async () => {
  const combined = new CombinedFlushes(store).over(store);
  const leases = await leasesOf();
  const before = await heads();
  await store.acquireGroup(1, "another");
  const bad = rowOf("x");
  const outcomes = await Promise.allSettled(
    leases.map((lease, group) =>
      combined.flush(
        lease,
        // A NUL in a name is what the database refuses.
        group === 2 ? flushOf([bad], { runs: [summaryOf(bad, "a\u0000b")] }) : flushOf([rowOf(`{"c":${group}}`)]),
      ),
    ),
  );
  expect(outcomes.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : outcome.reason))).toEqual([
    { ok: true },
    expect.any(FencedError),
    { ok: false, rejected: [bad.run_id] },
    { ok: true },
  ]);
  expect(await heads()).toEqual(before.map((head, group) => (group === 0 || group === 3 ? head + 1 : head)));
});
