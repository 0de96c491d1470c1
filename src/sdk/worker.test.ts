import { describe, expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import type { Job, JobResult } from "../contract/jobs.ts";
import type { LeasedJob, LeaseRequest, ResultsRequest } from "../contract/workers.ts";
import { RemoteWorker } from "./worker.ts";

const CONCURRENCY = 8;
let made = 0;
const jobs = (count: number): LeasedJob[] =>
  Array.from({ length: count }, () => {
    const job = { tenant_id: "ten_a", run_id: `run_${(made += 1)}`, step: 1, attempt: 1 } as Job;
    return { job, attempt_epoch: 1, token: `token-${job.run_id}` };
  });

/** A control plane whose answers the test gives by hand; each has as many jobs as were asked for, so room is really used. */
function world() {
  const leases: { max: number; answer: () => void }[] = [];
  const reports: { max: number; answer: () => void }[] = [];
  const running: Job[] = [];
  let most = 0;
  const clock = new FakeClock();
  const worker = new RemoteWorker({
    client: {
      lease: (body: LeaseRequest) =>
        new Promise((resolve) =>
          leases.push({ max: body.max, answer: () => resolve({ jobs: jobs(body.max), drain: false }) }),
        ),
      report: (body: ResultsRequest) =>
        new Promise((resolve) =>
          reports.push({
            max: body.max,
            answer: () => resolve({ items: body.results.map(() => ({ accepted: true })), jobs: jobs(body.max) }),
          }),
        ),
      heartbeat: () => Promise.resolve({ stop: [], drain: false }),
      progress: () => Promise.resolve(null),
    },
    instance: "w",
    labels: [],
    concurrency: CONCURRENCY,
    runner: {
      dispatch: (given) => {
        running.push(...given);
        most = Math.max(most, worker.figures.running + worker.figures.unreported);
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
  return { worker, clock, leases, reports, finish, most: () => most };
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
