// Use cases of remote workers: their credentials, their leases, and what an operator sees of them and of the queue.
import { rfc3339 } from "../kit/clock.ts";
import type { Clock } from "../kit/clock.ts";
import { sameText, sha256Hex } from "../kit/hash.ts";
import type { Random } from "../kit/random.ts";
import { AppError } from "../contract/errors.ts";
import type { Db } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import type { Queue } from "../contract/queue.ts";
import { serves } from "../contract/queue.ts";
import { WORKER_TOKEN_PREFIX } from "../contract/workers.ts";
import type {
  HeartbeatAnswer,
  HeartbeatRequest,
  LeasedJob,
  LeaseRequest,
  MintedWorker,
  OwnedGroup,
  ProgressRequest,
  QueueView,
  ResultsAnswer,
  ResultsRequest,
  WorkerView,
} from "../contract/workers.ts";
import { LIMITS } from "../contract/limits.ts";
import type { RunState } from "../core/run-state.ts";
import { insertWorker, listWorkers, revokeWorker } from "../store/workers.ts";
import type { WorkerRow } from "../store/workers.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { WorkerId } from "./waiters.ts";
import type { Engine } from "./engine.ts";

/** One process of a worker, as last heard of. */
interface Instance {
  readonly worker: WorkerId;
  labels: readonly string[];
  seen_ms: number;
  draining: boolean;
  completed: number;
  refused: number;
}

export interface WorkersOptions {
  readonly dispatcher: Dispatcher;
  readonly queue: Queue;
  readonly driver: string;
  readonly db: Db;
  readonly clock: Clock;
  readonly random: Random;
  readonly engine: () => Pick<Engine, "states">;
  /** What control nodes say who they are with, among themselves. */
  readonly nodeToken: string;
  /** Who owns which group of runs; none where one process has all. */
  readonly groups: () => readonly OwnedGroup[];
  /** Returns when every control node knows the credentials as they are now. */
  readonly everywhere: () => Promise<void>;
  /** What running jobs say, for whoever watches their runs. */
  readonly onProgress: (said: readonly JobProgress[]) => void;
}

/** Stands for control nodes, which hand over outcomes among themselves; no worker can have this name. */
export const CONTROL_NODE = "(control node)";
const TOKEN_BYTES = 32;
/** A process that is gone is shown for so long. */
const FORGET_MS = 60_000;

export class Workers {
  private readonly options: WorkersOptions;
  private rows: readonly WorkerRow[] = [];
  /** Those that were not revoked, by the digest of their token. */
  private byToken: ReadonlyMap<string, WorkerRow> = new Map();
  private readonly instances = new Map<string, Instance>();
  /** Processes that were asked to end; one that is started later under the same name is not meant. */
  private readonly drained = new Set<string>();

  constructor(options: WorkersOptions) {
    this.options = options;
  }

  /** Reads the credentials; repeated, so that another node's changes are seen. */
  async refresh(): Promise<void> {
    this.rows = await this.options.db.transaction({ role: "qd_system" }, listWorkers);
    const valid = this.rows.filter((row) => row.revoked_at_us === null);
    this.byToken = new Map(valid.map((row) => [row.token_sha256, row]));
    const gone = this.options.clock.monotonic_ms() - FORGET_MS;
    for (const [key, instance] of this.instances) {
      if (instance.seen_ms >= gone) continue;
      this.instances.delete(key);
      this.drained.delete(key);
    }
  }

  /** The worker with this token; null when there is none or it was revoked. */
  authenticate(token: string): Pick<WorkerRow, "name"> | null {
    if (sameText(token, this.options.nodeToken)) return { name: CONTROL_NODE };
    // What is looked up is a digest: how long that takes says nothing of the token.
    return this.byToken.get(sha256Hex(token)) ?? null;
  }

