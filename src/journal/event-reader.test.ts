import { expect, test } from "vitest";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { newId } from "../contract/ids.ts";
import { expandRun } from "../core/envelope.ts";
import { EventReader } from "./event-reader.ts";
import { MemoryJournalStore } from "./memory-store.ts";
import { rowsOf } from "./store.suite.ts";

const seams = { clock: systemClock, random: systemRandom };

class CountingStore extends MemoryJournalStore {
  rows_read = 0;
  override async readRun(...args: Parameters<MemoryJournalStore["readRun"]>) {
    const rows = await super.readRun(...args);
    this.rows_read += rows.length;
    return rows;
  }
}

async function runOf(lengths: readonly number[]) {
  const store = new CountingStore();
  const [tenant_id, run_id] = [newId("tenant", seams), newId("run", seams)];
  const lease = await store.acquireGroup(0, "t");
  await store.flush(lease, {
    rows: rowsOf(tenant_id, run_id, lengths),
    runs: [],
    approvals: [],
    budgets: [],
    at_us: 1,
  });
  const whole = expandRun(await store.readRun(tenant_id, run_id, 1, 10_000));
  store.rows_read = 0;
  return { store, tenant_id, run_id, whole, reader: new EventReader(store) };
}

test.each([1, 2, 3, 7, 1_000])("pages of %i join to the whole run", async (limit) => {
  const { reader, tenant_id, run_id, whole } = await runOf([3, 1, 4, 1, 5, 9, 2]);
  const joined = [];
  for (let after_seq = 0; ;) {
    const page = await reader.read({ tenant_id, run_id, after_seq, limit });
    joined.push(...page);
    if (page.length < limit) break;
    after_seq = page.at(-1)?.seq ?? 0;
  }
  expect(joined).toEqual(whole);
  expect(await reader.read({ tenant_id, run_id, after_seq: 2, limit: 2 })).toEqual(whole.slice(2, 4));
});

test("whoever follows a run reads what is new, not the run again", async () => {
  const { store, reader, tenant_id, run_id } = await runOf(Array.from({ length: 2_000 }, () => 3));
  for (let after_seq = 0; after_seq < 6_000; after_seq += 30) {
    expect(await reader.read({ tenant_id, run_id, after_seq, limit: 30 })).toHaveLength(30);
  }
  // 200 pages of at most 30 rows; from the beginning each time it would be 200,000.
  expect(store.rows_read).toBeLessThanOrEqual(200 * 30);
  expect(await reader.read({ tenant_id, run_id, after_seq: 6_000, limit: 30 })).toEqual([]);
});

test("of appends with many events only those are read that hold what is given out", async () => {
  const { store, reader, tenant_id, run_id } = await runOf(Array.from({ length: 50 }, () => 400));
  for (let after_seq = 0; after_seq < 20_000; after_seq += 100)
    await reader.read({ tenant_id, run_id, after_seq, limit: 100 });
  // One for each page, and not all fifty.
  expect(store.rows_read).toBeLessThanOrEqual(200);
});

test("several that read one run at different places do not cost each other anything", async () => {
  const { store, reader, tenant_id, run_id } = await runOf(Array.from({ length: 2_000 }, () => 3));
  const places = Array.from({ length: 10 }, (_, i) => i * 300);
  for (const after_seq of places) await reader.read({ tenant_id, run_id, after_seq, limit: 30 });
  store.rows_read = 0;
  for (let page = 1; page < 50; page++)
    for (const place of places) {
      const found = await reader.read({ tenant_id, run_id, after_seq: place + page * 30, limit: 30 });
      expect(found[0]?.seq).toBe(place + page * 30 + 1);
    }
  // 490 pages of at most 30 rows; with one place kept it is 500,000.
  expect(store.rows_read).toBeLessThanOrEqual(490 * 31);
});

test("who pages through a run as it happened looks through it once", async () => {
  const { store, reader, tenant_id, run_id, whole } = await runOf(Array.from({ length: 1_000 }, () => 3));
  const joined = [];
  for (let after_seq = 0; joined.length < 3_000; after_seq = joined.at(-1)?.seq ?? 0)
    joined.push(...(await reader.readLogical({ tenant_id, run_id, after_seq, limit: 100 })));
  expect(joined).toEqual(whole);
  // Once to look for what came late, and once page by page.
  expect(store.rows_read).toBeLessThanOrEqual(1_000 + 30 * 100);
});

test("another tenant reads nothing", async () => {
  const { reader, run_id } = await runOf([2]);
  expect(await reader.read({ tenant_id: newId("tenant", seams), run_id, after_seq: 0, limit: 10 })).toEqual([]);
});
