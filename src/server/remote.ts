// Remote workers, seen from the control plane: the queue's driver, the dispatcher and the use cases.
import type { Clock } from "../kit/clock.ts";
import { RedisQueue } from "../adapters/redis/queue.ts";
import { systemRandom } from "../adapters/system/system.ts";
import { newId } from "../contract/ids.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, Log } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import type { Queue } from "../contract/queue.ts";
import { Dispatcher } from "../orchestrator/dispatcher.ts";
import { MemoryQueue } from "../orchestrator/memory-queue.ts";
import { Workers } from "../orchestrator/workers.ts";
import type { Config } from "./config.ts";
import type { EngineHost } from "./engine-host.ts";
import { every } from "./every.ts";
import type { Metrics } from "./metrics.ts";

export interface Remote {
  readonly dispatcher: Dispatcher;
  readonly queue: Queue;
  readonly workers: Workers;
  /** Reads the credentials; before requests are served. */
  open(): Promise<void>;
  close(): Promise<void>;
}

const REFRESH_MS = 2_000;
/** A Redis that is there answers within this; for one that is not, nothing waits. */
const REDIS_OPEN_MS = 1_000;

/** Opens the queue. A Redis that does not answer is connected when it does: until then jobs are handed out without it. */
async function queueOf(config: Config, clock: Clock, log: Log): Promise<{ queue: Queue; driver: string }> {
  const { redis_url: url } = config;
  if (url === null) return { queue: new MemoryQueue(), driver: "in-process" };
  const consumer = newId("node", { clock, random: systemRandom });
  const prefix = `quarterdeck:${config.queue_name}`;
  const queue = new RedisQueue({ url, prefix, consumer, reclaim_ms: LIMITS.worker_lease_ms });
  const isUp = await queue.open(REDIS_OPEN_MS);
  if (!isUp) log.warn("redis.away", { error: queue.problem ?? "it is slow", effect: "jobs are handed out without it" });
  return { queue, driver: "redis" };
}

export async function openRemote(given: {
  config: Config;
  db: Db;
  clock: Clock;
  log: Log;
  tenantKey: (tenant_id: string) => Uint8Array;
  metrics: Metrics;
  host: () => EngineHost;
  /** False when another node may own the runs by now. */
  owns: () => boolean;
  onProgress: (said: readonly JobProgress[]) => void;
}): Promise<Remote> {
  const { config, db, clock, log, metrics, host, onProgress } = given;
  const { queue, driver } = await queueOf(config, clock, log);
  const engine = () => host().current();
  const dispatcher = new Dispatcher({
    queue,
    clock,
    log,
    key: given.tenantKey,
    deliver: async (result) => engine().result(result),
    epoch: () => engine().writer.shard_epoch,
    owns: given.owns,
    onLeased: (waited_ms) => metrics.waited(waited_ms),
  });
  const workers = new Workers({ dispatcher, queue, driver, db, clock, random: systemRandom, engine, onProgress });
  gauges(metrics, dispatcher, workers, host);
  let stopRefresh: () => void = () => undefined;
  return {
    dispatcher,
    queue,
    workers,
    open: async () => {
      await workers.refresh();
      dispatcher.start();
      stopRefresh = every(clock, REFRESH_MS, log, "workers.refresh", () => workers.refresh());
    },
    close: async () => {
      stopRefresh();
      await dispatcher.stop();
      await queue.close();
    },
  };
}

function gauges(metrics: Metrics, dispatcher: Dispatcher, workers: Workers, host: () => EngineHost): void {
  const engine = () => (host().isReady ? host().current() : null);
  metrics.gauge("queue_waiting", "Jobs that wait for a remote worker.", () => dispatcher.depth.waiting);
  metrics.gauge("queue_leased", "Jobs that remote workers have.", () => dispatcher.depth.running);
  metrics.gauge("queue_oldest_seconds", "Age of the job that waits longest.", () => dispatcher.depth.oldest_ms / 1_000);
  metrics.gauges("workers", "Worker processes by state.", "state", () => workers.counts());
  metrics.gauge("open_runs", "Runs that have not ended.", () => engine()?.openRuns);
  metrics.gauge("journal_head", "Last offset of the journal.", () => engine()?.writer.head);
  metrics.gauge("shard_epoch", "Take-overs of the journal so far.", () => engine()?.writer.shard_epoch);
  metrics.gauge(
    "unknown_commits",
    "Commits whose outcome had to be asked for.",
    () => engine()?.writer.stats.unknown_commits,
  );
  metrics.gauge("ready", "Whether requests that write are served.", () => (host().isReady ? 1 : 0));
}
