// Remote workers, seen from the control plane: the queue's driver, the dispatcher and the use cases.
import type { Clock } from "../kit/clock.ts";
import { RedisQueue } from "../adapters/redis/queue.ts";
import { systemRandom } from "../adapters/system/system.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db, Log } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import type { Queue } from "../contract/queue.ts";
import { Dispatcher } from "../orchestrator/dispatcher.ts";
import { MemoryQueue } from "../orchestrator/memory-queue.ts";
import type { PlaceBook } from "../orchestrator/place-book.ts";
import { Workers } from "../orchestrator/workers.ts";
import type { Config } from "./config.ts";
import { every } from "./every.ts";
import { nodeToken } from "./late-results.ts";
import { DEFAULT_TENANT } from "./tenant.ts";
import type { GroupHosts } from "./group-hosts.ts";
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
async function queueOf(config: Config, node: string, log: Log): Promise<{ queue: Queue; driver: string }> {
  const { redis_url: url } = config;
  if (url === null) return { queue: new MemoryQueue(), driver: "in-process" };
  // Each node hands out the jobs of its own runs: tickets of others would lead it nowhere.
  const prefix = `quarterdeck:${config.queue_name}:${node}`;
  const queue = new RedisQueue({ url, prefix, consumer: node, reclaim_ms: LIMITS.worker_lease_ms });
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
  /** Names this process. */
  node: string;
  hosts: () => GroupHosts;
  /** Places under limits that hold over all nodes; null: this one counts by itself. */
  places: PlaceBook | null;
  /** Returns when all nodes use what was changed. */
  everywhere: () => Promise<void>;
  onProgress: (said: readonly JobProgress[]) => void;
}): Promise<Remote> {
  const { config, db, clock, log, metrics, hosts, onProgress, everywhere } = given;
  const { queue, driver } = await queueOf(config, given.node, log);
  const shards = () => hosts().shards;
  const dispatcher = new Dispatcher({
    queue,
    clock,
    log,
    key: given.tenantKey,
    deliver: async (result) => shards().of(result.run_id).result(result),
    epoch: (run_id) => shards().of(run_id).writer.shard_epoch,
    owns: (run_id) => hosts().holds(run_id),
    onLeased: (waited_ms) => metrics.waited(waited_ms),
    ...(given.places ? { places: given.places } : {}),
  });
  const workers = new Workers({
    dispatcher,
    queue,
    driver,
    db,
    clock,
    random: systemRandom,
    engine: shards,
    onProgress,
    everywhere,
    groups: () => hosts().ownership?.groups ?? [],
    nodeToken: nodeToken(given.tenantKey(DEFAULT_TENANT)),
  });
  gauges(metrics, dispatcher, workers, hosts);
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

function gauges(metrics: Metrics, dispatcher: Dispatcher, workers: Workers, hosts: () => GroupHosts): void {
  const perGroup = (read: (group: number) => number) => () =>
    Object.fromEntries(hosts().owned.map((group) => [String(group), read(group)]));
  const writer = (group: number) => hosts().shards.engine(group).writer;
  metrics.gauge("queue_waiting", "Jobs that wait for a remote worker.", () => dispatcher.depth.waiting);
  metrics.gauge("queue_leased", "Jobs that remote workers have.", () => dispatcher.depth.running);
  metrics.gauge("queue_oldest_seconds", "Age of the job that waits longest.", () => dispatcher.depth.oldest_ms / 1_000);
  metrics.gauges("workers", "Worker processes by state.", "state", () => workers.counts());
  metrics.gauge("open_runs", "Runs of this node that have not ended.", () => hosts().shards.openRuns);
  metrics.gauge("groups_owned", "Groups of runs that this node owns.", () => hosts().owned.length);
  metrics.gauges(
    "journal_head",
    "Last offset of each group's journal.",
    "group",
    perGroup((group) => writer(group).head),
  );
  metrics.gauges(
    "shard_epoch",
    "Take-overs of each group so far.",
    "group",
    perGroup((group) => writer(group).shard_epoch),
  );
  metrics.gauge(
    "unknown_commits",
    "Commits whose outcome had to be asked for.",
    () => hosts().shards.stats.unknown_commits,
  );
  metrics.gauge("ready", "Whether requests that write are served here.", () => (hosts().isReady ? 1 : 0));
}
