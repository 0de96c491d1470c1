// The dispatcher over the in-process queue, on a clock moved by hand.
import { expect, test } from "vitest";
import { silent, TENANT } from "../../test/support/engine.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { AppError } from "../contract/errors.ts";
import type { JobResult, ToolJob } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Delivery, Ticket } from "../contract/queue.ts";
import type { LeasedJob, LeasedResult, LeaseRef } from "../contract/workers.ts";
import { Dispatcher } from "./dispatcher.ts";
import { routeJobs } from "./route-jobs.ts";
import { MemoryQueue } from "./memory-queue.ts";

const alice = { name: "alice", instance: "1" };
const bob = { name: "bob", instance: "1" };

function job(step: number, over: Partial<ToolJob> & { runs_on?: string[] } = {}): ToolJob {
  const { runs_on, ...rest } = over;
  const tool = { name: "t", version: 1, ...(runs_on ? { runs_on } : {}) } as unknown as ToolJob["tool"];
  return {
    tenant_id: TENANT,
    run_id: "run_a",
    step,
    attempt: 1,
    kind: "tool",
    tool,
    args: {},
    idempotency_key: "",
    ...rest,
  };
}

/** Loses, repeats and fails as it is told to. */
class UnreliableQueue extends MemoryQueue {
  mode: "well" | "loses" | "repeats" | "fails" = "well";
  override async push(tickets: readonly Ticket[]): Promise<void> {
    if (this.mode === "fails") throw new AppError("DEPENDENCY_UNAVAILABLE", "the queue is away");
    if (this.mode === "loses") return;
    await super.push(tickets);
    if (this.mode === "repeats") await super.push(tickets);
  }
  override async take(labels: readonly string[], max: number): Promise<Delivery[]> {
    if (this.mode === "fails") throw new AppError("DEPENDENCY_UNAVAILABLE", "the queue is away");
    return super.take(labels, max);
  }
}

function setUp(
  deliver: (result: JobResult) => Promise<void> = async () => undefined,
  given: { queue?: UnreliableQueue; clock?: FakeClock; owns?: () => boolean } = {},
) {
  const { clock = new FakeClock(), queue = new UnreliableQueue(), owns = () => true } = given;
  const delivered: JobResult[] = [];
  const dispatcher = new Dispatcher({
    queue,
    clock,
    log: silent,
    key: () => new Uint8Array(32),
    deliver: async (result) => {
      await deliver(result);
      delivered.push(result);
    },
    epoch: () => 1,
    owns,
  });
  dispatcher.start();
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const lease = async (worker: typeof alice, labels: string[] = [], max = 10) => {
    await turn();
    return dispatcher.lease({ worker, labels, max, wait_ms: 0 });
  };
  return { clock, queue, delivered, dispatcher, lease };
}

const result = ({ job: { tenant_id, run_id, step, attempt }, attempt_epoch, token }: LeasedJob): LeasedResult => ({
  tenant_id,
  run_id,
  step,
  attempt,
  kind: "tool",
  duration_ms: 1,
  outcome: { ok: true, kind: "tool", result: "done" },
  attempt_epoch,
  token,
});
const ref = ({ job: { tenant_id, run_id, step, attempt }, attempt_epoch, token }: LeasedJob): LeaseRef => ({
  tenant_id,
  run_id,
  step,
  attempt,
  attempt_epoch,
  token,
});
const only = (jobs: readonly LeasedJob[]): LeasedJob => {
  expect(jobs).toHaveLength(1);
  return jobs[0] as LeasedJob;
};

test("a job goes to one worker, and its result is taken once, from that worker alone", async () => {
  const { dispatcher, lease, delivered } = setUp();
  dispatcher.dispatch([job(1)], 5);
  const leased = only(await lease(alice));
  expect(await lease(bob)).toEqual([]);
  expect(await dispatcher.report(bob, [result(leased)])).toEqual([{ accepted: false, code: "FOREIGN_RESULT" }]);
  const forged = { ...result(leased), step: 2 };
  expect(await dispatcher.report(alice, [forged])).toEqual([{ accepted: false, code: "FOREIGN_RESULT" }]);
  expect(await dispatcher.report(alice, [result(leased)])).toEqual([{ accepted: true }]);
  expect(await dispatcher.report(alice, [result(leased)])).toEqual([{ accepted: false, code: "DUPLICATE_RESULT" }]);
  expect(delivered).toHaveLength(1);
  expect(dispatcher.depth).toMatchObject({ waiting: 0, running: 0 });
});

