// The same world with several control nodes and remote workers: real engines, leases, dispatchers and take-overs over one
// journal and one unreliable queue, under a virtual clock. Nodes and workers die, freeze (their timers wait, the world does
// not) and are cut off from the database; requests and answers between them are lost. One seed, one history.
import type { Clock, Timer } from "../../src/kit/clock.ts";
import { AppError } from "../../src/contract/errors.ts";
import type { JobResult } from "../../src/contract/jobs.ts";
import { UnknownCommitError } from "../../src/contract/journal.ts";
import type { GroupLease, GroupLeases, JournalStore, NodeAddress } from "../../src/contract/journal.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import type { Delivery, LaneDepth, Ticket } from "../../src/contract/queue.ts";
import type { LeasedJob } from "../../src/contract/workers.ts";
import { Dispatcher } from "../../src/orchestrator/dispatcher.ts";
import { Engine } from "../../src/orchestrator/engine.ts";
import { MemoryQueue } from "../../src/orchestrator/memory-queue.ts";
import { EngineHost } from "../../src/server/engine-host.ts";
import { Ownership } from "../../src/server/ownership.ts";
import type { Prng, SimClock } from "./sim.ts";
import { Sim } from "./sim.ts";

const NODES = 3;
const WORKERS = 3;
/** Small, so that jobs wait. */
const CONCURRENCY = 1;
/** As in sdk/worker-client.ts. */
const ANSWER_MS = 30_000;
const KEY = new Uint8Array(32);
const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** The clock of one process: while it is frozen its timers wait, once it is dead they never fire. */
class ProcessClock implements Clock {
  dead = false;
  private frozen: (() => void)[] | null = null;
  private readonly world: SimClock;

  constructor(world: SimClock) {
    this.world = world;
  }

  now_us(): number {
    return this.world.now_us();
  }

  monotonic_ms(): number {
    return this.world.monotonic_ms();
  }

  timer(delay_ms: number, fn: () => void): Timer {
    let cancelled = false;
    const fire = () => {
      if (cancelled || this.dead) return;
      if (this.frozen) this.frozen.push(fire);
      else fn();
    };
    const timer = this.world.timer(delay_ms, fire);
    return {
      cancel: () => {
        cancelled = true;
        timer.cancel();
      },
    };
  }

  sleep(delay_ms: number): Promise<void> {
    return new Promise((resolve) => this.timer(delay_ms, resolve));
  }

  soon(fn: () => void): void {
    this.timer(0, fn);
  }

  freeze(): void {
    this.frozen ??= [];
  }

  thaw(): void {
    const waiting = this.frozen ?? [];
    this.frozen = null;
    for (const fn of waiting) this.timer(0, fn);
  }
}

/** Redis, as seen by whoever is unlucky: it loses tickets, repeats them, forgets all of them, or does not answer. */
class UnreliableQueue extends MemoryQueue {
  away = false;
  private readonly sim: ClusterSim;

  constructor(sim: ClusterSim) {
    super();
    this.sim = sim;
  }

  private async answer(): Promise<void> {
    await this.sim.clock.sleep(this.sim.random.float() * 2);
    if (this.away && this.sim.faults) throw new AppError("DEPENDENCY_UNAVAILABLE", "the queue is away");
  }

  override async push(tickets: readonly Ticket[]): Promise<void> {
    await this.answer();
    const { random, faults } = this.sim;
    const kept = faults ? tickets.filter(() => !random.chance(0.05)) : tickets;
    if (kept.length < tickets.length) this.sim.saw("a ticket was lost");
    await super.push(kept);
    if (faults && random.chance(0.05)) await super.push(kept);
  }

  override async take(labels: readonly string[], max: number): Promise<Delivery[]> {
    await this.answer();
    return super.take(labels, max);
  }

  override async depth(): Promise<readonly LaneDepth[]> {
    await this.answer();
    return super.depth();
  }

  async flush(): Promise<void> {
    for (;;) if ((await super.take([], 1_000)).length === 0) return;
  }
}

/** The row of the group, with the database's time. */
class SimLeases {
  private held: { by: NodeAddress; until_ms: number; shard_epoch: number } | null = null;
  private readonly sim: ClusterSim;

