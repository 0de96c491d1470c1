// Staged events in Postgres: kept apart by tenant, first come stays, gone when dropped; and the same as in memory.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { newId } from "../contract/ids.ts";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { MemoryStagedEvents } from "../../test/support/staged-events.ts";
import { PostgresStagedEvents } from "./staged-events.ts";
import type { StagedEvents } from "./staged-events.ts";

const seams = { clock: systemClock, random: systemRandom };
let database: TestDatabase;
beforeAll(async () => void (database = await testDatabase()));
afterAll(() => database.close());

describe.each([
  ["Postgres", (): StagedEvents => new PostgresStagedEvents(database.db)],
  ["memory", (): StagedEvents => new MemoryStagedEvents()],
])("staged events in %s", (_name, make) => {
  test("are read in order, once each, until they are dropped", async () => {
    const staged = make();
    const key = { tenant_id: newId("tenant", seams), run_id: newId("run", seams), producer: "p", epoch: 3 };
    const other = { ...key, tenant_id: newId("tenant", seams) };
    const event = (no: number, text = `{"n":${no}}`) => ({ no, event: text, staged_at_us: 1_000_000 + no });
    expect(await staged.put(key, [event(5), event(3)])).toBe(2);
    expect(await staged.put(key, [event(5, "another"), event(9)])).toBe(1);
    await staged.put(other, [event(1)]);
    expect(await staged.read(key)).toEqual([event(3), event(5), event(9)]);
    expect(await staged.groups()).toContainEqual({ ...key, since_us: 1_000_003, count: 3 });
    await staged.drop(key, 5);
    expect(await staged.read(key)).toEqual([event(9)]);
    await staged.drop(key, Number.MAX_SAFE_INTEGER);
    expect(await staged.read(key)).toEqual([]);
    expect(await staged.read(other)).toEqual([event(1)]);
  });
});
