// Deterministic simulation: the real engine, decisions, policy, budget and approvals over the in-memory journal, with a
// virtual clock and seeded faults at every await: crash, zombie owner, unknown commit (before and after it took effect),
// refused row, delay, duplicate and reordered results. One seed, one history.
import { encodeId } from "../../src/kit/ids.ts";
import type { Clock, Timer } from "../../src/kit/clock.ts";
import type { Random } from "../../src/kit/random.ts";
import { newId } from "../../src/contract/ids.ts";
import type { Catalog } from "../../src/contract/catalog.ts";
import { isAppError } from "../../src/contract/errors.ts";
import type { BudgetSlices } from "../../src/contract/slices.ts";
import type { Job, JobOutcome, JobQueue, JobResult } from "../../src/contract/jobs.ts";
import { MemoryJournalStore } from "../../src/journal/memory-store.ts";
import type { FlushFault } from "../../src/journal/memory-store.ts";
import type { Dispatcher } from "../../src/orchestrator/dispatcher.ts";
import { Engine } from "../../src/orchestrator/engine.ts";
import type { Commit } from "../../src/orchestrator/engine.ts";
import type { ParkedRuns } from "../../src/orchestrator/parked-runs.ts";
import { Policy } from "../../src/core/policy.ts";
import { SHARED_LIMIT, simCatalog, SIM_POLICY, routingOf } from "./world.ts";

/** mulberry32: small, seeded, good enough to pick faults. */
export class Prng implements Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  float(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => Math.floor(this.float() * 256));
  }

  chance(p: number): boolean {
    return this.float() < p;
  }

  int(n: number): number {
    return Math.floor(this.float() * n);
  }
}

interface Due {
  readonly at: number;
  readonly order: number;
  readonly fn: () => void;
  cancelled: boolean;
}

export class SimClock implements Clock {
  private us = 1_700_000_000_000_000;
  private order = 0;
  private timers: Due[] = [];

  now_us(): number {
    return this.us;
  }

  monotonic_ms(): number {
    return this.us / 1000;
  }

  timer(delay_ms: number, fn: () => void): Timer {
    const due: Due = { at: this.us + Math.max(0, delay_ms) * 1000, order: this.order++, fn, cancelled: false };
    this.timers.push(due);
    return { cancel: () => (due.cancelled = true) };
  }

  sleep(delay_ms: number): Promise<void> {
    return new Promise((resolve) => this.timer(delay_ms, resolve));
  }

  soon(fn: () => void): void {
    this.timer(0, fn);
  }

  /** Runs the next timer; false when there is none. */
  step(): boolean {
    this.timers = this.timers.filter((timer) => !timer.cancelled);
    if (this.timers.length === 0) return false;
    const next = this.timers.reduce((a, b) => (b.at < a.at || (b.at === a.at && b.order < a.order) ? b : a));
    this.timers.splice(this.timers.indexOf(next), 1);
    this.us = Math.max(this.us, Math.round(next.at));
    next.fn();
    return true;
  }
}

/** A bug planted at a seam; the harness must find each. */
export interface Plant {
  readonly store?: (store: MemoryJournalStore, random: Prng) => void;
  readonly catalog?: (catalog: Catalog) => Catalog;
  readonly policy?: (policy: Policy) => Policy;
  readonly clock?: (clock: SimClock, random: Prng) => void;
  readonly results?: (results: readonly JobResult[], random: Prng) => readonly JobResult[];
  readonly engine?: (engine: Engine) => void;
  /** Of the simulation of several nodes alone. */
  readonly dispatcher?: (dispatcher: Dispatcher) => void;
  readonly slices?: (slices: BudgetSlices) => void;
}

/** What the outside world saw: a count of effects by logical step. */
export interface Effects {
  readonly count: Map<string, number>;
  readonly denied: string[];
}

export class Sim {
  readonly random: Prng;
  readonly clock = new SimClock();
  readonly store = new MemoryJournalStore();
  readonly tenant: string;
  readonly effects: Effects = { count: new Map(), denied: [] };
  readonly acknowledged = new Set<string>();
  readonly personRetried = new Set<string>();
  readonly sometimes = new Map<string, number>();
  readonly budgetPeaks: string[] = [];
  readonly catalog: Catalog;
  readonly policy: Policy;
  engine!: Engine;
  faults = true;
  private generation = 0;
  protected readonly plant: Plant;

  /** Some runs are tasks. Histories that were kept from before have none. */
  tasks = true;

  constructor(seed: number, plant: Plant = {}) {
    this.random = new Prng(seed);
    this.plant = plant;
    this.tenant = encodeId("ten", this.random.bytes(16));
    const catalog = simCatalog();
    this.catalog = plant.catalog ? plant.catalog(catalog) : catalog;
    const policy = new Policy(SIM_POLICY);
    this.policy = plant.policy ? plant.policy(policy) : policy;
    this.store.fault = () => this.flushFault();
    plant.store?.(this.store, this.random);
    plant.clock?.(this.clock, this.random);
  }

