import { describe, expect, test } from "vitest";
import { seams } from "../../test/support/engine.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { AppError } from "../contract/errors.ts";
import type { Job, JobResult } from "../contract/jobs.ts";
import { placedRunId } from "../contract/placement.ts";
import type { LeasedJob, LeaseRequest, ResultsRequest } from "../contract/workers.ts";
import type { LinkClient } from "./worker-link.ts";
import { RemoteWorker } from "./worker.ts";

const CONCURRENCY = 8;
let made = 0;
const jobs = (count: number): LeasedJob[] =>
  Array.from({ length: count }, () => {
    const job = { tenant_id: "ten_a", run_id: `run_${(made += 1)}`, step: 1, attempt: 1 } as Job;
    return { job, attempt_epoch: 1, token: `token-${job.run_id}` };
  });

/** A control plane whose answers the test gives by hand; each has as many jobs as were asked for, so room is really used. */
function world({ atOnce = false } = {}) {
  const leases: { max: number; answer: () => void }[] = [];
  const reports: { max: number; answer: () => void }[] = [];
  const running: Job[] = [];
  /** How many results each report brought. */
  const sent: number[] = [];
  let most = 0;
  const clock = new FakeClock();
  const client: LinkClient = {
    lease: (body: LeaseRequest) =>
      new Promise((resolve) =>
        leases.push({ max: body.max, answer: () => resolve({ jobs: jobs(body.max), drain: false }) }),
      ),
    report: (body: ResultsRequest) => {
      sent.push(body.results.length);
      return new Promise((resolve) =>
        reports.push({
          max: body.max,
          answer: () => resolve({ items: body.results.map(() => ({ accepted: true })), jobs: jobs(body.max) }),
        }),
      );
    },
    heartbeat: () => Promise.resolve({ stop: [], drain: false, groups: [] }),
    progress: () => Promise.resolve(null),
  };
  const worker = new RemoteWorker({
    client,
    connect: () => client,
    instance: "w",
    labels: [],
    concurrency: CONCURRENCY,
    runner: {
      dispatch: (given) => {
        running.push(...given);
        most = Math.max(most, worker.figures.running + worker.figures.unreported);
        if (atOnce) queueMicrotask(() => finish(given.length));
      },
      abort: () => undefined,
    },
    clock,
    random: { float: () => 0.5, bytes: (length: number) => new Uint8Array(length) },
    log: { info: () => undefined, warn: () => undefined, error: () => undefined },
    onEnd: () => undefined,
  });
  const finish = (count: number) =>
    worker.finished(
      running.splice(0, count).map(({ tenant_id, run_id, step, attempt }) => ({
        tenant_id,
        run_id,
        step,
        attempt,
        kind: "tool",
        duration_ms: 1,
        outcome: { ok: true, output: {}, cost_micro_usd: 0 },
      })) as unknown as readonly JobResult[],
    );
  return { worker, clock, leases, reports, finish, sent, most: () => most };
}

describe("a remote worker", () => {
  test("never asks for more than there is room, whichever requests are in flight", async () => {
    const { worker, clock, leases, reports, finish, most } = world();
    worker.start();
    await clock.pass(1);
    // Half of the room is asked for by the lease; a report that goes out now asks for the other half too.
    leases.shift()?.answer();
    await clock.pass(1);
    finish(1);
    await clock.pass(1);
    expect(reports).toHaveLength(1);
    // While the report is on its way the leases are answered, one after the other.
    for (let n = 0; n < 5; n++) {
      leases.shift()?.answer();
      await clock.pass(1);
    }
    reports.shift()?.answer();
    await clock.pass(1);
    expect(most()).toBe(CONCURRENCY);
  });
});

describe("reports", () => {
  test("what is done as soon as it came goes with what has waited for the answer", async () => {
    const { worker, clock, leases, reports, sent } = world({ atOnce: true });
    worker.start();
    await clock.pass(1);
    leases.shift()?.answer();
    await clock.pass(1);
    expect(sent).toEqual([4]);
    // What the next lease brings is done at once and waits; so does what comes with the answer.
    leases.shift()?.answer();
    await clock.pass(1);
    const [first] = reports.splice(0);
    first?.answer();
    await clock.pass(1);
    expect(sent).toHaveLength(2);
    expect(sent[1]).toBe(worker.figures.unreported);
    expect(sent[1]).toBeGreaterThan(first?.max ?? 0);
  });
});