  constructor(sim: ClusterSim) {
    this.sim = sim;
  }

  /** The leases as one node reaches them. */
  for(node: SimNode): GroupLeases {
    const { clock, store } = this.sim;
    const now = () => clock.monotonic_ms();
    const isHeld = () => this.held !== null && this.held.until_ms > now();
    return {
      claim: (group, by, ttl_ms) =>
        node.database(async (): Promise<GroupLease | null> => {
          if (isHeld()) return null;
          const lease = await store.acquireGroup(group, by.node);
          this.held = { by, until_ms: now() + ttl_ms, shard_epoch: lease.shard_epoch };
          return lease;
        }),
      renew: ({ shard_epoch }, ttl_ms) =>
        node.database(async () => {
          if (!isHeld() || this.held?.shard_epoch !== shard_epoch) return false;
          this.held.until_ms = now() + ttl_ms;
          return true;
        }),
      release: ({ shard_epoch }) =>
        node.database(async () => {
          if (this.held?.shard_epoch === shard_epoch) this.held.until_ms = now();
        }),
      holder: () => node.database(async () => (isHeld() ? (this.held?.by ?? null) : null)),
    };
  }
}

/** One control node: what `server/start.ts` wires, without HTTP. */
class SimNode {
  readonly clock: ProcessClock;
  readonly dispatcher: Dispatcher;
  readonly ownership: Ownership;
  /** Nothing of what it asks the database gets there, or comes back. */
  cutOff = false;
  readonly name: string;
  readonly died: Promise<void>;
  private die: () => void = () => undefined;
  private readonly host: EngineHost;
  private readonly sim: ClusterSim;

  constructor(sim: ClusterSim, name: string) {
    this.sim = sim;
    this.name = name;
    this.died = new Promise((resolve) => (this.die = resolve));
    this.clock = new ProcessClock(sim.clock);
    const clock = this.clock;
    this.dispatcher = new Dispatcher({
      queue: sim.queue,
      clock,
      log: silent,
      key: () => KEY,
      deliver: async (result) => this.host.current().result(result),
      epoch: () => this.host.current().writer.shard_epoch,
      owns: () => this.ownership.isOwner,
    });
    sim.planted(this.dispatcher);
    this.host = new EngineHost({
      clock,
      log: silent,
      create: (onLost, lease) => this.engine(onLost, lease),
      reviveDatabase: async () => undefined,
      onFenced: () => undefined,
      onLost: () => this.ownership.lost(),
    });
    this.ownership = new Ownership({
      leases: sim.leases.for(this),
      group: 0,
      clock,
      log: silent,
      self: () => ({ node: name, url: `http://${name}` }),
      onClaimed: async (lease) => {
        await this.host.open(lease);
        this.sim.tookOver(this.host.current());
      },
      onLost: () => {
        this.dispatcher.reset();
        void this.host.drop();
      },
    });
  }

  /** A statement: it takes its time, and may be cut off before or after it had its effect. */
  async database<T>(work: () => Promise<T>): Promise<T> {
    const { clock, random } = this.sim;
    await clock.sleep(random.float() * 2);
    if (this.cutOff && random.chance(0.5)) throw new UnknownCommitError("cut off before");
    const value = await work();
    if (this.cutOff) throw new UnknownCommitError("cut off after");
    return value;
  }

  private engine(onLost: (error: Error) => void, lease?: GroupLease): Engine {
    this.dispatcher.reset();
    const { sim } = this;
    const store: JournalStore = Object.assign(Object.create(sim.store) as JournalStore, {
      flush: (...given: Parameters<JournalStore["flush"]>) => this.database(() => sim.store.flush(...given)),
      groupHead: (group: number) => this.database(() => sim.store.groupHead(group)),
    });
    return new Engine({
      store,
      clock: this.clock,
      random: sim.random,
      governance: { of: () => ({ catalog: sim.catalog, policy: sim.policy }) },
      queue: this.dispatcher,
      tenantKey: () => KEY,
      log: silent,
      group: 0,
      owner: this.name,
      park_after_ms: 200,
      onCommit: (commit) => sim.told(commit),
      onLost,
      ...(lease ? { lease } : {}),
    });
  }