test("the same result sent twice at the same time is delivered once", async () => {
  let commit: () => void = () => undefined;
  const { dispatcher, lease, delivered } = setUp(() => new Promise((resolve) => (commit = resolve)));
  dispatcher.dispatch([job(1)], 5);
  const leased = only(await lease(alice));
  const both = [dispatcher.report(alice, [result(leased)]), dispatcher.report(alice, [result(leased)])];
  commit();
  expect((await Promise.all(both)).flat()).toEqual([{ accepted: true }, { accepted: false, code: "DUPLICATE_RESULT" }]);
  expect(delivered).toHaveLength(1);
});

test("a result that cannot be committed now is not acknowledged, and taken when it comes again", async () => {
  let away = true;
  const { dispatcher, lease, delivered } = setUp(async () => {
    if (away) throw new AppError("DATABASE_UNAVAILABLE", "away");
  });
  dispatcher.dispatch([job(1)], 5);
  const leased = only(await lease(alice));
  await expect(dispatcher.report(alice, [result(leased)])).rejects.toMatchObject({ code: "DATABASE_UNAVAILABLE" });
  away = false;
  expect(await dispatcher.report(alice, [result(leased)])).toEqual([{ accepted: true }]);
  expect(delivered).toHaveLength(1);
});

test("a worker that is not heard of loses its job; one that beats keeps it; a late result is told so", async () => {
  const { dispatcher, lease, delivered, clock } = setUp(async (given) => {
    // The run has gone on without it.
    if (given.outcome.ok) throw new AppError("STALE_RESULT", "late");
  });
  dispatcher.dispatch([job(1), job(2)], 5);
  const [silentOne, beating] = (await lease(alice)) as [LeasedJob, LeasedJob];
  for (let ms = 0; ms < LIMITS.worker_lease_ms * 2; ms += LIMITS.worker_heartbeat_ms) {
    expect(dispatcher.heartbeat(alice, [ref(beating)])).toEqual([]);
    await clock.pass(LIMITS.worker_heartbeat_ms);
  }
  expect(delivered.map(({ step, outcome }) => [step, outcome.ok || outcome.failure.code])).toEqual([
    [silentOne.job.step, "worker_lost"],
  ]);
  expect(await dispatcher.report(alice, [result(silentOne)])).toEqual([{ accepted: false, code: "STALE_RESULT" }]);
});

test("a stopped run: what waits is answered at once, what runs is named to its worker", async () => {
  const { dispatcher, lease, delivered } = setUp();
  dispatcher.dispatch([job(1), job(2), job(1, { run_id: "run_b" })], 5);
  const leased = only(await lease(alice, [], 1));
  dispatcher.abort("run_a");
  expect(dispatcher.heartbeat(alice, [ref(leased)])).toEqual([ref(leased)]);
  await Promise.resolve();
  expect(delivered.map(({ step, outcome }) => [step, outcome.ok || outcome.failure.code])).toEqual([[2, "cancelled"]]);
  expect((await lease(bob)).map((given) => given.job.run_id)).toEqual(["run_b"]);
});

test("tickets that the queue lost are pushed again within seconds", async () => {
  const { dispatcher, lease, queue, clock } = setUp();
  queue.mode = "loses";
  dispatcher.dispatch([job(1)], 5);
  expect(await lease(alice)).toEqual([]);
  queue.mode = "well";
  await clock.pass(5_000);
  expect(await lease(alice)).toHaveLength(1);
});

test("a queue that is away holds up nobody: the jobs are handed out from here, the oldest first", async () => {
  const { dispatcher, lease, queue, clock } = setUp();
  queue.mode = "fails";
  dispatcher.dispatch([job(1), job(2, { runs_on: ["gpu"] }), job(3)], 5);
  expect((await lease(alice)).map((given) => given.job.step)).toEqual([1, 3]);
  await clock.pass(10_000);
  queue.mode = "well";
  await clock.pass(5_000);
  expect((await lease(bob, ["gpu"])).map((given) => given.job.step)).toEqual([2]);
});