describe("with several control nodes", () => {
  /** Nodes that own four groups each, of which every answer is at hand; each asks nothing but what it is told. */
  function nodes() {
    const clock = new FakeClock();
    const told = new Map<string, string[]>();
    const groups = (first: string, second: string, epoch = 1) =>
      Array.from({ length: 8 }, (_, group) => ({ group, url: group < 4 ? first : second, shard_epoch: epoch }));
    let map = groups("http://a", "http://b");
    /** Nodes that own nothing of what they are told. */
    const refusing = new Set<string>();
    const queued: LeasedJob[] = [];
    const client = (name: string): LinkClient => ({
      lease: async () => {
        await clock.sleep(50);
        return { jobs: name === "http://a" ? queued.splice(0) : [], drain: false };
      },
      report: async ({ results }: ResultsRequest) => {
        await clock.sleep(1);
        if (refusing.has(name)) throw new AppError("FENCED", "Another node owns the runs, or is about to");
        for (const { run_id } of results) told.set(name, [...(told.get(name) ?? []), run_id]);
        return { items: results.map(() => ({ accepted: true })), jobs: [] };
      },
      heartbeat: async () => ({ stop: [], drain: false, groups: map }),
      progress: async () => null,
    });
    const running: Job[] = [];
    const worker: RemoteWorker = new RemoteWorker({
      client: client("door"),
      connect: client,
      instance: "w",
      labels: [],
      concurrency: CONCURRENCY,
      runner: { dispatch: (given) => void running.push(...given), abort: () => undefined },
      clock,
      random: { float: () => 0.5, bytes: (length: number) => new Uint8Array(length) },
      log: { info: () => undefined, warn: () => undefined, error: () => undefined },
      onEnd: () => undefined,
    });
    const finish = () => {
      for (const { tenant_id, run_id, step, attempt } of running.splice(0))
        worker.finished([
          {
            tenant_id,
            run_id,
            step,
            attempt,
            kind: "tool",
            duration_ms: 1,
            outcome: { ok: true, kind: "tool", result: 1 },
          },
        ]);
    };
    return { clock, told, worker, queued, finish, refusing, move: (to: typeof map) => (map = to), groups };
  }

  const jobOf = (group: number): LeasedJob => {
    const run_id = placedRunId(seams, 8, (other) => other === group);
    const job = { tenant_id: "ten_a", run_id, step: 1, attempt: 1 } as Job;
    return { job, attempt_epoch: 1, token: "t" };
  };

  test("each outcome goes to the owner of its run, also when that has changed meanwhile", async () => {
    const { clock, told, worker, queued, finish, move, groups } = nodes();
    worker.start();
    await clock.pass(1_500);
    const [first, second] = [jobOf(1), jobOf(2)];
    queued.push(first);
    await clock.pass(200);
    finish();
    await clock.pass(50);
    expect(told.get("http://a")).toEqual([first.job.run_id]);
    queued.push(second);
    await clock.pass(200);
    // Its run moves while the job runs.
    move(groups("http://b", "http://c", 2));
    await clock.pass(1_500);
    finish();
    await clock.pass(50);
    expect(told.get("http://b")).toEqual([second.job.run_id]);
    expect(told.has("door")).toBe(false);
    expect(worker.figures).toMatchObject({ accepted: 2, running: 0, unreported: 0 });
  });

  test("an outcome that its owner has refused goes to the next one, also when nothing else finishes any more", async () => {
    const { clock, told, worker, queued, finish, refusing, move, groups } = nodes();
    worker.start();
    await clock.pass(1_500);
    const one = jobOf(1);
    queued.push(one);
    await clock.pass(200);
    refusing.add("http://a");
    finish();
    await clock.pass(500);
    expect(told.size).toBe(0);
    // The same two nodes: each has what the other one had.
    move(groups("http://b", "http://a", 2));
    await clock.pass(5_000);
    expect(told.get("http://b")).toEqual([one.job.run_id]);
    expect(worker.figures).toMatchObject({ accepted: 1, unreported: 0 });
  });

  test("what finishes just when a report has ended is reported too", async () => {
    const { clock, told, worker, queued, finish } = nodes();
    worker.start();
    await clock.pass(1_500);
    for (let n = 0; n < 50; n++) {
      queued.push(jobOf(0), jobOf(1));
      await clock.pass(150);
      finish();
      // One more turn of the loop each time.
      for (let turn = 0; turn < n; turn++) await Promise.resolve();
      finish();
      await clock.pass(20);
    }
    expect(told.get("http://a")).toHaveLength(100);
    expect(worker.figures).toMatchObject({ unreported: 0 });
  });
});
