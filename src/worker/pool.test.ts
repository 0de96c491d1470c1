// The pool keeps a tool's limit, and a job that waits for a place can be stopped like the others.
import { expect, test } from "vitest";
import { silent, TENANT } from "../../test/support/engine.ts";
import { systemClock } from "../adapters/system/system.ts";
import type { JobOutcome, JobResult, ToolJob } from "../contract/jobs.ts";
import { WorkerPool } from "./pool.ts";

const job = (step: number, run_id = "run_a"): ToolJob => ({
  tenant_id: TENANT,
  run_id,
  step,
  attempt: 1,
  kind: "tool",
  tool: { name: "t", version: 1, concurrency_max: 2 } as unknown as ToolJob["tool"],
  args: {},
  idempotency_key: "",
});

test("a tool's limit holds, waiting jobs follow in order, and stopped ones never begin", async () => {
  const begun: number[] = [];
  const results: JobResult[] = [];
  const ends = new Map<number, () => void>();
  const pool = new WorkerPool({
    clock: systemClock,
    log: silent,
    concurrency_max: 10,
    execute: ({ step }) => {
      begun.push(step);
      return new Promise<JobOutcome>((resolve) =>
        ends.set(step, () => resolve({ ok: true, kind: "tool", result: step })),
      );
    },
    report: (reported) => results.push(...reported),
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  pool.dispatch([job(1), job(2), job(3, "run_b"), job(4), job(5)]);
  expect(begun).toEqual([1, 2]);
  pool.abort("run_b");
  await turn();
  expect(results.map(({ step, outcome }) => [step, outcome.ok])).toEqual([[3, false]]);
  ends.get(1)?.();
  await turn();
  expect(begun).toEqual([1, 2, 4]);
  ends.get(2)?.();
  ends.get(4)?.();
  await turn();
  expect(begun).toEqual([1, 2, 4, 5]);
});
