// The composition root: builds every part, wires the ports, listens, and takes all down again in the reverse order.
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Clock } from "../kit/clock.ts";
import { FileBlobStore } from "../adapters/files/blob-store.ts";
import { FileWitness, loadSigner, loadTenantKeys } from "../adapters/files/keys.ts";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import { newId } from "../contract/ids.ts";
import { LIMITS } from "../contract/limits.ts";
import { NewerJournalError } from "../contract/journal.ts";
import type { NodeAddress } from "../contract/journal.ts";
import type { Db, Log } from "../contract/ports.ts";
import { Gateway } from "../gateway/gateway.ts";
import type { Services } from "../gateway/services.ts";
import { Checkpointer } from "../journal/checkpoint.ts";
import { PastReader } from "../journal/past.ts";
import { PostgresJournalStore } from "../journal/postgres-store.ts";
import type { McpClients } from "../mcp/client.ts";
import { Engine } from "../orchestrator/engine.ts";
import type { Commit } from "../orchestrator/engine.ts";
import { Registry } from "../orchestrator/registry.ts";
import { ToolReviews } from "../orchestrator/tool-reviews.ts";
import { listGroups, PostgresLeases } from "../store/leases.ts";
import { expireKeys } from "../store/idempotency.ts";
import { BUILTINS } from "../worker/builtin-tool.ts";
import { WorkerPool } from "../worker/pool.ts";
import { routeJobs } from "../orchestrator/dispatcher.ts";
import type { Dispatcher } from "../orchestrator/dispatcher.ts";
import { announceApprovals } from "./announce.ts";
import { crashSetting } from "./config.ts";
import type { Config } from "./config.ts";
import { CrashPoints } from "./crash-points.ts";
import { openDatabase } from "./database.ts";
import type { Database } from "./database.ts";
import { EngineHost } from "./engine-host.ts";
import { every } from "./every.ts";
import { Metrics } from "./metrics.ts";
import { outsideOf } from "./outside.ts";
import { Ownership } from "./ownership.ts";
import { openRemote } from "./remote.ts";
import type { Remote } from "./remote.ts";
import { statusOf } from "./status.ts";
import { DEFAULT_TENANT } from "./tenant.ts";
import { useCases } from "./use-cases.ts";
import type { UseCases } from "./use-cases.ts";
import { VERSION } from "./version.ts";
import { Watchers } from "./watchers.ts";

const GROUP = 0;

export interface Server {
  readonly url: string;
  readonly services: Services;
  readonly recovered: number;
  /** Where the runs are owned, when it is not here. */
  readonly stands_by_for: string | null;
  readonly first_start: boolean;
  readonly ready_ms: number;
  close(): Promise<void>;
}

export interface StartOptions {
  readonly config: Config;
  readonly log: Log;
  readonly clock?: Clock;
  readonly onCommit?: (commit: Commit) => void;
  /** The process must end: another one owns the journal. */
  readonly onFenced?: () => void;
}

interface Parts {
  readonly host: EngineHost;
  readonly pool: WorkerPool;
  readonly mcp: McpClients;
  readonly store: PostgresJournalStore;
  readonly checkpointer: Checkpointer;
  readonly services: Services;
  readonly remote: Remote;
  /** Null where a data folder's lock proves that there is no other owner. */
  readonly ownership: Ownership | null;
  /** Where other nodes reach this one; its URL is known once it listens. */
  readonly address: { -readonly [K in keyof NodeAddress]: NodeAddress[K] };
}

/** What is kept beside the database: keys, the witness, artifacts. */
async function keepingOf(config: Config) {
  const crash = new CrashPoints(crashSetting());
  const folder = config.shared ?? config.data;
  const keys = path.join(folder, "keys");
  const signer = crash.signer(await loadSigner(keys));
  const tenantKey = await loadTenantKeys(keys);
  const witness = crash.witness(new FileWitness(path.join(folder, "witness.jsonl")));
  const blobs = new FileBlobStore(path.join(folder, "artifacts"));
  return { crash, signer, tenantKey, witness, blobs };
}

/** Takes the runs over when nobody owns them; for databases that several nodes may share. */
function ownershipOf(given: {
  db: Db;
  clock: Clock;
  log: Log;
  address: NodeAddress;
  registry: Registry;
  checkpointer: Checkpointer;
  host: EngineHost;
  dispatcher: Pick<Dispatcher, "reset">;
}): Ownership {
  const { db, clock, log, address, registry, checkpointer, host, dispatcher } = given;
  return new Ownership({
    leases: new PostgresLeases(db),
    group: GROUP,
    clock,
    log,
    self: () => address,
    onClaimed: async (lease) => {
      // What another owner changed meanwhile is read again before the first run goes on.
      await registry.open();
      checkpointer.forget();
      const recovered = await host.open(lease);
      log.info("runs.taken_over", { open_runs: recovered, shard_epoch: lease.shard_epoch });
    },
    onLost: () => {
      dispatcher.reset();
      void host.drop();
    },
  });
}

