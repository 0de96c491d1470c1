// Slices of shared budgets in the database: never more than the limit over all groups, and only for who owns the group.
import { afterAll, beforeAll, expect, test } from "vitest";
import { TENANT } from "../../test/support/engine.ts";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { withClient } from "../adapters/postgres/db.ts";
import { FencedError } from "../contract/journal.ts";
import type { Db, DbScope, DbTx } from "../contract/ports.ts";
import type { SliceNeed } from "../contract/slices.ts";
import { PostgresJournalStore } from "../journal/postgres-store.ts";
import { PostgresBudgetSlices, wantedSlices } from "./budget-slices.ts";

const GROUPS = 4;
const LIMIT = 1_000;
let database: TestDatabase;
let slices: PostgresBudgetSlices;
let budgets = 0;
beforeAll(async () => {
  database = await testDatabase();
  slices = new PostgresBudgetSlices(database.db, GROUPS);
  await withClient(database.owner, async (tx) => {
    await tx.query({ text: `insert into qd.groups select g, 0, 0, '' from generate_series(1, ${GROUPS - 1}) g` });
    await tx.query({ text: "update qd.groups set shard_epoch = 1" });
  });
});
afterAll(() => database.close());

const owner = (group: number) => ({ group, shard_epoch: 1 });
const needOf = (budget: string, micro_usd: number, more: Partial<SliceNeed> = {}): SliceNeed => ({
  tenant_id: TENANT,
  budget,
  period_start_us: 0,
  limit_micro_usd: LIMIT,
  limit_tokens: null,
  micro_usd,
  tokens: 0,
  ...more,
});
const fresh = () => `b${(budgets += 1)}`;
const wanted = (groups: number[]) => database.db.transaction({ role: "qd_system" }, (tx) => wantedSlices(tx, groups));

test("a group gets what it needs and some more; all together never more than the limit", async () => {
  const budget = fresh();
  // An eighth of what is free, by groups of four.
  expect(await slices.ask(owner(0), needOf(budget, 10))).toMatchObject({ granted_micro_usd: 125, enough: true });
  expect(await slices.ask(owner(0), needOf(budget, 100))).toMatchObject({ granted_micro_usd: 125, enough: true });
  expect(await slices.ask(owner(1), needOf(budget, 600))).toMatchObject({ granted_micro_usd: 600, enough: true });
  expect(await slices.ask(owner(2), needOf(budget, 275))).toMatchObject({ granted_micro_usd: 275, enough: true });
  expect(await slices.ask(owner(3), needOf(budget, 1_001))).toMatchObject({ enough: false, wait: false });
});

test("where others do not use theirs they are asked for it; what they give back can be had", async () => {
  const budget = fresh();
  await slices.ask(owner(0), needOf(budget, 900));
  expect(await slices.ask(owner(1), needOf(budget, 400))).toMatchObject({
    enough: false,
    wait: true,
    granted_micro_usd: 0,
  });
  const [key] = await wanted([0, 1, 2]);
  expect(key).toMatchObject({ budget, group: 0, tenant_id: TENANT });
  await slices.giveBack(owner(0), needOf(budget, 0), { micro_usd: 500, tokens: 0 });
  expect(await wanted([0, 1, 2])).toEqual([]);
  expect(await slices.ask(owner(1), needOf(budget, 400))).toMatchObject({ enough: true, granted_micro_usd: 400 });
  expect(await slices.granted(1)).toContainEqual(expect.objectContaining({ budget, granted_micro_usd: 400 }));
});

test("what others have used counts, also beyond what they were granted", async () => {
  const budget = fresh();
  await slices.ask(owner(0), needOf(budget, 100));
  const values = ["00000000-0000-7000-8000-000000000001", budget];
  await withClient(database.owner, (tx) =>
    tx.query({
      text: `set role qd_append; set qd.tenants = '${values[0]}';
        insert into qd.budget_use (grp, tenant_id, budget, period_start_us, spent_micro_usd, reserved_micro_usd, spent_tokens, reserved_tokens)
        values (0, '${values[0]}', '${values[1]}', 0, 700, 100, 0, 0)`,
    }),
  );
  expect(await slices.ask(owner(1), needOf(budget, 201))).toMatchObject({ enough: false, wait: false });
  expect(await slices.ask(owner(1), needOf(budget, 200))).toMatchObject({ enough: true, elsewhere_micro_usd: 700 });
});

test("money and tokens are granted together, or not at all", async () => {
  const budget = fresh();
  const both = { limit_tokens: 50 };
  const short = await slices.ask(owner(0), needOf(budget, 10, { ...both, tokens: 60 }));
  expect(short).toMatchObject({ enough: false, wait: false, granted_micro_usd: 0, granted_tokens: 0 });
  const fits = await slices.ask(owner(0), needOf(budget, 10, { ...both, tokens: 40 }));
  expect(fits).toMatchObject({ enough: true, granted_micro_usd: 125, granted_tokens: 40 });
});

test("many that ask at once are never granted more than there is", async () => {
  const budget = fresh();
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, n) =>
      slices.ask(owner(n % GROUPS), needOf(budget, 20 * (1 + Math.floor(n / GROUPS)))),
    ),
  );
  expect(answers.some((answer) => answer.enough)).toBe(true);
  const granted = await Promise.all(Array.from({ length: GROUPS }, (_, group) => slices.granted(group)));
  const sum = granted.flat().reduce((total, one) => total + (one.budget === budget ? one.granted_micro_usd : 0), 0);
  expect(sum).toBeLessThanOrEqual(LIMIT);
});

test("who takes a group over reads what its former owner was just about to give back", async () => {
  const budget = fresh();
  await slices.ask(owner(3), needOf(budget, 400));
  let commit = (): void => undefined;
  let reached = (): void => undefined;
  const isWritten = new Promise<void>((resolve) => (reached = resolve));
  const gate = new Promise<void>((resolve) => (commit = resolve));
  // Frozen between the statement and the commit.
  const slow: Db = Object.create(database.db, {
    transaction: {
      value: <T>(scope: DbScope, work: (tx: DbTx) => Promise<T>) =>
        database.db.transaction(scope, async (tx) => {
          const value = await work(tx);
          reached();
          await gate;
          return value;
        }),
    },
  });
  const giving = new PostgresBudgetSlices(slow, GROUPS).giveBack(owner(3), needOf(budget, 0), {
    micro_usd: 0,
    tokens: 0,
  });
  await isWritten;
  const heir = new PostgresJournalStore(database.db);
  const taken = heir.acquireGroup(3, "heir").then(async (lease) => {
    const granted = (await slices.granted(3)).find((one) => one.budget === budget);
    return { lease, granted: granted?.granted_micro_usd };
  });
  await new Promise((resolve) => setTimeout(resolve, 200));
  commit();
  await giving;
  expect(await taken).toMatchObject({ lease: { shard_epoch: 2 }, granted: 0 });
  await expect(slices.ask(owner(3), needOf(budget, 10))).rejects.toBeInstanceOf(FencedError);
});

test("a former owner gets nothing and gives nothing back", async () => {
  const budget = fresh();
  const former = { group: 0, shard_epoch: 0 };
  await expect(slices.ask(former, needOf(budget, 10))).rejects.toBeInstanceOf(FencedError);
  await expect(slices.giveBack(former, needOf(budget, 0), { micro_usd: 0, tokens: 0 })).rejects.toBeInstanceOf(
    FencedError,
  );
});
