// The composition root: builds every part, wires the ports, listens, and takes all down again in the reverse order.
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Clock } from "../kit/clock.ts";
import { Turn } from "../kit/turn.ts";
import { FileBlobStore } from "../adapters/files/blob-store.ts";
import { FileWitness, loadSigner, loadTenantKeys } from "../adapters/files/keys.ts";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import { newId } from "../contract/ids.ts";
import { LIMITS } from "../contract/limits.ts";
import { NewerJournalError } from "../contract/journal.ts";
import type { NodeAddress } from "../contract/journal.ts";
import { groupOf, SIGNER_GROUP } from "../contract/placement.ts";
import type { Log } from "../contract/ports.ts";
import type { JobProgress } from "../contract/progress.ts";
import type { Owner } from "../gateway/forward.ts";
import { Gateway } from "../gateway/gateway.ts";
import type { Place } from "../gateway/placement.ts";
import type { Services } from "../gateway/services.ts";
import { Checkpointer } from "../journal/checkpoint.ts";
import { CombinedFlushes } from "../journal/combined-flushes.ts";
import { PastReader } from "../journal/past.ts";
import { PostgresJournalStore } from "../journal/postgres-store.ts";
import type { McpClients } from "../mcp/client.ts";
import type { Commit } from "../orchestrator/engine.ts";
import { PlaceBook } from "../orchestrator/place-book.ts";
import { Registry } from "../orchestrator/registry.ts";
import { CONTROL_NODE } from "../orchestrator/workers.ts";
import { ToolReviews } from "../orchestrator/tool-reviews.ts";
import { PostgresPlaces } from "../store/limit-places.ts";
import { countGroups, listGroups } from "../store/leases.ts";
import { expireKeys } from "../store/idempotency.ts";
import { expireAcks } from "../store/stream-acks.ts";
import { expireFires } from "../store/triggers.ts";
import { BUILTINS } from "../worker/builtin-tool.ts";
import { WorkerPool } from "../worker/pool.ts";
import type { Execute } from "../worker/pool.ts";
import { routeJobs } from "../orchestrator/route-jobs.ts";
import { announceApprovals } from "./announce.ts";
import { crashSetting } from "./config.ts";
import type { Config } from "./config.ts";
import { CrashPoints } from "./crash-points.ts";
import { openDatabase } from "./database.ts";
import type { Database } from "./database.ts";
import { every } from "./every.ts";
import type { GroupHosts } from "./group-hosts.ts";
import { LateResults, nodeToken } from "./late-results.ts";
import { openHosts } from "./open-hosts.ts";
import { Metrics } from "./metrics.ts";
import { outsideOf } from "./outside.ts";
import { openRemote } from "./remote.ts";
import type { Remote } from "./remote.ts";
import { Settings } from "./settings.ts";
import { statusOf } from "./status.ts";
import { DEFAULT_TENANT } from "./tenant.ts";
import { useCases } from "./use-cases.ts";
import type { UseCases } from "./use-cases.ts";
import { VERSION } from "./version.ts";
import { Watchers } from "./watchers.ts";

/** So long, about, one piece of work after the other is done before commits and answers have their turn. */
const TURN_MS = 10;

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
  readonly hosts: GroupHosts;
  readonly pool: WorkerPool;
  readonly mcp: McpClients;
  readonly store: { close(): Promise<unknown> };
  readonly checkpointer: Checkpointer;
  readonly services: Services;
  readonly remote: Remote;
  readonly settings: Settings;
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