  async start(): Promise<void> {
    this.dispatcher.start();
    await this.ownership.start();
  }

  /** As SIGTERM: the runs first, then the lease, which the next one may take at once. */
  async stop(): Promise<void> {
    await this.host.close();
    await this.ownership.stop();
    this.kill();
  }

  kill(): void {
    this.clock.dead = true;
    this.die();
  }
}

/** A remote worker: leases, makes the effect, and reports until it is answered. */
class SimWorker {
  readonly clock: ProcessClock;
  private readonly atHand = new Map<string, LeasedJob>();
  private readonly sim: ClusterSim;
  private readonly id: { name: string; instance: string };

  constructor(sim: ClusterSim, name: string) {
    this.sim = sim;
    this.id = { name, instance: `${name}-1` };
    this.clock = new ProcessClock(sim.clock);
  }

  start(): void {
    void this.leaseLoop();
    void this.heartbeatLoop();
  }

  /** A request to whichever node owns the runs; throws when it, or its answer, is lost. */
  private async ask<T>(work: (dispatcher: Dispatcher) => Promise<T> | T): Promise<T> {
    const { random, faults } = this.sim;
    await this.clock.sleep(random.float() * 3);
    const node = this.sim.owner();
    if (!node || (faults && random.chance(0.03))) throw new Error("nobody was reached");
    const late = this.clock.sleep(ANSWER_MS).then(() => null);
    const asked = Promise.resolve(work(node.dispatcher)).then((answer) => ({ answer }));
    asked.catch(() => undefined);
    // Its connection breaks when the node dies; when it is frozen nobody says so.
    const found = await Promise.race([asked, node.died.then(() => null), late]);
    if (!found) throw new Error("the connection broke");
    const { answer } = found;
    await this.clock.sleep(random.float() * 3);
    if (faults && random.chance(0.03)) {
      this.sim.saw("an answer to a worker was lost");
      throw new Error("the answer was lost");
    }
    return answer;
  }

  private async leaseLoop(): Promise<void> {
    for (;;) {
      const room = CONCURRENCY - this.atHand.size;
      try {
        if (room <= 0) await this.clock.sleep(5);
        else {
          const wanted = { worker: this.id, labels: [], max: room, wait_ms: 200 };
          for (const job of await this.ask((dispatcher) => dispatcher.lease(wanted))) void this.execute(job);
        }
      } catch {
        await this.clock.sleep(50);
      }
    }
  }

  private async heartbeatLoop(): Promise<void> {
    for (;;) {
      await this.clock.sleep(LIMITS.worker_heartbeat_ms);
      const running = [...this.atHand.values()].map(({ job, attempt_epoch, token }) => ({
        ...job,
        attempt_epoch,
        token,
      }));
      await this.ask((dispatcher) => dispatcher.heartbeat(this.id, running)).catch(() => []);
    }
  }

  private async execute(leased: LeasedJob): Promise<void> {
    const { job, attempt_epoch, token } = leased;
    const key = `${job.run_id}/${job.step}/${job.attempt}/${token}`;
    this.atHand.set(key, leased);
    await this.clock.sleep(this.sim.random.float() * 20);
    const outcome = this.sim.effect(job);
    await this.clock.sleep(this.sim.random.float() * (this.sim.random.chance(0.1) ? 4_000 : 20));
    const { tenant_id, run_id, step, attempt, kind } = job;
    const result: JobResult = { tenant_id, run_id, step, attempt, kind, duration_ms: 1, outcome };
    for (;;) {
      try {
        const [verdict] = await this.ask((dispatcher) =>
          dispatcher.report(this.id, [{ ...result, attempt_epoch, token }]),
        );
        if (verdict?.code !== undefined) this.sim.saw(verdict.code);
        break;
      } catch {
        await this.clock.sleep(50);
      }
    }
    this.atHand.delete(key);
  }
}

export class ClusterSim extends Sim {
  readonly queue = new UnreliableQueue(this);
  readonly leases = new SimLeases(this);
  private nodes: SimNode[] = [];
  private workers: SimWorker[] = [];
  private made = 0;

