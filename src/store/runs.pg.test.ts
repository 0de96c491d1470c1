// Finding captured runs by what their sources call them, in a database that has no statistics of its runs yet.
import { afterAll, beforeAll, expect, test } from "vitest";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { withClient } from "../adapters/postgres/db.ts";
import { idBytes, newId } from "../contract/ids.ts";
import { uuidText } from "../kit/ids.ts";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { findExternal } from "./runs.ts";

const seams = { clock: systemClock, random: systemRandom };
let database: TestDatabase;
beforeAll(async () => void (database = await testDatabase()));
afterAll(() => database.close());

test("the newest run of each name is found, and runs that have another name are not read for it", async () => {
  const [tenant_id, other] = [newId("tenant", seams), newId("tenant", seams)];
  const find = (names: readonly string[]) =>
    database.db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      const found = await findExternal(tx, names);
      await tx.query({ text: "select pg_stat_force_next_flush()" });
      return found;
    });
  const ask = <T>(text: string) => withClient(database.owner, async (tx) => (await tx.query<T>({ text })).rows[0]);
  const add = (tenant: string, from: number, to: number) =>
    withClient(database.owner, (tx) =>
      tx.query({
        text: `insert into qd.runs (tenant_id, run_id, project_id, grp, kind, target, env, state, requester, created_at_us, updated_at_us,
            steps, cost_micro_usd, tokens, external_id)
          select $1::uuid, gen_random_uuid(), 'p', 0, 'captured', 't', 'dev', 'succeeded', 'ada', n, n, 0, 0, 0, 'name-' || n
          from generate_series($2::int, $3::int) as n`,
        values: [uuidText(idBytes("tenant", tenant)), from, to],
      }),
    );
  const asked = Array.from({ length: 20 }, (_, i) => `name-${i + 1}`);
  // The database settles on a plan while there are few.
  await withClient(database.owner, (tx) => tx.query({ text: "alter table qd.runs set (autovacuum_enabled = false)" }));
  await add(tenant_id, 10_001, 10_200);
  for (let i = 0; i < 10; i++) expect(await find(asked)).toEqual([]);
  await add(tenant_id, 1, 5_000);
  await add(other, 4, 8);
  // The same name again: of each the newer one counts.
  await add(tenant_id, 1, 3);
  const READ = `select sum(idx_tup_read) + (select seq_tup_read from pg_stat_user_tables where relid = 'qd.runs'::regclass) as n
    from pg_stat_user_indexes where relid = 'qd.runs'::regclass`;
  const read = async () => Number((await ask<{ n: number }>(READ))?.n);
  const before = await read();
  for (let i = 0; i < 10; i++) {
    const found = await find([...asked, "name-1", "nobody"]);
    expect(new Set(found.map((run) => run.external_id))).toEqual(new Set(asked));
    expect(new Set(found.map((run) => run.tenant_id))).toEqual(new Set([tenant_id]));
  }
  const newest = await ask<{ run_id: string }>(
    "select run_id from qd.runs where external_id = 'name-2' order by run_id desc limit 1",
  );
  const [twice] = await find(["name-2"]);
  expect(uuidText(idBytes("run", twice?.run_id ?? ""))).toBe(newest?.run_id);
  // By the plan of before: all 5,000 runs for each of the ten questions.
  const cost = (await read()) - before;
  expect(cost).toBeLessThan(5_000);
});
