// What every journal store must do; run on the in-memory and on the Postgres store.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newId } from "../contract/ids.ts";
import { FencedError } from "../contract/journal.ts";
import type { AppendRow, Flush, JournalStore, RunSummary } from "../contract/journal.ts";
import { chainStart, encodeAppend } from "../core/chain.ts";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { appendLeaf } from "./checkpoint.ts";
import { GroupWriter } from "./writer.ts";
import { verifyRun } from "./verify.ts";

const seams = { clock: systemClock, random: systemRandom };

export function rowsOf(tenant_id: string, run_id: string, lengths: readonly number[]): AppendRow[] {
  let chain = chainStart(tenant_id, run_id);
  let seq = 0;
  return lengths.map((length) => {
    const drafts = Array.from({ length }, (_, i) => ({
      type: seq + i === 0 ? ("run.started" as const) : ("step.ended" as const),
      data: { text: "é\u{1f600}", n: i },
    }));
    const encoded = encodeAppend({ drafts, seq, chain, at_us: 1_700_000_000_000_000 });
    const row = {
      tenant_id,
      run_id,
      first_seq: seq + 1,
      last_seq: encoded.last_seq,
      body: encoded.body,
      chain: encoded.chain,
    };
    ({ chain, last_seq: seq } = encoded);
    return row;
  });
}

const flushOf = (rows: readonly AppendRow[], more: Partial<Flush> = {}): Flush => ({
  rows,
  runs: [],
  approvals: [],
  budgets: [],
  at_us: 1_700_000_000_000_000,
  ...more,
});

const summary = (tenant_id: string, run_id: string, state: RunSummary["state"]): RunSummary => ({
  tenant_id,
  run_id,
  project_id: "default",
  kind: "agent",
  target: "a@1",
  env: "dev",
  state,
  reason: null,
  requester: "ada",
  created_at_us: 1,
  updated_at_us: 2,
  steps: 0,
  cost_micro_usd: 0,
  tokens: 0,
  retry_of: null,
  source_run_id: null,
  external_id: null,
  sealed: false,
});