async function assemble(options: StartOptions, database: Database): Promise<Parts> {
  const { config, log } = options;
  const clock = options.clock ?? systemClock;
  const { db } = database;
  const { crash, signer, witness, blobs, tenantKey } = await keepingOf(config);
  const { net, secrets, mcp, execute } = outsideOf(config, log, clock, blobs);
  const groups = await db.transaction({ role: "qd_system" }, countGroups);
  const store = crash.store(new PostgresJournalStore(db));
  const node = newId("node", { clock, random: systemRandom });
  const address = { node, url: "" };
  const settings: Settings = new Settings({ db, clock, log, node, read: () => readSettings(registry, remote) });
  const everywhere = () => settings.everywhere();
  const stdio = config.stdio_tools ?? config.credentials.length === 0;
  const registry = new Registry({ db, mcp, clock, log, builtins: BUILTINS, stdio, everywhere });
  const toolReviews = new ToolReviews({ registry, mcp });
  const turn = new Turn(clock, TURN_MS);
  const past = new PastReader({ store, governance: registry, turn });
  const watchers = new Watchers();
  const onProgress = watchers.progress.bind(watchers);
  const places = database.embedded ? null : new PlaceBook({ store: new PostgresPlaces(db, node), clock, log });
  const hostsOf = () => hosts;
  const pool = poolOf({ clock, log, config, execute: crash.execute(execute), hosts: hostsOf, places, onProgress });
  const metrics = new Metrics({ role: config.role });
  const nodes = { node, hosts: hostsOf, everywhere, places };
  const remote = await openRemote({ config, db, clock, log, tenantKey, metrics, onProgress, ...nodes });
  const { private_origins, redact, fields, seal_after_ms } = config;
  const checkpointer = new Checkpointer({ store, db, signer, witness, clock, groups });
  const written = crash.store(new PostgresJournalStore(db));
  const combined = new CombinedFlushes(written);
  const stores = groups === 1 ? [written] : Array.from({ length: groups }, () => combined.over(written));
  const announce = (commit: Commit) =>
    announceApprovals(commit, { net, log, webhook: config.approval_webhook, private_origins });
  const told = [watchers.committed.bind(watchers), options.onCommit, announce];
  const seams = { clock, log, registry, tenantKey, past, metrics, settings, seal_after_ms };
  const hosts = openHosts({
    ...seams,
    db,
    embedded: database.embedded,
    stores,
    onCommit: (commit) => told.forEach((tell) => tell?.(commit)),
    queue: routeJobs(config.role === "all" ? pool : null, remote.dispatcher),
    self: address,
    elsewhere: (result) => late.send(result),
    records: () => uses.records,
    onFenced: () => options.onFenced?.(),
    onClaimed: (group) => (group === SIGNER_GROUP ? checkpointer.forget() : undefined),
    onOpen: (isOurs) => uses.ingest.resume(isOurs),
    onReset: (isGone) => [uses.tools, remote.dispatcher, pool].forEach((one) => one.reset(isGone)),
    onGone: (isGone) => {
      if (hosts.owned.length === 0) places?.forget();
      uses.captures.forget(isGone);
      uses.tools.forget(isGone);
      watchers.gone(isGone);
    },
  });
  const late = lateResults({ node, key: tenantKey(DEFAULT_TENANT), hosts: hostsOf, remote, clock, log });
  const keeping = { blobs, signer, witness, checkpointer, tenantKey };
  const outside = { net, secrets, log, private_origins, redact, fields, seal_after_ms };
  const uses = useCases({ registry, store, db, past, remote, clock, turn, hosts, keeping, outside, watchers });
  const services = servicesOf(
    { ...uses, registry, toolReviews, workers: remote.workers, blobs, db, clock, log, groups },
    { watchers, hosts, pool, store, database, config, metrics, remote },
  );
  const close = () => {
    places?.close();
    return Promise.all([late.close(), store.close(), written.close()]);
  };
  return { hosts, pool, mcp, store: { close }, checkpointer, services, remote, address, settings };
}

/** Executes jobs of the runs that this node owns. */
function poolOf(given: {
  clock: Clock;
  log: Log;
  config: Config;
  execute: Execute;
  hosts: () => GroupHosts;
  places: PlaceBook | null;
  onProgress: (said: readonly JobProgress[]) => void;
}): WorkerPool {
  const { config, hosts, places, onProgress, ...rest } = given;
  return new WorkerPool({
    ...rest,
    concurrency_max: config.concurrency,
    report: (results) => hosts().report(results),
    progress: onProgress,
    owns: (run_id) => hosts().holds(run_id),
    ...(places ? { places } : {}),
  });
}

