// The same world with several control nodes and remote workers: real engines, leases, dispatchers and take-overs over one
// journal and one unreliable queue, under a virtual clock. Nodes and workers die, freeze (their timers wait, the world does
// not) and are cut off from the database; requests and answers between them are lost. One seed, one history.
import { present } from "../../src/kit/assert.ts";
import type { Clock, Timer } from "../../src/kit/clock.ts";
import { AppError } from "../../src/contract/errors.ts";
import type { JobResult } from "../../src/contract/jobs.ts";
import { UnknownCommitError } from "../../src/contract/journal.ts";
import type { GroupLease, JournalStore } from "../../src/contract/journal.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import { groupOf } from "../../src/contract/placement.ts";
import type { Delivery, LaneDepth, Ticket } from "../../src/contract/queue.ts";
import type { BudgetSlices } from "../../src/contract/slices.ts";
import type { LeasedJob } from "../../src/contract/workers.ts";
import { Dispatcher } from "../../src/orchestrator/dispatcher.ts";
import { Engine } from "../../src/orchestrator/engine.ts";
import { MemoryQueue } from "../../src/orchestrator/memory-queue.ts";
import { GroupHosts } from "../../src/server/group-hosts.ts";
import type { Ownership } from "../../src/server/ownership.ts";
import { SharedLeases } from "../support/leases.ts";
import { MemorySlices } from "../support/slices.ts";
import type { Prng, SimClock } from "./sim.ts";
import { Sim } from "./sim.ts";

