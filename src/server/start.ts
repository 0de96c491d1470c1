// The composition root: builds every part, wires the ports, listens, and takes all down again in the reverse order.
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { EventEmitter } from "node:events";
import path from "node:path";
import { encodeId, uuidBytes } from "../kit/ids.ts";
import { parseJson } from "../kit/json.ts";
import type { Clock } from "../kit/clock.ts";
import { FileBlobStore } from "../adapters/files/blob-store.ts";
import { FileWitness, loadSigner, loadTenantKeys } from "../adapters/files/keys.ts";
import { LocalSecrets } from "../adapters/files/secrets.ts";
import { EgressNet } from "../adapters/net/net.ts";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import { newId } from "../contract/ids.ts";
import { LIMITS } from "../contract/limits.ts";
import type { JobResult } from "../contract/jobs.ts";
import type { Log } from "../contract/ports.ts";
import { Gateway } from "../gateway/gateway.ts";
import type { Services } from "../gateway/services.ts";
import { Checkpointer } from "../journal/checkpoint.ts";
import { PostgresJournalStore } from "../journal/postgres-store.ts";
import { McpClients } from "../mcp/client.ts";
import { Engine } from "../orchestrator/engine.ts";
import type { Commit } from "../orchestrator/engine.ts";
import { Registry } from "../orchestrator/registry.ts";
import { Runs } from "../orchestrator/runs.ts";
import { expireKeys } from "../store/idempotency.ts";
import { BUILTINS } from "../worker/builtin-tool.ts";
import { createExecutor } from "../worker/execute.ts";
import { WorkerPool } from "../worker/pool.ts";
import { readRecording } from "../worker/recorded-model.ts";
import type { RecordedAnswers } from "../worker/recorded-model.ts";
import { announceApprovals } from "./announce.ts";
import { crashSetting, secretEnvironment } from "./config.ts";
import type { Config } from "./config.ts";
import { CrashPoints } from "./crash-points.ts";
import { openDatabase } from "./database.ts";
import type { Database } from "./database.ts";
import { EngineHost } from "./engine-host.ts";
import { LocalJournalService } from "./journal-service.ts";
import { statusOf } from "./status.ts";
import { VERSION } from "./version.ts";

/** The tenant of an installation that has no other. */
export const DEFAULT_TENANT = encodeId("ten", uuidBytes("00000000-0000-7000-8000-000000000001"));
const GROUP = 0;

export interface Server {
  readonly url: string;
  readonly services: Services;
  readonly recovered: number;
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
}

function recordings(folder: string | null): (name: string) => Promise<RecordedAnswers> {
  const known = new Map<string, Promise<RecordedAnswers>>();
  const read = async (name: string) => {
    if (folder === null || path.basename(name) !== name)
      throw new AppError("NOT_FOUND", `There is no recording ${name}`);
    const text = await readFile(path.join(folder, `${name}.json`), "utf8").catch((cause) => {
      throw new AppError("NOT_FOUND", `There is no recording ${name} in ${folder}`, { cause });
    });
    return readRecording(parseJson(text));
  };
  return (name) => {
    let found = known.get(name);
    if (!found) known.set(name, (found = read(name)));
    return found;
  };
}

/** Everything that touches the world outside: keys, files, network, MCP servers. */
async function outsideOf(config: Config, log: Log, clock: Clock) {
  const crash = new CrashPoints(crashSetting());
  const keys = path.join(config.data, "keys");
  const signer = crash.signer(await loadSigner(keys));
  const tenantKey = await loadTenantKeys(keys);
  const witness = crash.witness(new FileWitness(path.join(config.data, "witness.jsonl")));
  const blobs = new FileBlobStore(path.join(config.data, "artifacts"));
  const secrets = new LocalSecrets({ env: secretEnvironment(), folder: path.join(config.data, "secrets") });
  const net = new EgressNet();
  const { private_origins } = config;
  const mcp = new McpClients({ net, secrets, clock, log, private_origins, version: VERSION });
  const recording = recordings(config.recordings);
  const execute = crash.execute(createExecutor({ net, secrets, blobs, clock, mcp, private_origins, recording }));
  return { crash, signer, tenantKey, witness, blobs, net, mcp, execute };
}