/** Outcomes of calls that were made here for runs that another node owns by now. */
function lateResults(given: {
  node: string;
  key: Uint8Array;
  hosts: () => GroupHosts;
  remote: Remote;
  clock: Clock;
  log: Log;
}): LateResults {
  const { node, key, hosts, remote, clock, log } = given;
  return new LateResults({
    node,
    token: nodeToken(key),
    ownerOf: (run_id) => hosts().urlOf(run_id),
    takeOwn: (result) => hosts().shards.takeOwn(result),
    proof: (result) => remote.dispatcher.proof(result, { name: CONTROL_NODE, instance: node }),
    clock,
    log,
  });
}

/** Everything that any node may change and each keeps at hand. */
async function readSettings(registry: Registry, remote: Remote): Promise<void> {
  await registry.open();
  await remote.workers.refresh();
}

/** What the gateway may use. */
function servicesOf(
  given: UseCases &
    Pick<Services, "registry" | "toolReviews" | "workers" | "blobs" | "db" | "clock" | "log" | "groups">,
  own: {
    watchers: Watchers;
    hosts: GroupHosts;
    pool: WorkerPool;
    store: PostgresJournalStore;
    database: Database;
    config: Config;
    metrics: Metrics;
    remote: Remote;
  },
): Services {
  const { clock, db } = given;
  const { watchers, hosts, pool, store, database, config, metrics } = own;
  const { ownership } = hosts;
  return {
    ...given,
    version: VERSION,
    tenant_id: DEFAULT_TENANT,
    project: config.project,
    requestId: () => newId("event", { clock, random: systemRandom }).replace("evt_", "req_"),
    subscribe: watchers.subscribe.bind(watchers),
    subscribeGone: watchers.subscribeGone.bind(watchers),
    subscribeProgress: watchers.subscribeProgress.bind(watchers),
    owner: (place) => ownerOf(hosts, place),
    peers: () => ownership?.others ?? [],
    shards: async () => {
      const groups = await db.transaction({ role: "qd_system" }, listGroups);
      const { shards } = hosts;
      return groups.map((row) => ({
        ...row,
        // Its owner writes it down twice a second; here it is known.
        open_runs: hosts.owned.includes(row.group) ? shards.engine(row.group).openRuns : row.open_runs,
        lease_ms: row.lease_ms === null ? null : Math.max(0, row.lease_ms),
      }));
    },
    metrics: () => metrics.text(),
    observe: (route, status, duration_ms) => metrics.request(route, status, duration_ms),
    status: (caller) => statusOf(caller, { db, clock, hosts, store, pool, config, embedded: database.embedded }),
    ready: async () => {
      const { head } = await store.groupHead(SIGNER_GROUP);
      // Without its queue a node serves all the same: jobs are handed out in the order in which they came.
      const checks = { journal: `head ${head}`, queue: own.remote.queue.problem ?? "ok" };
      if (ownership?.problem) throw new AppError("DATABASE_UNAVAILABLE", ownership.problem);
      const [other] = ownership?.others ?? [];
      if (ownership && !hosts.isReady && other !== undefined) return { ...checks, engine: `stands by for ${other}` };
      if (!hosts.isReady) throw new AppError("DATABASE_UNAVAILABLE", "The journal cannot be written right now");
      return { ...checks, engine: `${hosts.shards.openRuns} open runs` };
    },
  };
}

/** Who answers: this node where it owns the group, or any, else whoever does. */
function ownerOf(hosts: GroupHosts, place: Place): Owner {
  const { ownership } = hosts;
  if (ownership === null || place === "here") return { isSelf: true, url: null };
  if (place === "anywhere") return { isSelf: hosts.isReady, url: ownership.others[0] ?? null };
  return { isSelf: hosts.owned.includes(place), url: ownership.urlOf(place) };
}