  async mint(by: string, name: string, labels: readonly string[]): Promise<MintedWorker> {
    const token = WORKER_TOKEN_PREFIX + Buffer.from(this.options.random.bytes(TOKEN_BYTES)).toString("base64url");
    const row: WorkerRow = {
      name,
      token_sha256: sha256Hex(token),
      labels: labels.toSorted(),
      created_by: by,
      created_at_us: this.options.clock.now_us(),
      revoked_at_us: null,
    };
    const made = await this.options.db.transaction({ role: "qd_system" }, (tx) => insertWorker(tx, row));
    if (!made) throw new AppError("WORKER_EXISTS", `There is a worker ${name}`, { details: { name } });
    await this.changed();
    return { name, labels: [...row.labels], token };
  }

  /** From here on its requests are refused; what it has is lost after the lease. */
  async revoke(by: string, name: string): Promise<WorkerView> {
    const now_us = this.options.clock.now_us();
    const done = await this.options.db.transaction({ role: "qd_system" }, (tx) => revokeWorker(tx, name, by, now_us));
    if (!done) throw new AppError("NOT_FOUND", `There is no worker ${name} to revoke`, { details: { name } });
    await this.changed();
    return this.one(name);
  }

  private async changed(): Promise<void> {
    await this.refresh();
    await this.options.everywhere();
  }

  /** Its processes take no more jobs, and end when they have done those at hand. */
  async drain(name: string): Promise<WorkerView> {
    const view = this.one(name);
    for (const { instance } of view.instances) this.drained.add(`${name}/${instance}`);
    return view;
  }

  private one(name: string): WorkerView {
    const view = this.list().find((worker) => worker.name === name);
    if (!view) throw new AppError("NOT_FOUND", `There is no worker ${name}`, { details: { name } });
    return view;
  }

  private heard(worker: WorkerId, labels: readonly string[], draining: boolean): Instance {
    const key = `${worker.name}/${worker.instance}`;
    let instance = this.instances.get(key);
    if (!instance) {
      instance = { worker, labels, seen_ms: 0, draining, completed: 0, refused: 0 };
      this.instances.set(key, instance);
    }
    instance.labels = labels;
    instance.draining = draining || this.drained.has(key);
    instance.seen_ms = this.options.clock.monotonic_ms();
    return instance;
  }

  /** Labels of the credential bind: a process may leave some out, it cannot claim others. */
  private allowed(name: string, labels: readonly string[]): readonly string[] {
    if (name === CONTROL_NODE) return [];
    const row = this.rows.find((candidate) => candidate.name === name);
    if (!row)
      throw new AppError("AUTH_FORBIDDEN", `${name} is no worker`, { details: { permission: "workers:execute" } });
    const extra = labels.filter((label) => !row.labels.includes(label));
    if (extra.length === 0) return labels;
    throw new AppError("AUTH_FORBIDDEN", `The credential of ${name} does not have the labels ${extra.join(", ")}`, {
      details: { permission: "workers:execute", labels: extra },
    });
  }

  async lease(
    name: string,
    request: LeaseRequest,
    gone: AbortSignal | null,
  ): Promise<{ jobs: readonly LeasedJob[]; drain: boolean }> {
    const worker = { name, instance: request.instance };
    const labels = this.allowed(name, request.labels);
    const instance = this.heard(worker, labels, false);
    if (instance.draining) return { jobs: [], drain: true };
    const { max, wait_ms } = request;
    const leaving = () => instance.draining || this.drained.has(`${name}/${request.instance}`);
    const asked = { worker, labels, max, wait_ms, leaving, ...(gone ? { gone } : {}) };
    const jobs = await this.options.dispatcher.lease(asked);
    instance.seen_ms = this.options.clock.monotonic_ms();
    return { jobs, drain: this.drained.has(`${name}/${request.instance}`) };
  }

  heartbeat(name: string, request: HeartbeatRequest): HeartbeatAnswer {
    const worker = { name, instance: request.instance };
    const instance = this.heard(worker, this.allowed(name, request.labels), request.draining === true);
    if (instance.draining) this.options.dispatcher.dismiss(worker);
    const stop = this.options.dispatcher.heartbeat(worker, request.running);
    return { stop, drain: instance.draining, groups: [...this.options.groups()] };
  }

