// Schedules over a real database: one fire for each moment, whoever looks and whoever dies; pause, overlap, what was missed.
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { AppError } from "../contract/errors.ts";
import { newId } from "../contract/ids.ts";
import type { RunSummary } from "../contract/journal.ts";
import { systemRandom } from "../adapters/system/system.ts";
import type { TriggerManifest } from "../contract/triggers.ts";
import { listFires, listTriggers, pauseTrigger, resumeTrigger } from "../store/triggers.ts";
import { silent, TENANT } from "../../test/support/engine.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { nextFire } from "../core/schedule.ts";
import { Fires } from "./fires.ts";
import type { ActiveTrigger } from "./fires.ts";
import { Schedules } from "./schedules.ts";

const HOUR_MS = 3_600_000;
const scope = { role: "qd_app" as const, tenant_id: TENANT };
let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.close());

let project = 0;
let clock: FakeClock;
/** Runs that were begun, with how often. */
let begun: Map<string, number>;
let open: Set<string>;
let refusing: AppError | null;
beforeEach(async () => {
  project += 1;
  clock = new FakeClock();
  // Ten seconds past an hour: what is looked at each hour from now on is only late.
  await clock.pass(HOUR_MS - ((clock.now_us() / 1000) % HOUR_MS) + 10_000);
  begun = new Map();
  open = new Set();
  refusing = null;
});

const trigger = (schedule: Partial<NonNullable<TriggerManifest["schedule"]>> = {}, version = 1): ActiveTrigger => ({
  tenant_id: TENANT,
  project: `p${project}`,
  name: "hourly",
  env: "dev",
  version,
  since_us: 0,
  spec: { workflow: "w", schedule: { cron: "0 * * * *", ...schedule } },
});

/** A node that looks; runs are only counted. */
function node() {
  const db = database.db;
  const start: ConstructorParameters<typeof Fires>[0]["runs"]["start"] = async (_caller, _request, extra) => {
    if (refusing) throw refusing;
    const run_id = extra?.run_id ?? "";
    begun.set(run_id, (begun.get(run_id) ?? 0) + 1);
    return { run_id } as never;
  };
  const newRunId = () => newId("run", { clock, random: systemRandom });
  const fires = new Fires({
    db,
    runs: { start },
    tasks: { begin: async () => Promise.reject(new Error("no task")) },
    newRunId,
    owns: () => true,
    clock,
    log: silent,
  });
  const find = async (_caller: unknown, run_id: string) =>
    ({ run_id, state: open.has(run_id) ? "running" : "succeeded" }) as RunSummary;
  const schedules = new Schedules({ db, fires, runs: { find }, clock, log: silent });
  return { look: (one: ActiveTrigger) => schedules.look([one]), begin: () => fires.look(TENANT) };
}

const fired = () =>
  database.db.transaction(scope, (tx) => listFires(tx, `p${project}`, { name: "hourly", env: "dev" }, 1_000));
const row = async () => (await database.db.transaction(scope, (tx) => listTriggers(tx, `p${project}`)))[0];

test("two that look at once make one fire for each moment, and each begins one run", async () => {
  const [one, two] = [node(), node()];
  const hourly = trigger();
  await Promise.all([one.look(hourly), two.look(hourly)]);
  for (let hour = 0; hour < 5; hour++) {
    await clock.pass(HOUR_MS);
    await Promise.all([one.look(hourly), two.look(hourly), one.look(hourly)]);
    await Promise.all([one.begin(), two.begin()]);
  }
  const rows = await fired();
  expect(rows.map(({ state }) => state)).toEqual(Array.from({ length: 5 }, () => "started"));
  expect(new Set(rows.map(({ key }) => key)).size).toBe(5);
  expect(new Set(begun.keys())).toEqual(new Set(rows.map(({ run_id }) => run_id)));
  expect(await row()).toMatchObject({ last_run_id: rows[0]?.run_id, version: 1 });
});

test("a fire whose run could not be begun is begun later, by another node, under the same id", async () => {
  const hourly = trigger();
  await node().look(hourly);
  await clock.pass(HOUR_MS);
  await node().look(hourly);
  refusing = new AppError("DATABASE_UNAVAILABLE", "away");
  await node().begin();
  expect((await fired()).map(({ state }) => state)).toEqual(["pending"]);
  refusing = null;
  await node().begin();
  const [only] = await fired();
  expect([only?.state, begun.get(only?.run_id ?? "")]).toEqual(["started", 1]);
});

test("one that can never begin is refused, and says why", async () => {
  const hourly = trigger();
  await node().look(hourly);
  await clock.pass(HOUR_MS);
  await node().look(hourly);
  refusing = new AppError("RUN_REFUSED", "There is no workflow w in environment dev; apply it first");
  await node().begin();
  expect(await fired()).toMatchObject([{ state: "refused", reason: expect.stringContaining("no workflow w") }]);
});

test("a paused schedule never fires, and makes up for nothing when it goes on", async () => {
  const hourly = trigger({ missed: "once" });
  const at = { name: "hourly", env: "dev" };
  await node().look(hourly);
  await database.db.transaction(scope, (tx) => pauseTrigger(tx, `p${project}`, at, "ada", clock.now_us()));
  for (let hour = 0; hour < 30; hour++) {
    await clock.pass(HOUR_MS);
    await node().look(hourly);
  }
  expect(await fired()).toEqual([]);
  const next = nextFire({ cron: "0 * * * *" }, clock.now_us());
  await database.db.transaction(scope, (tx) => resumeTrigger(tx, `p${project}`, at, next, clock.now_us()));
  await node().look(hourly);
  expect(await fired()).toEqual([]);
  await clock.pass(HOUR_MS);
  await node().look(hourly);
  expect(await fired()).toHaveLength(1);
});

test("what was due while nobody looked is left out, or made up for by one run", async () => {
  for (const [missed, count] of [
    ["skip", 0],
    ["once", 1],
  ] as const) {
    project += 1;
    const hourly = trigger({ missed });
    await node().look(hourly);
    // Half past, a day later: nothing is only late.
    await clock.pass(24 * HOUR_MS + HOUR_MS / 2);
    await node().look(hourly);
    expect([missed, (await fired()).length]).toEqual([missed, count]);
    await clock.pass(HOUR_MS / 2);
    await node().look(hourly);
    expect((await fired()).length).toBe(count + 1);
  }
});

test("with overlap: skip, nothing is begun while the run before goes on, and that is on record", async () => {
  const hourly = trigger({ overlap: "skip" });
  await node().look(hourly);
  const hour = async () => {
    await clock.pass(HOUR_MS);
    await node().look(hourly);
    await node().begin();
  };
  await hour();
  const [first] = await fired();
  open.add(first?.run_id ?? "");
  await hour();
  expect((await fired())[0]).toMatchObject({ state: "skipped", reason: `${first?.run_id} still goes on` });
  open.clear();
  await hour();
  expect((await fired()).map(({ state }) => state)).toEqual(["started", "skipped", "started"]);
  const counts = (await fired()).map(({ run_id }) => begun.get(run_id) ?? 0);
  expect(counts).toEqual([1, 0, 1]);
});

test("another version is due when it says, not when the one before was", async () => {
  await node().look(trigger());
  await node().look(trigger({ cron: "30 * * * *" }, 2));
  const { version, next_at_us } = (await row()) ?? {};
  expect([version, new Date((next_at_us ?? 0) / 1000).getUTCMinutes()]).toEqual([2, 30]);
});