/** What runs now and then; on one node what is done for all, on each what is about its own runs. */
function startChores(parts: Parts, clock: Clock, log: Log, seal_after_ms: number): () => Promise<void> {
  const { hosts, checkpointer, services } = parts;
  const owned = (task: () => Promise<unknown>) => async () => (hosts.owned.includes(SIGNER_GROUP) ? task() : undefined);
  const stopCheckpoints = every(
    clock,
    LIMITS.checkpoint_interval_ms,
    log,
    "checkpoint",
    owned(() => checkpointer.tick()),
  );
  const expire = () =>
    services.db.transaction({ role: "qd_system" }, async (tx) => {
      await expireKeys(tx, clock.now_us() - LIMITS.idempotency_ttl_ms * 1000);
      await expireAcks(tx, clock.now_us() - LIMITS.stream_acks_kept_ms * 1000);
      await expireFires(tx, clock.now_us() - LIMITS.fires_kept_ms * 1000);
    });
  const stopExpiry = every(clock, 3_600_000, log, "idempotency", owned(expire));
  const look = () => services.ingest.look((run_id) => hosts.owned.includes(groupOf(run_id, services.groups)));
  const stopLooking = every(clock, LIMITS.staged_look_ms, log, "ingest", look);
  const stopSealing = every(clock, Math.min(LIMITS.seal_look_ms, Math.max(1_000, seal_after_ms)), log, "seal", () =>
    services.sealing.look(hosts.owned),
  );
  const stopTriggers = every(clock, LIMITS.trigger_look_ms, log, "triggers", () =>
    services.triggers.look(hosts.owned, hosts.owned.includes(SIGNER_GROUP)),
  );
  return async () => {
    stopTriggers();
    stopSealing();
    stopLooking();
    stopCheckpoints();
    stopExpiry();
    await owned(() => checkpointer.tick())();
  };
}

/** What other nodes and workers call this one. */
function namesOf(advertise_url: string | null): string[] {
  return advertise_url === null ? [] : [new URL(advertise_url).hostname];
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
    const { hosts, pool, mcp, store, services, remote, address, settings } = parts;
    const { ownership } = hosts;
    closers.push(
      async () => void (await store.close()),
      () => mcp.close(),
      () => pool.stop(),
      () => remote.close(),
      () => services.ingest.close(),
    );
    // Alone, requests end before the runs stop. With others the runs go first: what still comes here is passed on.
    if (!ownership) closers.push(() => hosts.close());
    await settings.refresh();
    await remote.open();
    let recovered = ownership ? 0 : await hosts.open();
    const stopChores = startChores(parts, clock, log, config.seal_after_ms);
    if (!ownership) closers.push(stopChores);
    const gateway = new Gateway(services, {
      credentials: config.credentials,
      host_names: [...config.host_names, ...namesOf(config.advertise_url)],
    });
    const { port } = await gateway.listen(config.host, config.port);
    closers.push(() => gateway.close());
    if (ownership) {
      closers.push(
        () => ownership.stop(),
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
    if (ownership) recovered = hosts.shards.openRuns;
    const marker = path.join(config.data, "server.json");
    await writeFile(marker, JSON.stringify({ url, pid: process.pid }));
    closers.push(() => rm(marker, { force: true }));
    const ready_ms = Math.round(clock.monotonic_ms() - begun);
    const first_start = database.embedded?.first_start ?? false;
    const stands_by_for = hosts.isReady ? null : (ownership?.others[0] ?? null);
    return { url, services, recovered, stands_by_for, first_start, ready_ms, close };
  } catch (error) {
    await close();
    throw error instanceof NewerJournalError ? new AppError("CONFIG_INVALID", error.message, { cause: error }) : error;
  }
}