  saw(what: string): void {
    this.sometimes.set(what, (this.sometimes.get(what) ?? 0) + 1);
  }

  private async flushFault(): Promise<FlushFault> {
    await this.clock.sleep(this.random.float() * 3);
    if (!this.faults) return "none";
    const roll = this.random.float();
    if (roll < 0.03) return this.note("before");
    if (roll < 0.06) return this.note("after");
    return "none";
  }

  private note(fault: FlushFault): FlushFault {
    this.saw(`unknown commit, ${fault === "after" ? "committed" : "lost"}`);
    return fault;
  }

  /** Starts an engine; whoever owned the group before is fenced from its next flush on. */
  async open(): Promise<void> {
    this.generation += 1;
    const mine = this.generation;
    let engine!: Engine;
    const queue: JobQueue = {
      dispatch: (jobs) => jobs.forEach((job) => void this.execute(job, () => engine)),
      abort: () => undefined,
    };
    engine = new Engine({
      store: this.store,
      clock: this.clock,
      random: this.random,
      governance: { of: () => ({ catalog: this.catalog, policy: this.policy }) },
      queue,
      tenantKey: () => new Uint8Array(32),
      log: { info: () => undefined, warn: () => undefined, error: () => undefined },
      group: 0,
      owner: `node-${mine}`,
      park_after_ms: 200,
      onCommit: (commit) => this.committed(commit),
      onLost: () => {
        if (mine === this.generation) void this.open();
      },
    });
    this.plant.engine?.(engine);
    const { parked } = engine as unknown as { parked: ParkedRuns };
    const take = parked.take.bind(parked);
    parked.take = (run_id) => {
      if (parked.tenantOf(run_id) !== undefined) this.saw("a parked run came back");
      return take(run_id);
    };
    this.engine = engine;
    try {
      await engine.open();
    } catch {
      if (mine === this.generation) await this.open();
    }
  }

  protected committed(commit: Commit): void {
    // There is one budget, which each group keeps its part of.
    const used = [...this.store.budgets.values()].map((use) => use.reserved_micro_usd + use.spent_micro_usd);
    if (used.reduce((sum, part) => sum + part, 0) > SHARED_LIMIT)
      this.budgetPeaks.push(`${commit.run_id} at ${commit.last_seq}`);
    for (const draft of commit.drafts) {
      if (
        [
          "step.in_doubt",
          "budget.exceeded",
          "tool.denied",
          "human.approval_resolved",
          "journal.late",
          "run.cancelled",
        ].includes(draft.type)
      )
        this.saw(draft.type);
    }
  }

  /** A worker: the effect happens at some instant; its answer may come late, twice, or out of order. */
  private async execute(job: Job, engine: () => Engine): Promise<void> {
    await this.clock.sleep(this.random.float() * 20);
    const outcome = this.outcome(job);
    await this.clock.sleep(this.random.float() * (this.random.chance(0.1) ? 4_000 : 20));
    const { tenant_id, run_id, step, attempt, kind } = job;
    let results: readonly JobResult[] = [{ tenant_id, run_id, step, attempt, kind, duration_ms: 1, outcome }];
    if (this.plant.results) results = this.plant.results(results, this.random);
    engine().results(results);
    if (this.faults && this.random.chance(0.1)) {
      await this.clock.sleep(this.random.float() * 50);
      engine().results(results);
    }
  }

  protected outcome(job: Job): JobOutcome {
    if (job.kind === "model") return this.modelOutcome(job);
    const { name } = job.tool;
    if (name === "forbidden") this.effects.denied.push(`${job.run_id}/${job.step}`);
    const fail = (cls: "transient" | "permanent" | "unknown_outcome"): JobOutcome => ({
      ok: false,
      failure: { class: cls, code: cls, message: cls },
    });
    if (this.faults && this.random.chance(0.08)) return fail("transient");
    const key = `${job.run_id}/${job.step}`;
    this.effects.count.set(key, (this.effects.count.get(key) ?? 0) + 1);
    if (this.faults && this.random.chance(0.05)) return fail("unknown_outcome");
    if (this.random.chance(0.05)) return { ok: true, kind: "tool", result: { problem: "refused" }, is_error: true };
    return { ok: true, kind: "tool", result: { echo: job.args } };
  }

  private modelOutcome(job: Extract<Job, { kind: "model" }>): JobOutcome {
    if (this.faults && this.random.chance(0.1)) {
      return {
        ok: false,
        failure: { class: "rate_limited", code: "provider_429", message: "slow down", retry_after_ms: 100 },
      };
    }
    const turns = job.messages.filter((message) => message.role === "assistant").length;
    const names = ["read", "pay", "approve_me", "forbidden", "send"];
    const calls =
      turns >= 3 || this.random.chance(0.3)
        ? []
        : Array.from({ length: 1 + this.random.int(3) }, (_, i) => ({
            id: `c${turns}_${i}`,
            name: names[this.random.int(names.length)] ?? "read",
            arguments: this.random.chance(0.05) ? "{broken" : `{"n":${this.random.int(5)}}`,
          }));
    const usage = { input_tokens: 10 + this.random.int(50), output_tokens: 1 + this.random.int(40) };
    return {
      ok: true,
      kind: "model",
      content: calls.length > 0 ? null : "done",
      tool_calls: calls,
      finish_reason: "stop",
      usage,
      response_model: "sim",
    };
  }