  /** Passes on what its jobs say. */
  progress(name: string, request: ProgressRequest): { taken: number } {
    const worker = { name, instance: request.instance };
    const said = request.items.filter((item) => this.options.dispatcher.isWith(worker, item));
    this.options.onProgress(said);
    return { taken: said.length };
  }

  async report(name: string, request: ResultsRequest, gone: AbortSignal | null): Promise<ResultsAnswer> {
    const { instance, results } = request;
    const worker = { name, instance };
    const labels = this.allowed(name, request.labels);
    const known = this.instances.get(`${name}/${instance}`);
    const max = !known || known.draining || this.drained.has(`${name}/${instance}`) ? 0 : request.max;
    const { dispatcher } = this.options;
    const { verdicts, jobs } = await dispatcher.exchange({ worker, labels, max, results, ...(gone ? { gone } : {}) });
    const accepted = verdicts.filter((verdict) => verdict.accepted).length;
    if (known) {
      known.completed += accepted;
      known.refused += verdicts.length - accepted;
    }
    return { items: verdicts, jobs };
  }

  list(): WorkerView[] {
    const names = new Set([
      ...this.rows.map((row) => row.name),
      ...[...this.instances.values()].map((i) => i.worker.name),
    ]);
    return [...names].sort().map((name) => this.view(name));
  }

  private view(name: string): WorkerView {
    const row = this.rows.find((candidate) => candidate.name === name);
    const now = this.options.clock.monotonic_ms();
    const instances = [...this.instances.values()]
      .filter((instance) => instance.worker.name === name)
      .map((instance) => ({
        instance: instance.worker.instance,
        labels: [...instance.labels],
        state: stateOf(instance, now),
        running: this.options.dispatcher.runningOn(instance.worker),
        completed: instance.completed,
        refused: instance.refused,
        seen_ms_ago: Math.round(now - instance.seen_ms),
      }));
    return {
      name,
      labels: [...(row?.labels ?? [])],
      created_by: row?.created_by ?? "",
      created_at: row ? rfc3339(row.created_at_us) : "",
      revoked_at: row?.revoked_at_us ? rfc3339(row.revoked_at_us) : null,
      instances,
    };
  }

  /** Figures for metrics. */
  counts(): { ready: number; draining: number; lost: number } {
    const now = this.options.clock.monotonic_ms();
    const counts = { ready: 0, draining: 0, lost: 0 };
    for (const instance of this.instances.values()) counts[stateOf(instance, now)] += 1;
    return counts;
  }

  async queues(tenant_id: string): Promise<QueueView> {
    const { dispatcher, queue, driver, clock } = this.options;
    const now = clock.monotonic_ms();
    const ready = [...this.instances.values()].filter((instance) => stateOf(instance, now) === "ready");
    const lanes = await queue.depth();
    return {
      driver,
      ...dispatcher.depth,
      ...dispatcher.rates,
      lanes: lanes
        .filter((lane) => lane.tenant_id === tenant_id)
        .map((lane) => ({
          ...lane,
          needs: [...lane.needs],
          served_by: ready.filter((instance) => serves(instance.labels, lane.needs)).length,
        })),
      dead: deadLetters(this.options.engine().states, tenant_id),
    };
  }
}

/** Steps that no worker survived: they wait for a person, who may have them tried again. */
function deadLetters(runs: readonly Readonly<RunState>[], tenant_id: string): QueueView["dead"] {
  return runs.flatMap((run) => {
    if (run.tenant_id !== tenant_id || run.reason !== "in_doubt") return [];
    const dead = [...run.steps.values()].filter((step) => step.status === "in_doubt" && step.doubt === "dead_letter");
    return dead.map((step) => ({ run_id: run.run_id, step: step.n, target: step.target, attempt: step.attempt }));
  });
}

function stateOf(instance: Instance, now_ms: number): "ready" | "draining" | "lost" {
  if (now_ms - instance.seen_ms > LIMITS.worker_lease_ms) return "lost";
  return instance.draining ? "draining" : "ready";
}