async function assemble(options: StartOptions, database: Database): Promise<Parts> {
  const { config, log } = options;
  const clock = options.clock ?? systemClock;
  const { db } = database;
  const outside = await outsideOf(config, log, clock);
  const { signer, witness, blobs, net, mcp, execute, tenantKey } = outside;
  const store = outside.crash.store(new PostgresJournalStore(db));
  const stdio = config.stdio_tools ?? config.credentials.length === 0;
  const registry = new Registry({ db, mcp, clock, log, builtins: BUILTINS, stdio });
  const commits = new EventEmitter().setMaxListeners(0);
  const report = (results: readonly JobResult[]) => host.report(results);
  const pool = new WorkerPool({ clock, log, concurrency_max: config.concurrency, execute, report });
  const onCommit = (commit: Commit) => {
    commits.emit(commit.run_id, commit);
    options.onCommit?.(commit);
    announceApprovals(commit, { net, log, webhook: config.approval_webhook, private_origins: config.private_origins });
  };
  const engineOptions = {
    store,
    clock,
    random: systemRandom,
    governance: registry,
    queue: pool,
    tenantKey,
    log,
    group: GROUP,
    onCommit,
  };
  const host = new EngineHost({
    clock,
    log,
    create: (onLost) => new Engine({ ...engineOptions, owner: newId("node", { clock, random: systemRandom }), onLost }),
    reviveDatabase: async () => database.embedded?.revive(),
    onFenced: () => options.onFenced?.(),
  });
  const engine = () => host.current();
  const checkpointer = new Checkpointer({ store, db, signer, witness, clock, group: GROUP });
  const seams = { clock, random: systemRandom };
  const runs = new Runs({ engine, store, db, governance: registry, ...seams });
  const journal = new LocalJournalService({
    store,
    db,
    blobs,
    registry,
    signer,
    witness,
    checkpointer,
    engine,
    seams,
    group: GROUP,
  });
  const services = servicesOf(
    { runs, registry, journal, blobs, db, clock, log },
    { commits, host, pool, store, database, config },
  );
  return { host, pool, mcp, store, checkpointer, services };
}

/** What the gateway may use. */
function servicesOf(
  given: Pick<Services, "runs" | "registry" | "journal" | "blobs" | "db" | "clock" | "log">,
  own: {
    commits: EventEmitter;
    host: EngineHost;
    pool: WorkerPool;
    store: PostgresJournalStore;
    database: Database;
    config: Config;
  },
): Services {
  const { clock, db } = given;
  const { commits, host, pool, store, database, config } = own;
  return {
    ...given,
    version: VERSION,
    tenant_id: DEFAULT_TENANT,
    project: config.project,
    requestId: () => newId("event", { clock, random: systemRandom }).replace("evt_", "req_"),
    subscribe: (run_id, listener) => {
      commits.on(run_id, listener);
      return () => commits.off(run_id, listener);
    },
    status: (caller) => statusOf(caller, { db, clock, host, pool, config, embedded: database.embedded }),
    ready: async () => {
      const { head } = await store.groupHead(GROUP);
      return { journal: `head ${head}`, engine: `${host.current().openRuns} open runs` };
    },
  };
}

/** Repeats a task until stopped; a failure is logged and the next time is tried as planned. */
function every(clock: Clock, ms: number, log: Log, name: string, task: () => Promise<unknown>): () => void {
  let stopped = false;
  let timer = clock.timer(ms, run);
  function run() {
    task()
      .catch((error: unknown) => log.warn(`${name}.failed`, { error: messageOf(error) }))
      .finally(() => {
        if (!stopped) timer = clock.timer(ms, run);
      });
  }
  return () => {
    stopped = true;
    timer.cancel();
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
    const { host, pool, mcp, store, checkpointer, services } = parts;
    closers.push(
      () => store.close(),
      () => mcp.close(),
      () => pool.stop(),
    );
    await services.registry.open();
    const recovered = await host.open();
    closers.push(() => host.close());
    const stopCheckpoints = every(clock, LIMITS.checkpoint_interval_ms, log, "checkpoint", () => checkpointer.tick());
    const stopExpiry = every(clock, 3_600_000, log, "idempotency", () =>
      services.db.transaction({ role: "qd_system" }, (tx) =>
        expireKeys(tx, clock.now_us() - LIMITS.idempotency_ttl_ms * 1000),
      ),
    );
    closers.push(async () => {
      stopCheckpoints();
      stopExpiry();
      await checkpointer.tick();
    });
    const gateway = new Gateway(services, { credentials: config.credentials, host_names: config.host_names });
    const { port } = await gateway.listen(config.host, config.port);
    closers.push(() => gateway.close());
    const url = `http://${config.host.includes(":") ? `[${config.host}]` : config.host}:${port}`;
    const marker = path.join(config.data, "server.json");
    await writeFile(marker, JSON.stringify({ url, pid: process.pid }));
    closers.push(() => rm(marker, { force: true }));
    const ready_ms = Math.round(clock.monotonic_ms() - begun);
    return { url, services, recovered, first_start: database.embedded?.first_start ?? false, ready_ms, close };
  } catch (error) {
    await close();
    throw error;
  }
}