  /** Starts a run; an unacknowledged start may or may not have happened. */
  start(): void {
    const run_id = newId("run", { clock: this.clock, random: this.random });
    const isAgent = this.random.chance(0.5);
    const target = {
      digest: "d",
      kind: isAgent ? "agent" : "workflow",
      name: isAgent ? "bot" : this.random.chance(0.5) ? "line" : "fan",
      version: 1,
    };
    const routing = this.tasks && isAgent ? routingOf(run_id) : null;
    const told = { project: "default", requester: "ada", ...(routing ? { routing } : {}), target };
    const data = { env: "dev", input: "go", kind: target.kind, ...told };
    this.engine.start({ tenant_id: this.tenant, run_id, command: { type: "start", data } }).then(
      () => this.acknowledged.add(run_id),
      () => undefined,
    );
  }

  /** A person does something to some open run. */
  person(): void {
    const pending = [...this.store.approvals.values()].filter((row) => row.state === "pending");
    const approval = pending[this.random.int(pending.length)];
    const open = [...this.store.runs.values()].filter((run) => ["running", "waiting"].includes(run.state));
    const run = open[this.random.int(open.length)];
    const ignore = (promise: Promise<unknown>) =>
      promise.catch((error: unknown) => {
        if (!isAppError(error) && !(error instanceof Error)) throw error;
      });
    const user = { id: "ada", kind: "user" as const };
    if (approval && this.random.chance(this.faults ? 0.6 : 1)) {
      const number =
        [...this.store.approvals.values()]
          .filter((row) => row.run_id === approval.run_id)
          .sort((a, b) => a.created_at_us - b.created_at_us)
          .indexOf(approval) + 1;
      const decision = this.random.chance(0.8) ? ("approved" as const) : ("rejected" as const);
      for (const n of [number, ...Array.from({ length: 8 }, (_, i) => i + 1)]) {
        void ignore(
          this.engine.command(this.tenant, approval.run_id, {
            type: "approve",
            number: n,
            decision,
            note: "",
            actor: { id: this.random.chance(0.1) ? "ada" : "grace", kind: "human_reviewer" },
          }),
        );
      }
    }
    if (!run) return;
    const state = this.engine.stateOf(run.run_id);
    for (const step of state?.steps.values() ?? []) {
      if (step.status !== "in_doubt") continue;
      const retry = this.random.chance(0.3);
      if (retry) this.personRetried.add(`${run.run_id}/${step.n}`);
      const resolution = retry
        ? { outcome: "retry" as const, note: "" }
        : this.random.chance(0.5)
          ? { outcome: "completed" as const, result: "seen", note: "" }
          : { outcome: "failed" as const, message: "no", note: "" };
      void ignore(
        this.engine.command(this.tenant, run.run_id, { type: "resolve", step: step.n, resolution, actor: user }),
      );
    }
    if (this.faults && this.random.chance(0.1))
      void ignore(this.engine.command(this.tenant, run.run_id, { type: "cancel", reason: "", actor: user }));
    if (this.faults && this.random.chance(0.1))
      void ignore(this.engine.command(this.tenant, run.run_id, { type: "pause", actor: user }));
    if (!this.faults || this.random.chance(0.3))
      void ignore(this.engine.command(this.tenant, run.run_id, { type: "resume", actor: user }));
  }

  /** The whole history of one seed: a stormy part, then calm until nothing moves. */
  async play(): Promise<void> {
    await this.settle(this.open());
    const runs = 2 + this.random.int(5);
    for (let i = 0; i < runs; i++) this.start();
    const storm = 60 + this.random.int(120);
    for (let i = 0; i < storm; i++) {
      if (this.random.chance(0.06)) this.person();
      if (this.random.chance(0.03)) this.start();
      if (this.random.chance(0.02)) {
        // The old owner is not told: as a zombie it goes on until the fence stops it.
        this.saw("owner replaced");
        void this.open();
      }
      await this.tick();
    }
    this.faults = false;
    for (let idle = 0, ticks = 0; idle < 300 && ticks < 30_000; ticks++) {
      if (await this.tick()) {
        idle = 0;
        continue;
      }
      const open = [...this.store.runs.values()].some((run) => ["running", "waiting", "queued"].includes(run.state));
      if (!open) break;
      idle += 1;
      this.person();
    }
  }

  protected async tick(): Promise<boolean> {
    const moved = this.clock.step();
    await new Promise((resolve) => setImmediate(resolve));
    return moved;
  }

  private async settle(promise: Promise<unknown>): Promise<void> {
    let done = false;
    void promise.finally(() => (done = true));
    while (!done) await this.tick();
  }
}