test("tickets that nobody can serve do not hide that others were lost", async () => {
  const { dispatcher, lease, queue, clock } = setUp();
  const nobodys = { tenant_id: TENANT, priority: 5, needs: ["gpu"], attempt: 1, step: 1 };
  await queue.push(["run_x", "run_y"].map((run_id) => ({ ...nobodys, run_id })));
  queue.mode = "loses";
  dispatcher.dispatch([job(1)], 5);
  expect(await lease(alice)).toEqual([]);
  queue.mode = "well";
  await clock.pass(5_000);
  expect(await lease(alice)).toHaveLength(1);
});

test("what a former owner still has does not hide from the owner that the queue has lost its tickets", async () => {
  let owns = true;
  const former = setUp(undefined, { owns: () => owns });
  const { queue, clock } = former;
  queue.mode = "loses";
  former.dispatcher.dispatch([job(1, { run_id: "old" }), job(2, { run_id: "old" })], 5);
  await clock.pass(500);
  owns = false;
  const owner = setUp(undefined, { queue, clock });
  owner.dispatcher.dispatch([job(1, { run_id: "new" })], 5);
  await clock.pass(10);
  queue.mode = "well";
  // In small steps: what a tick sets off takes turns of the event loop, not time of this clock.
  for (let i = 0; i < 80; i++) await clock.pass(100);
  expect((await owner.lease(alice)).map((given) => given.job.run_id)).toEqual(["new"]);
});

test("what is given back after a take-over does not take the new lease of the same attempt away", async () => {
  let fail: (error: Error) => void = () => undefined;
  const { dispatcher, lease } = setUp(() => new Promise((_resolve, reject) => (fail = reject)));
  dispatcher.dispatch([job(1)], 5);
  const leased = only(await lease(alice));
  const exchanged = dispatcher.exchange({ worker: alice, labels: [], max: 1, results: [result(leased)] });
  dispatcher.dispatch([job(2)], 5);
  await new Promise((resolve) => setImmediate(resolve));
  // Job 2 is on its way to alice when the runs change hands; the new owner hands it to bob.
  dispatcher.reset(() => true);
  dispatcher.dispatch([job(2)], 5);
  const taken = only(await lease(bob));
  fail(new AppError("FENCED", "not the owner"));
  await expect(exchanged).rejects.toMatchObject({ code: "FENCED" });
  expect(await lease(alice)).toEqual([]);
  expect(dispatcher.heartbeat(bob, [ref(taken)])).toEqual([]);
  expect(dispatcher.depth).toMatchObject({ waiting: 0, running: 1 });
});

test("tickets that come twice hand a job out once", async () => {
  const { dispatcher, lease, queue } = setUp();
  queue.mode = "repeats";
  dispatcher.dispatch([job(1), job(2)], 5);
  expect(await lease(alice)).toHaveLength(2);
  expect(await lease(bob)).toEqual([]);
});

test("a tool's limit holds over all workers, and a place that becomes free is used at once", async () => {
  const { dispatcher, lease } = setUp();
  const tool = { name: "t", version: 1, concurrency_max: 2 } as unknown as ToolJob["tool"];
  dispatcher.dispatch([job(1, { tool }), job(2, { tool }), job(3, { tool }), job(4, { tool }), job(5)], 5);
  const first = await lease(alice);
  expect(first.map((given) => given.job.step)).toEqual([1, 2, 5]);
  expect(await lease(bob)).toEqual([]);
  await dispatcher.report(alice, [result(first[0] as LeasedJob)]);
  expect((await lease(bob)).map((given) => given.job.step)).toEqual([3]);
  dispatcher.abort("run_a");
  await dispatcher.report(alice, [result(first[1] as LeasedJob)]);
  dispatcher.dispatch([job(6, { tool, run_id: "run_b" })], 5);
  expect((await lease(alice)).map((given) => given.job.step)).toEqual([6]);
});

test("of those that wait for a place under a limit, the most urgent has the next one", async () => {
  const { dispatcher, lease } = setUp();
  const tool = { name: "t", version: 1, concurrency_max: 1 } as unknown as ToolJob["tool"];
  dispatcher.dispatch(
    [1, 2, 3].map((step) => job(step, { tool })),
    2,
  );
  const [first] = await lease(alice);
  expect(await lease(bob)).toEqual([]);
  dispatcher.dispatch([job(9, { tool, run_id: "run_urgent" })], 9);
  expect(await lease(bob)).toEqual([]);
  await dispatcher.report(alice, [result(first as LeasedJob)]);
  expect((await lease(bob)).map(({ job: { run_id, step } }) => [run_id, step])).toEqual([["run_urgent", 9]]);
});