/** `open` gives the same journal each time it is called: what was committed must be there. */
export function journalStoreSuite(
  name: string,
  open: () => Promise<{ store: JournalStore; close: () => Promise<void> }>,
): void {
  describe(`journal store: ${name}`, () => {
    let store: JournalStore;
    let close: () => Promise<void>;
    const tenant = newId("tenant", seams);
    const run = () => newId("run", seams);

    beforeAll(async () => {
      ({ store, close } = await open());
    });
    afterAll(() => close());

    test("what is flushed is read back byte for byte, in order, with gapless offsets", async () => {
      const lease = await store.acquireGroup(0, "a");
      const run_id = run();
      const rows = rowsOf(tenant, run_id, [1, 3, 2]);
      expect(await store.flush(lease, flushOf(rows))).toEqual({ ok: true });
      const read = await store.readRun(tenant, run_id, 1, 10);
      expect(read.map((row) => row.body.toString())).toEqual(rows.map((row) => row.body.toString()));
      expect(read.map((row) => row.offset)).toEqual([lease.head + 1, lease.head + 2, lease.head + 3]);
      expect(verifyRun(read)).toMatchObject({ events: 6 });
      expect((await store.readRun(tenant, run_id, 5, 10)).map((row) => row.first_seq)).toEqual([5]);
    });

    test("a flush with an old epoch or an old head is refused and writes nothing", async () => {
      const old = await store.acquireGroup(0, "a");
      const now = await store.acquireGroup(0, "b");
      const run_id = run();
      await expect(store.flush(old, flushOf(rowsOf(tenant, run_id, [1])))).rejects.toThrow(FencedError);
      await store.flush(now, flushOf(rowsOf(tenant, run(), [1])));
      await expect(store.flush(now, flushOf(rowsOf(tenant, run_id, [1])))).rejects.toThrow(FencedError);
      expect(await store.readRun(tenant, run_id, 1, 10)).toEqual([]);
      expect((await store.groupHead(0)).head).toBe(now.head + 1);
    });

    test("a row that breaks the order of its run is refused, and with it nothing of its flush is written", async () => {
      const lease = await store.acquireGroup(0, "a");
      const [bad, good] = [run(), run()];
      const [first] = rowsOf(tenant, bad, [2]);
      await store.flush(lease, flushOf([first as AppendRow]));
      const after = { ...lease, head: lease.head + 1 };
      const result = await store.flush(after, flushOf([...rowsOf(tenant, good, [1]), first as AppendRow]));
      expect(result).toEqual({ ok: false, rejected: [bad] });
      expect(await store.readRun(tenant, good, 1, 10)).toEqual([]);
    });

    test("of a run that part is read that was asked for, in whole appends", async () => {
      const lease = await store.acquireGroup(0, "a");
      const run_id = run();
      await store.flush(lease, flushOf(rowsOf(tenant, run_id, [3, 1, 4, 2])));
      const from = async (...range: [number, number, number?]) =>
        (await store.readRun(tenant, run_id, ...range)).map((row) => row.first_seq);
      expect(await from(1, 10)).toEqual([1, 4, 5, 9]);
      expect(await from(3, 10)).toEqual([1, 4, 5, 9]);
      expect(await from(4, 10, 5)).toEqual([4, 5]);
      expect(await from(6, 10, 8)).toEqual([5]);
      expect(await from(2, 1, 8)).toEqual([1]);
      expect(await from(11, 10, 20)).toEqual([]);
    });

    test("another tenant's run is not there", async () => {
      const lease = await store.acquireGroup(0, "a");
      const run_id = run();
      await store.flush(lease, flushOf(rowsOf(tenant, run_id, [1])));
      expect(await store.readRun(newId("tenant", seams), run_id, 1, 10)).toEqual([]);
      expect(await store.readRun(null, run_id, 1, 10)).toHaveLength(1);
    });

    test("many runs are read at once, run after run, up to a number of rows", async () => {
      const lease = await store.acquireGroup(0, "a");
      const ids = [run(), run(), run()].sort();
      const rows = ids.flatMap((id) => rowsOf(tenant, id, [1, 2]));
      await store.flush(lease, flushOf(rows.toReversed().toSorted((a, b) => a.first_seq - b.first_seq)));
      const places = (read: readonly AppendRow[]) => read.map((row) => `${row.run_id}/${row.first_seq}`);
      expect(places(await store.readRuns(ids.toReversed(), 100))).toEqual(places(rows));
      expect(places(await store.readRuns(ids, 3))).toEqual(places(rows.slice(0, 3)));
      expect(await store.readRuns([], 10)).toEqual([]);
    });

    test("open runs are those whose last summary is not terminal", async () => {
      const lease = await store.acquireGroup(0, "a");
      const [a, b] = [run(), run()];
      await store.flush(
        lease,
        flushOf([...rowsOf(tenant, a, [1]), ...rowsOf(tenant, b, [1])], {
          runs: [summary(tenant, a, "running"), summary(tenant, b, "succeeded")],
        }),
      );
      const open_runs = await store.openRuns(0, null, 10_000);
      expect(open_runs).toContain(a);
      expect(open_runs).not.toContain(b);
      expect(await store.openRuns(0, a, 10_000)).not.toContain(a);
    });

    test("budget use is kept as the last flush said it", async () => {
      const lease = await store.acquireGroup(0, "a");
      const use = {
        tenant_id: tenant,
        budget: "b",
        period_start_us: 0,
        spent_micro_usd: 5,
        reserved_micro_usd: 7,
        spent_tokens: 1,
        reserved_tokens: 0,
      };
      await store.flush(lease, flushOf(rowsOf(tenant, run(), [1]), { budgets: [use] }));
      await store.flush(
        { ...lease, head: lease.head + 1 },
        flushOf(rowsOf(tenant, run(), [1]), { budgets: [{ ...use, reserved_micro_usd: 0 }] }),
      );
      expect((await store.budgetUse(0)).find((row) => row.budget === "b" && row.tenant_id === tenant)).toEqual({
        ...use,
        reserved_micro_usd: 0,
      });
    });

    test("the writer commits many runs at once, and a refused row fails one of them", async () => {
      const taken = await store.acquireGroup(0, "a");
      const runs = Array.from({ length: 40 }, run);
      // The run at 7 has its first event already: another one at its place is poison.
      await store.flush(taken, flushOf(rowsOf(tenant, runs[7] ?? "", [1])));
      const lease = { ...taken, head: taken.head + 1 };
      const clock = { ...systemClock, now_us: () => 1_700_000_000_000_000 };
      const writer = new GroupWriter({ store, clock, lease, budgets: [], onFailure: () => undefined });
      const rows = runs.map((id) => rowsOf(tenant, id, [2])[0] as AppendRow);
      const results = await Promise.allSettled(
        rows.map((row) => writer.append({ row, run: null, approvals: [], budgets: [] })),
      );
      expect(results.map((r, i) => (r.status === "rejected" ? i : -1)).filter((i) => i >= 0)).toEqual([7]);
      const offsets = results.flatMap((r) => (r.status === "fulfilled" ? [r.value] : []));
      expect([...offsets].sort((a, b) => a - b)).toEqual(Array.from({ length: 39 }, (_, i) => lease.head + 1 + i));
      expect((await store.readGroup(0, lease.head, 100)).map((row) => row.offset)).toEqual(
        Array.from({ length: 39 }, (_, i) => lease.head + 1 + i),
      );
    });

    test("leaves for checkpoints are those of the appends, for each tenant in order, page after page", async () => {
      const lease = await store.acquireGroup(0, "a");
      const other = newId("tenant", seams);
      const rows = [tenant, other, tenant].flatMap((id) => rowsOf(id, run(), [1, 2]));
      await store.flush(lease, flushOf(rows));
      const last = lease.head + rows.length;
      const expected = (id: string, after: number) =>
        rows
          .filter((row, i) => row.tenant_id === id && lease.head + 1 + i > after)
          .map((row) => appendLeaf(row).toString("hex"))
          .join("");
      const read = async (after: number, limit: number, ends = new Map<string, number>()) => {
        const { to_off, leaves } = await store.readLeaves(0, after, limit, ends);
        return {
          to_off,
          leaves: Object.fromEntries([...leaves].map(([id, b]) => [id, Buffer.from(b).toString("hex")])),
        };
      };
      const all = { [tenant]: expected(tenant, 0), [other]: expected(other, 0) };
      expect(await read(lease.head, 100)).toEqual({ to_off: last, leaves: all });
      const first = await read(lease.head, 3);
      const second = await read(first.to_off, 100);
      expect(first.to_off).toBe(lease.head + 3);
      expect(`${first.leaves[tenant]}${second.leaves[tenant]}`).toBe(all[tenant]);
      expect(`${first.leaves[other]}${second.leaves[other]}`).toBe(all[other]);
      // What a tenant has signed already is left out; the others are not.
      const some = await read(
        lease.head,
        100,
        new Map([
          [tenant, lease.head + 5],
          [other, last],
        ]),
      );
      expect(some).toEqual({ to_off: last, leaves: { [tenant]: expected(tenant, lease.head + 5) } });
      expect(await read(last, 100)).toEqual({ to_off: last, leaves: {} });
    });

    test("the writer refuses an append that has no events, no order or no chain value", async () => {
      const lease = await store.acquireGroup(0, "a");
      const writer = new GroupWriter({ store, clock: systemClock, lease, budgets: [], onFailure: () => undefined });
      const good = rowsOf(tenant, run(), [2])[0] as AppendRow;
      for (const bad of [{ first_seq: 0 }, { last_seq: 0 }, { chain: Buffer.alloc(31) }, { body: Buffer.alloc(0) }]) {
        const append = { row: { ...good, ...bad }, run: null, approvals: [], budgets: [] };
        await expect(async () => writer.append(append)).rejects.toThrow("an append has events");
      }
      expect((await store.groupHead(0)).head).toBe(lease.head);
    });
  });
}