async function assemble(options: StartOptions, database: Database): Promise<Parts> {
  const { config, log } = options;
  const clock = options.clock ?? systemClock;
  const { db } = database;
  const { crash, signer, witness, blobs, tenantKey } = await keepingOf(config);
  const { net, secrets, mcp, execute } = outsideOf(config, log, clock, blobs);
  const store = crash.store(new PostgresJournalStore(db));
  const stdio = config.stdio_tools ?? config.credentials.length === 0;
  const registry = new Registry({ db, mcp, clock, log, builtins: BUILTINS, stdio });
  const toolReviews = new ToolReviews({ registry, mcp });
  const past = new PastReader({ store, governance: registry });
  const watchers = new Watchers();
  const onProgress = watchers.progress.bind(watchers);
  const pool = new WorkerPool({
    clock,
    log,
    concurrency_max: config.concurrency,
    execute: crash.execute(execute),
    report: (results) => host.report(results),
    progress: onProgress,
  });
  const metrics = new Metrics({ role: config.role });
  const node = newId("node", { clock, random: systemRandom });
  const owns = () => ownership === null || ownership.isOwner;
  const hostOf = () => host;
  const remote = await openRemote({ config, db, clock, log, tenantKey, metrics, host: hostOf, owns, onProgress });
  const { private_origins, approval_webhook: webhook } = config;
  const onCommit = (commit: Commit) => {
    watchers.committed(commit);
    options.onCommit?.(commit);
    announceApprovals(commit, { net, log, webhook, private_origins });
  };
  const seams = { store, clock, random: systemRandom, governance: registry, tenantKey, log };
  const engineOptions = {
    ...seams,
    group: GROUP,
    owner: node,
    onCommit,
    past: past.state.bind(past),
    queue: routeJobs(config.role === "all" ? pool : null, remote.dispatcher),
    onFlush: (rows: number, ms: number) => metrics.committed(rows, ms),
  };
  const host = new EngineHost({
    clock,
    log,
    create: (onLost, lease) => {
      // Jobs of the engine before are not ours any more: the new one finds their intents in the journal.
      remote.dispatcher.reset();
      return new Engine({ ...engineOptions, onLost, ...(lease ? { lease } : {}) });
    },
    reviveDatabase: async () => database.embedded?.revive(),
    onFenced: () => options.onFenced?.(),
    onOpen: () => uses.ingest.resume(),
    ...(database.embedded ? {} : { onLost: () => ownership?.lost() }),
  });
  const address = { node, url: "" };
  const checkpointer = new Checkpointer({ store, db, signer, witness, clock, group: GROUP });
  const { dispatcher } = remote;
  const owning = { db, clock, log, address, registry, checkpointer, host, dispatcher };
  const ownership = database.embedded ? null : ownershipOf(owning);
  const keeping = { blobs, signer, witness, checkpointer, tenantKey };
  const outside = { net, secrets, log, private_origins, redact: config.redact, fields: config.fields };
  const uses = useCases({ registry, store, db, past, remote, clock, host, keeping, outside, watchers });
  const services = servicesOf(
    { ...uses, registry, toolReviews, workers: remote.workers, blobs, db, clock, log },
    { watchers, host, pool, store, database, config, metrics, ownership, remote },
  );
  return { host, pool, mcp, store, checkpointer, services, remote, ownership, address };
}