test("an agent's limit holds over its tools, and a job that has to wait for one place does not hold another", async () => {
  const { dispatcher, lease } = setUp();
  const agent = { name: "a", concurrency_max: 2 };
  const tool = { name: "t", version: 1, concurrency_max: 1 } as unknown as ToolJob["tool"];
  dispatcher.dispatch(
    [job(1, { tool }), job(2, { agent }), job(3, { agent, tool }), job(4, { agent }), job(5, { agent })],
    5,
  );
  // 3 waits for its tool, so its agent has a place for 4.
  const first = await lease(alice);
  expect(first.map((given) => given.job.step)).toEqual([1, 2, 4]);
  expect(await lease(bob)).toEqual([]);
  await dispatcher.report(alice, [result(first[1] as LeasedJob)]);
  expect((await lease(bob)).map((given) => given.job.step)).toEqual([5]);
  // The tool is free, the agent is not; then the agent is.
  await dispatcher.report(alice, [result(first[0] as LeasedJob)]);
  expect(await lease(bob)).toEqual([]);
  await dispatcher.report(alice, [result(first[2] as LeasedJob)]);
  expect((await lease(bob)).map((given) => given.job.step)).toEqual([3]);
});

test("who waits for a job gets it as soon as it is there", async () => {
  const { dispatcher } = setUp();
  const waiting = dispatcher.lease({ worker: alice, labels: [], max: 5, wait_ms: 10_000 });
  await new Promise((resolve) => setImmediate(resolve));
  dispatcher.dispatch([job(1)], 5);
  expect(await waiting).toHaveLength(1);
});

test("the jobs that follow from results go to the worker that brought them, as far as it has room", async () => {
  const next = [job(2), job(3), job(4)];
  const { dispatcher, lease } = setUp(async () => dispatcher.dispatch(next, 5));
  dispatcher.dispatch([job(1)], 5);
  const leased = only(await lease(alice));
  const other = dispatcher.lease({ worker: bob, labels: [], max: 5, wait_ms: 10_000 });
  const { verdicts, jobs } = await dispatcher.exchange({
    worker: alice,
    labels: [],
    max: 2,
    results: [result(leased)],
  });
  expect(verdicts).toEqual([{ accepted: true }]);
  expect(jobs.map((given) => given.job.step)).toEqual([2, 3]);
  expect((await other).map((given) => given.job.step)).toEqual([4]);
});

test("a worker that has much more than another one that waits leaves it what follows, until both have their share", async () => {
  const next = Array.from({ length: 8 }, (_, n) => job(20 + n));
  const { dispatcher, lease } = setUp(async () => dispatcher.dispatch(next, 5));
  dispatcher.dispatch(
    Array.from({ length: 10 }, (_, n) => job(1 + n)),
    5,
  );
  const [first] = await lease(alice, [], 10);
  const other = dispatcher.lease({ worker: bob, labels: [], max: 10, wait_ms: 10_000 });
  const { jobs } = await dispatcher.exchange({
    worker: alice,
    labels: [],
    max: 10,
    results: [result(first as LeasedJob)],
  });
  expect(await other).toHaveLength(7);
  expect(jobs).toHaveLength(1);
  expect([dispatcher.runningOn(alice), dispatcher.runningOn(bob)]).toEqual([10, 7]);
});

test("a job whose worker has hung up before the answer goes to the next one", async () => {
  const { dispatcher, lease } = setUp();
  const gone = new AbortController();
  dispatcher.dispatch([job(1)], 5);
  await lease(alice, ["other"], 0);
  gone.abort();
  expect(await dispatcher.lease({ worker: alice, labels: [], max: 5, wait_ms: 0, gone: gone.signal })).toEqual([]);
  expect(await lease(bob)).toHaveLength(1);
});

test("jobs with needs go to remote workers, the others stay where there is a pool", () => {
  const seen: [string, number[]][] = [];
  const to = (name: string) => ({
    dispatch: (jobs: readonly { step: number }[]) => void seen.push([name, jobs.map(({ step }) => step)]),
    abort: () => undefined,
  });
  const jobs = [job(1), job(2, { runs_on: ["gpu"] })];
  routeJobs(to("local"), to("remote")).dispatch(jobs, 5);
  routeJobs(null, to("remote")).dispatch(jobs, 5);
  expect(seen).toEqual([
    ["local", [1]],
    ["remote", [2]],
    ["remote", [1, 2]],
  ]);
});