const NODES = 3;
/** Not a multiple of the nodes: they do not own equally many. */
const GROUPS = 4;
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
  private readonly sim: ClusterSim;

  constructor(sim: ClusterSim) {
    super();
    this.sim = sim;
  }

  private async answer(): Promise<void> {
    await this.sim.clock.sleep(this.sim.random.float() * 2);
    if (this.sim.queueAway && this.sim.faults) throw new AppError("DEPENDENCY_UNAVAILABLE", "the queue is away");
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

/** One control node: what `server/start.ts` wires, without HTTP. */
class SimNode {
  readonly clock: ProcessClock;
  readonly queue: UnreliableQueue;
  readonly dispatcher: Dispatcher;
  readonly hosts: GroupHosts;
  /** Nothing of what it asks the database gets there, or comes back. */
  cutOff = false;
  readonly name: string;
  readonly died: Promise<void>;
  private die: () => void = () => undefined;
  private readonly sim: ClusterSim;

  constructor(sim: ClusterSim, name: string) {
    this.sim = sim;
    this.name = name;
    this.died = new Promise((resolve) => (this.die = resolve));
    this.clock = new ProcessClock(sim.clock);
    this.queue = new UnreliableQueue(sim);
    const clock = this.clock;
    this.dispatcher = new Dispatcher({
      queue: this.queue,
      clock,
      log: silent,
      key: () => KEY,
      deliver: async (result) => this.hosts.shards.of(result.run_id).result(result),
      epoch: (run_id) => this.hosts.shards.of(run_id).writer.shard_epoch,
      owns: (run_id) => this.hosts.holds(run_id),
    });
    sim.planted(this.dispatcher);
    this.hosts = new GroupHosts({
      groups: GROUPS,
      clock,
      log: silent,
      create: (group, onLost, lease) => this.engine(group, onLost, lease),
      leases: sim.leases.for(
        (work) => this.database(work),
        (group, by) => sim.store.acquireGroup(group, by),
      ),
      self: () => ({ node: name, url: `http://${name}` }),
      settings: { version: 1, changed: () => undefined, refresh: async () => undefined },
      reviveDatabase: async () => undefined,
      onFenced: () => undefined,
      elsewhere: async () => undefined,
      onClaimed: () => sim.saw("runs taken over"),
      onOpen: async () => undefined,
      onReset: (isGone) => this.dispatcher.reset(isGone),
      onGone: () => undefined,
    });
  }

  private get ownership(): Ownership {
    return present(this.hosts.ownership, "the nodes of a cluster have leases");
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

  private engine(group: number, onLost: (error: Error) => void, lease?: GroupLease): Engine {
    const { sim } = this;
    const store: JournalStore = Object.assign(Object.create(sim.store) as JournalStore, {
      flush: (...given: Parameters<JournalStore["flush"]>) => this.database(() => sim.store.flush(...given)),
      groupHead: (of: number) => this.database(() => sim.store.groupHead(of)),
    });
    const slices: BudgetSlices = {
      ask: (owner, need) =>
        this.database(async () => {
          const answer = await sim.slices.ask(owner, need);
          sim.saw(answer.enough ? "a slice was granted" : answer.wait ? "a slice was wanted" : "a slice was refused");
          return answer;
        }),
      giveBack: (owner, key, left) => this.database(() => sim.slices.giveBack(owner, key, left)),
      granted: (of) => sim.slices.granted(of),
    };
    return new Engine({
      store,
      clock: this.clock,
      random: sim.random,
      governance: { of: () => ({ catalog: sim.catalog, policy: sim.policy }) },
      queue: this.dispatcher,
      tenantKey: () => KEY,
      log: silent,
      group,
      owner: this.name,
      park_after_ms: 200,
      slices: { store: slices, recall: (key) => this.hosts.shards.giveBack([key]) },
      onCommit: (commit) => sim.told(commit),
      onLost,
      ...(lease ? { lease } : {}),
    });
  }

  async start(): Promise<void> {
    this.dispatcher.start();
    await this.ownership.start();
  }

  /** As SIGTERM: the runs first, then the leases, which others may take at once. */
  async stop(): Promise<void> {
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

  /** A request to the node that owns a run, or one that owns some; throws when it, or its answer, is lost. */
  private async ask<T>(run_id: string | null, work: (dispatcher: Dispatcher) => Promise<T> | T): Promise<T> {
    const { random, faults } = this.sim;
    await this.clock.sleep(random.float() * 3);
    const node = run_id === null ? this.sim.someOwner() : this.sim.ownerOf(run_id);
    if (!node || (faults && random.chance(0.03))) throw new Error("nobody was reached");
    return this.to(node, work);
  }

  private async to<T>(node: SimNode, work: (dispatcher: Dispatcher) => Promise<T> | T): Promise<T> {
    const { random, faults } = this.sim;
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
          for (const job of await this.ask(null, (dispatcher) => dispatcher.lease(wanted))) void this.execute(job);
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
      // It talks to each node, and each knows what it gave out.
      for (const node of this.sim.owners)
        await this.to(node, (dispatcher) => dispatcher.heartbeat(this.id, running)).catch(() => []);
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
        const [verdict] = await this.ask(run_id, (dispatcher) =>
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
  readonly leases = new SharedLeases(GROUPS, this.clock);
  readonly slices = new MemorySlices(this.store, GROUPS);
  queueAway = false;
  private nodes: SimNode[] = [];
  private workers: SimWorker[] = [];
  private made = 0;

  constructor(...given: ConstructorParameters<typeof Sim>) {
    super(...given);
    this.leases.wanted = (groups) => this.slices.wanted(groups);
    this.plant.slices?.(this.slices);
    // People and clients reach the owner of a run, wherever that is.
    const at = (run_id: string) => {
      const node = this.ownerOf(run_id);
      if (!node) throw new AppError("FENCED", "nobody owns the run");
      return node.hosts.shards;
    };
    this.engine = {
      start: async (run: Parameters<Engine["start"]>[0]) => at(run.run_id).start(run),
      command: async (...given: Parameters<Engine["command"]>) => at(given[1]).command(...given),
      stateOf: (run_id: string) => this.ownerOf(run_id)?.hosts.shards.stateOf(run_id) ?? null,
    } as Engine;
  }

  /** Nodes that answer requests just now. */
  get owners(): SimNode[] {
    return this.nodes.filter((node) => !node.clock.dead && node.hosts.owned.length > 0);
  }

  someOwner(): SimNode | null {
    return this.one(this.owners, this.random) ?? null;
  }

  ownerOf(run_id: string): SimNode | null {
    const group = groupOf(run_id, GROUPS);
    return this.owners.find((node) => node.hosts.owned.includes(group)) ?? null;
  }

  planted(dispatcher: Dispatcher): void {
    this.plant.dispatcher?.(dispatcher);
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
      "the queue is flushed": () => this.nodes.forEach((one) => void one.queue.flush()),
      "the queue is away": () => {
        this.queueAway = true;
        later(() => (this.queueAway = false));
      },
    };
    const name = this.one(Object.keys(faults), random) ?? "";
    this.saw(name);
    faults[name]?.();
  }

  override async play(): Promise<void> {
    for (let i = 0; i < NODES; i++) this.addNode();
    for (let i = 0; i < WORKERS; i++) this.addWorker();
    await this.until(() => this.owners.flatMap((node) => node.hosts.owned).length === GROUPS, 10_000);
    const runs = 6 + this.random.int(8);
    for (let i = 0; i < runs; i++) this.start();
    const storm = 3_000 + this.random.int(4_000);
    for (let i = 0; i < storm; i++) {
      if (this.random.chance(0.006)) this.person();
      if (this.random.chance(0.004)) this.start();
      if (this.random.chance(0.005)) this.fault();
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
    this.queueAway = false;
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
