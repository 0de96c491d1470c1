// The pool keeps a tool's limit, and a job that waits for a place can be stopped like the others.
import { expect, test } from "vitest";
import { silent, TENANT } from "../../test/support/engine.ts";
import { systemClock } from "../adapters/system/system.ts";
import type { JobOutcome, JobResult, ToolJob } from "../contract/jobs.ts";
import { WorkerPool } from "./pool.ts";

const job = (step: number, run_id = "run_a", more: Partial<ToolJob> = {}): ToolJob => ({
  tenant_id: TENANT,
  run_id,
  step,
  attempt: 1,
  kind: "tool",
  tool: { name: "t", version: 1, concurrency_max: 2 } as unknown as ToolJob["tool"],
  args: {},
  idempotency_key: "",
  ...more,
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

test("what is more urgent begins next, also where it waits for a place under a limit", async () => {
  const begun: string[] = [];
  const ends: (() => void)[] = [];
  const pool = new WorkerPool({
    clock: systemClock,
    log: silent,
    concurrency_max: 2,
    execute: ({ run_id, step }) => {
      begun.push(`${run_id}/${step}`);
      return new Promise<JobOutcome>((resolve) => ends.push(() => resolve({ ok: true, kind: "tool", result: step })));
    },
    report: () => undefined,
  });
  const free = { tool: { name: "free", version: 1 } as unknown as ToolJob["tool"] };
  const turn = async () => {
    ends.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  pool.dispatch(
    [1, 2, 3, 4].map((step) => job(step, "low", free)),
    2,
  );
  pool.dispatch([job(1, "high", free)], 9);
  pool.dispatch([job(1, "plain", free)]);
  expect(begun).toEqual(["low/1", "low/2"]);
  for (let i = 0; i < 6; i++) await turn();
  expect(begun.slice(2)).toEqual(["high/1", "plain/1", "low/3", "low/4"]);

  begun.length = 0;
  const one = { tool: { name: "one", version: 1, concurrency_max: 1 } as unknown as ToolJob["tool"] };
  pool.dispatch(
    [1, 2, 3].map((step) => job(step, "low", one)),
    2,
  );
  pool.dispatch([job(1, "high", one)], 9);
  for (let i = 0; i < 5; i++) await turn();
  expect(begun).toEqual(["low/1", "high/1", "low/2", "low/3"]);
});

test("with two limits every job gets its turn: whoever waits for one place does not keep another", async () => {
  const running = new Map<number, () => void>();
  let most = 0;
  const done: number[] = [];
  const pool = new WorkerPool({
    clock: systemClock,
    log: silent,
    concurrency_max: 10,
    execute: ({ step }) =>
      new Promise<JobOutcome>((resolve) => {
        running.set(step, () => resolve({ ok: true, kind: "tool", result: step }));
        most = Math.max(most, running.size);
      }),
    report: (reported) => done.push(...reported.map(({ step }) => step)),
  });
  const agents = ["a", "b", "c"].map((name) => ({ name, concurrency_max: 2 }));
  const tools = ["t", "u"].map((name) => ({ name, version: 1, concurrency_max: 1 }) as unknown as ToolJob["tool"]);
  const jobs = Array.from({ length: 60 }, (_, i) => {
    const agent = agents[i % 4];
    return job(i + 1, `run_${i}`, { tool: tools[i % 2] ?? job(0).tool, ...(agent ? { agent } : {}) });
  });
  pool.dispatch(jobs);
  for (let turn = 0; turn < 200 && done.length < jobs.length; turn++) {
    const [step] = [...running.keys()];
    expect(step, "something runs while something waits").toBeDefined();
    running.get(step ?? 0)?.();
    running.delete(step ?? 0);
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect([done.length, most]).toEqual([60, 2]);
});

test("what has not begun of a run that another node has is not begun here any more", async () => {
  const begun: string[] = [];
  const ends: (() => void)[] = [];
  const gone = new Set<string>();
  const pool = new WorkerPool({
    clock: systemClock,
    log: silent,
    concurrency_max: 1,
    execute: ({ run_id, step }) => {
      begun.push(`${run_id}/${step}`);
      return new Promise<JobOutcome>((resolve) => ends.push(() => resolve({ ok: true, kind: "tool", result: step })));
    },
    report: () => undefined,
    owns: (run_id) => !gone.has(run_id),
  });
  const free = { tool: { name: "free", version: 1 } as unknown as ToolJob["tool"] };
  const end = async () => {
    ends.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  pool.dispatch([job(1, "run_a", free), job(2, "run_a", free), job(1, "run_b", free), job(2, "run_b", free)]);
  pool.dispatch([job(1, "run_c", free)]);
  expect(begun).toEqual(["run_a/1"]);
  // Told of it, or not yet: a process that was frozen finds out by its own count of the lease.
  pool.reset((run_id) => run_id === "run_a");
  gone.add("run_b");
  await end();
  expect(begun).toEqual(["run_a/1", "run_c/1"]);
  expect(pool.depth).toBe(0);
});