/** What the gateway may use. */
function servicesOf(
  given: UseCases & Pick<Services, "registry" | "toolReviews" | "workers" | "blobs" | "db" | "clock" | "log">,
  own: {
    watchers: Watchers;
    host: EngineHost;
    pool: WorkerPool;
    store: PostgresJournalStore;
    database: Database;
    config: Config;
    metrics: Metrics;
    ownership: Ownership | null;
    remote: Remote;
  },
): Services {
  const { clock, db } = given;
  const { watchers, host, pool, store, database, config, metrics, ownership } = own;
  return {
    ...given,
    version: VERSION,
    tenant_id: DEFAULT_TENANT,
    project: config.project,
    requestId: () => newId("event", { clock, random: systemRandom }).replace("evt_", "req_"),
    subscribe: watchers.subscribe.bind(watchers),
    subscribeProgress: watchers.subscribeProgress.bind(watchers),
    owner: () => ({
      isSelf: ownership === null || (host.isReady && ownership.isOwner),
      url: ownership?.otherUrl ?? null,
    }),
    shards: async () => {
      const groups = await db.transaction({ role: "qd_system" }, listGroups);
      const { openRuns } = host.current();
      return groups.map((row) => ({
        ...row,
        open_runs: openRuns,
        lease_ms: row.lease_ms === null ? null : Math.max(0, row.lease_ms),
      }));
    },
    metrics: () => metrics.text(),
    observe: (route, status, duration_ms) => metrics.request(route, status, duration_ms),
    status: (caller) => statusOf(caller, { db, clock, host, pool, config, embedded: database.embedded }),
    ready: async () => {
      const { head } = await store.groupHead(GROUP);
      // Without its queue a node serves all the same: jobs are handed out in the order in which they came.
      const checks = { journal: `head ${head}`, queue: own.remote.queue.problem ?? "ok" };
      if (ownership?.problem) throw new AppError("DATABASE_UNAVAILABLE", ownership.problem);
      if (ownership && !host.isReady && ownership.otherUrl !== null)
        return { ...checks, engine: `stands by for ${ownership.otherUrl}` };
      return { ...checks, engine: `${host.current().openRuns} open runs` };
    },
  };
}

/** What runs now and then, on the node that owns the runs. */
function startChores(parts: Parts, clock: Clock, log: Log): () => Promise<void> {
  const { host, checkpointer, services } = parts;
  const owned = (task: () => Promise<unknown>) => async () => (host.isReady ? task() : undefined);
  const stopCheckpoints = every(
    clock,
    LIMITS.checkpoint_interval_ms,
    log,
    "checkpoint",
    owned(() => checkpointer.tick()),
  );
  const expire = () =>
    services.db.transaction({ role: "qd_system" }, (tx) =>
      expireKeys(tx, clock.now_us() - LIMITS.idempotency_ttl_ms * 1000),
    );
  const stopExpiry = every(clock, 3_600_000, log, "idempotency", owned(expire));
  const look = owned(() => services.ingest.look());
  const stopLooking = every(clock, LIMITS.staged_look_ms, log, "ingest", look);
  return async () => {
    stopLooking();
    stopCheckpoints();
    stopExpiry();
    await owned(() => checkpointer.tick())();
  };
}

/** Starts everything. Resolves when requests are served and open runs go on. */
export async function startServer(options: StartOptions): Promise<Server> {
  const { config, log } = options;
  const clock = options.clock ?? systemClock;
  const begun = clock.monotonic_ms();
  await mkdir(config.data, { recursive: true });
  const database = await openDatabase(config, clock);
  const closers: (() => Promise<void> | void)[] = [() => database.close()];
  const close = async () => {
    for (const closer of closers.splice(0).toReversed())
      await Promise.resolve(closer()).catch((error: unknown) => log.warn("close.failed", { error: messageOf(error) }));
  };
  try {
    const parts = await assemble(options, database);
    const { host, pool, mcp, store, services, remote, ownership, address } = parts;
    closers.push(
      () => store.close(),
      () => mcp.close(),
      () => pool.stop(),
      () => remote.close(),
      () => services.ingest.close(),
    );
    // Alone, requests end before the runs stop. With others the runs go first: what still comes here is passed on.
    if (!ownership) closers.push(() => host.close());
    await services.registry.open();
    await remote.open();
    let recovered = ownership ? 0 : await host.open();
    const stopChores = startChores(parts, clock, log);
    if (!ownership) closers.push(stopChores);
    const gateway = new Gateway(services, { credentials: config.credentials, host_names: config.host_names });
    const { port } = await gateway.listen(config.host, config.port);
    closers.push(() => gateway.close());
    if (ownership) {
      closers.push(
        () => ownership.stop(),
        () => host.close(),
        () => stopChores(),
      );
    }
    closers.push(
      // Requests that wait for jobs are answered, so that they do not hold up the end.
      () => remote.dispatcher.stop(),
    );
    const url = `http://${config.host.includes(":") ? `[${config.host}]` : config.host}:${port}`;
    address.url = config.advertise_url ?? url;
    await ownership?.start();
    if (ownership && host.isReady) recovered = host.current().openRuns;
    const marker = path.join(config.data, "server.json");
    await writeFile(marker, JSON.stringify({ url, pid: process.pid }));
    closers.push(() => rm(marker, { force: true }));
    const ready_ms = Math.round(clock.monotonic_ms() - begun);
    const first_start = database.embedded?.first_start ?? false;
    const stands_by_for = ownership?.otherUrl ?? null;
    return { url, services, recovered, stands_by_for, first_start, ready_ms, close };
  } catch (error) {
    await close();
    throw error instanceof NewerJournalError ? new AppError("CONFIG_INVALID", error.message, { cause: error }) : error;
  }
}