  /** The node that answers requests just now. */
  owner(): SimNode | null {
    return this.nodes.find((node) => !node.clock.dead && node.ownership.isOwner) ?? null;
  }

  planted(dispatcher: Dispatcher): void {
    this.plant.dispatcher?.(dispatcher);
  }

  tookOver(engine: Engine): void {
    this.saw("runs taken over");
    this.engine = engine;
  }

  told(commit: Parameters<Sim["committed"]>[0]): void {
    this.committed(commit);
  }

  effect(job: Parameters<Sim["outcome"]>[0]): ReturnType<Sim["outcome"]> {
    return this.outcome(job);
  }

  private addNode(): SimNode {
    const node = new SimNode(this, `node-${(this.made += 1)}`);
    this.nodes = [...this.nodes.filter((other) => !other.clock.dead), node];
    void node.start().catch(() => undefined);
    return node;
  }

  private addWorker(): void {
    const worker = new SimWorker(this, `worker-${(this.made += 1)}`);
    this.workers = [...this.workers.filter((other) => !other.clock.dead), worker];
    worker.start();
  }

  private one<T>(list: readonly T[], random: Prng): T | undefined {
    return list[random.int(list.length)];
  }

  /** Something goes wrong, and is mended after a while. */
  private fault(): void {
    const { random, clock } = this;
    const node = this.one(this.nodes, random);
    const worker = this.one(this.workers, random);
    const later = (fn: () => void) => void clock.timer(random.float() * 12_000, fn);
    const faults: Record<string, () => void> = {
      "a node is killed": () => {
        node?.kill();
        later(() => void this.addNode());
      },
      "a node is told to stop": () => {
        void node?.stop().catch(() => undefined);
        later(() => void this.addNode());
      },
      "a node is frozen": () => {
        node?.clock.freeze();
        later(() => node?.clock.thaw());
      },
      "a node is cut off from the database": () => {
        if (node) node.cutOff = true;
        later(() => node && (node.cutOff = false));
      },
      "a worker is killed": () => {
        if (worker) worker.clock.dead = true;
        later(() => this.addWorker());
      },
      "a worker is frozen": () => {
        worker?.clock.freeze();
        later(() => worker?.clock.thaw());
      },
      "the queue is flushed": () => void this.queue.flush(),
      "the queue is away": () => {
        this.queue.away = true;
        later(() => (this.queue.away = false));
      },
    };
    const name = this.one(Object.keys(faults), random) ?? "";
    this.saw(name);
    faults[name]?.();
  }

  override async play(): Promise<void> {
    for (let i = 0; i < NODES; i++) this.addNode();
    for (let i = 0; i < WORKERS; i++) this.addWorker();
    await this.until(() => this.owner() !== null && this.engine !== undefined, 10_000);
    const runs = 3 + this.random.int(5);
    for (let i = 0; i < runs; i++) this.start();
    const storm = 1_500 + this.random.int(1_500);
    for (let i = 0; i < storm; i++) {
      if (this.random.chance(0.01)) this.person();
      if (this.random.chance(0.004)) this.start();
      if (this.random.chance(0.008)) this.fault();
      await this.tick();
    }
    this.calm();
    let ticks = 0;
    await this.until(() => {
      if ((ticks += 1) % 200 === 0) this.person();
      return ![...this.store.runs.values()].some((run) => ["running", "waiting", "queued"].includes(run.state));
    }, 120_000);
    for (const process of [...this.nodes, ...this.workers]) process.clock.dead = true;
  }

  /** No more faults; who is gone is replaced, who is frozen wakes. */
  private calm(): void {
    this.faults = false;
    this.queue.away = false;
    for (const node of this.nodes) {
      node.cutOff = false;
      node.clock.thaw();
    }
    for (const worker of this.workers) worker.clock.thaw();
    if (!this.nodes.some((node) => !node.clock.dead)) this.addNode();
    if (!this.workers.some((worker) => !worker.clock.dead)) this.addWorker();
  }

  private async until(isSo: () => boolean, ticks_max: number): Promise<void> {
    for (let i = 0; i < ticks_max && !isSo(); i++) await this.tick();
  }
}
