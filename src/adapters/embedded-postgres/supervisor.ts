// Starts, adopts and stops the embedded Postgres of one data folder. fsync stays on; the only door is a Unix socket in a
// private folder. As root the server runs as nobody: Postgres refuses root.
//   no server running            -> start one
//   server of this folder alive  -> adopt it (its parent was killed; its pid is compared, not just the socket)
//   server dead, pid file left   -> wait until the zombie is reaped, remove the file, start
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { chown, mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { ifThere } from "../../kit/errno.ts";
import { sha256Hex } from "../../kit/hash.ts";
import type { Clock } from "../../kit/clock.ts";
import { AppError } from "../../contract/errors.ts";
import { copyBinaries, findBinaries, mendLinks, openFolder, openToAll } from "./binaries.ts";
import { lockDataFolder, ownSocketFolder } from "./data-folder.ts";
import { processFacts } from "./process.ts";

const NOBODY = 65_534;
const READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_MS = 10;
/** Where a root-owned installation keeps what an unprivileged server must reach. */
const SHARED_ROOT = "/var/lib/quarterdeck";

export interface EmbeddedPostgres {
  readonly socket_dir: string;
  readonly pid: number;
  readonly adopted: boolean;
  readonly first_start: boolean;
  /** Starts the server again when it has died. Does nothing while it runs. */
  revive(): Promise<void>;
  /** Clean stop; resolves when the server is gone. */
  stop(): Promise<void>;
  /** Leaves the server running and only gives the folder back (for tests of adoption). */
  release(): Promise<void>;
}

interface Place {
  readonly cluster: string;
  readonly socket_dir: string;
  readonly bin: string;
  readonly lib: string;
  readonly ids: { uid: number; gid: number } | null;
}

const SETTINGS = [
  "listen_addresses=",
  "unix_socket_permissions=0700",
  "max_connections=64",
  "shared_buffers=64MB",
  "jit=off",
  "max_wal_size=2GB",
  "checkpoint_timeout=15min",
  "wal_level=minimal",
  "max_wal_senders=0",
  "wal_compression=off",
  "max_parallel_workers_per_gather=0",
  "dynamic_shared_memory_type=mmap",
  "huge_pages=off",
  "fsync=on",
  "synchronous_commit=on",
  "full_page_writes=on",
  "logging_collector=off",
  "log_min_messages=warning",
  "timezone=UTC",
  "log_timezone=UTC",
  "wal_buffers=16MB",
  "track_activities=on",
  "io_method=sync",
  "update_process_title=off",
];

async function findPlace(data: string): Promise<Place> {
  const root = process.getuid?.() === 0;
  const binaries = findBinaries();
  await mendLinks(binaries.folder);
  const key = sha256Hex(data).slice(0, 12);
  const socket_dir = `/tmp/quarterdeck-${key}`;
  const reachable = !root || (await openToAll(data));
  const cluster = reachable ? path.join(data, "postgres") : path.join(SHARED_ROOT, key, "postgres");
  const native =
    !root || (await openToAll(path.join(binaries.folder, "bin", "initdb")))
      ? binaries.folder
      : await copyBinaries(binaries, SHARED_ROOT);
  const ids = root ? { uid: NOBODY, gid: NOBODY } : null;
  return { cluster, socket_dir, bin: path.join(native, "bin"), lib: path.join(native, "lib"), ids };
}

async function ownFolder(folder: string, ids: Place["ids"]): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  if (ids) await chown(folder, ids.uid, ids.gid);
}

function environment(place: Place): NodeJS.ProcessEnv {
  // Nothing of our own environment: it may hold keys, and the server needs none of it.
  return { PATH: "/usr/bin:/bin", LD_LIBRARY_PATH: place.lib, LC_ALL: "C", TZ: "UTC" };
}

function execute(place: Place, command: string, args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(path.join(place.bin, command), args, {
      ...place.ids,
      env: environment(place),
      stdio: ["ignore", "ignore", "pipe"],
      cwd: "/",
    });
    let errors = "";
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    child.on("error", reject);
    child.on("close", (code) =>
      code === 0
        ? resolve()
        : reject(new AppError("DATABASE_UNAVAILABLE", `${command} failed: ${errors.trim().slice(0, 2_000)}`)),
    );
  });
}

interface PidFile {
  readonly pid: number;
  readonly ready: boolean;
}

async function readPidFile(cluster: string): Promise<PidFile | null> {
  try {
    const lines = (await readFile(path.join(cluster, "postmaster.pid"), "utf8")).split("\n");
    return { pid: Number(lines[0]), ready: lines[7]?.trim() === "ready" };
  } catch {
    return null;
  }
}

/** The pid of a live server of this cluster, or null after clearing what a dead one left. */
async function runningServer(cluster: string, clock: Clock): Promise<number | null> {
  const deadline = clock.monotonic_ms() + STOP_TIMEOUT_MS;
  for (;;) {
    const file = await readPidFile(cluster);
    if (!file) return null;
    const facts = await processFacts(file.pid);
    const dead = facts === null || facts.state === "Z" || !facts.command.startsWith("postgres");
    if (!dead) return file.pid;
    // A zombie still answers kill(pid, 0), and Postgres would refuse to start: give its parent time to reap it.
    if (facts?.state !== "Z" || clock.monotonic_ms() > deadline) {
      await rm(path.join(cluster, "postmaster.pid"), { force: true });
      return null;
    }
    await clock.sleep(POLL_MS * 5);
  }
}

async function untilReady(place: Place, pid: number, clock: Clock, failed: () => string | null): Promise<void> {
  const deadline = clock.monotonic_ms() + READY_TIMEOUT_MS;
  for (;;) {
    const file = await readPidFile(place.cluster);
    if (file?.pid === pid && file.ready) return;
    const failure = failed();
    if (failure !== null) throw new AppError("DATABASE_UNAVAILABLE", `Postgres ended at its start: ${failure}`);
    if (clock.monotonic_ms() > deadline) throw new AppError("DATABASE_UNAVAILABLE", "Postgres was not ready in 30 s");
    await clock.sleep(POLL_MS);
  }
}

async function launch(place: Place, data: string, clock: Clock): Promise<number> {
  const logFile = path.join(data, "postgres.log");
  const log = await open(logFile, "a");
  const args = ["-D", place.cluster, "-k", place.socket_dir, ...SETTINGS.flatMap((setting) => ["-c", setting])];
  const child = spawn(path.join(place.bin, "postgres"), args, {
    // Its own session: Ctrl-C in a terminal is ours to handle, in our order.
    ...place.ids,
    env: environment(place),
    stdio: ["ignore", log.fd, log.fd],
    cwd: "/",
    detached: true,
  });
  let ended: string | null = null;
  child.on("error", (error) => (ended = error.message));
  child.on("exit", (code, signal) => (ended = `exit ${code ?? signal}; see ${logFile}`));
  child.unref();
  await log.close();
  const { pid } = child;
  if (pid === undefined)
    throw new AppError("DATABASE_UNAVAILABLE", `Postgres could not be started: ${ended ?? "unknown cause"}`);
  await untilReady(place, pid, clock, () => ended);
  return pid;
}

async function stopServer(pid: number, clock: Clock): Promise<void> {
  const signal = (name: NodeJS.Signals) => {
    try {
      process.kill(pid, name);
    } catch {
      // Gone already.
    }
  };
  for (const [name, wait_ms] of [
    ["SIGINT", STOP_TIMEOUT_MS],
    ["SIGQUIT", 5_000],
    ["SIGKILL", 5_000],
  ] as const) {
    signal(name);
    const deadline = clock.monotonic_ms() + wait_ms;
    while (clock.monotonic_ms() < deadline) {
      const facts = await processFacts(pid);
      if (facts === null || facts.state === "Z") return;
      await clock.sleep(POLL_MS);
    }
  }
}

async function initialise(place: Place): Promise<boolean> {
  const found = await ifThere(readFile(path.join(place.cluster, "PG_VERSION"), "utf8"), null);
  const major = (await binaryMajor(place)) ?? "";
  if (found !== null && found.trim() !== major) {
    throw new AppError(
      "CONFIG_INVALID",
      `The data folder was made by PostgreSQL ${found.trim()}, this program ships ${major}. Export with the old program (export --all), import into a new folder`,
    );
  }
  if (found !== null) return false;
  if ((await ifThere(readdir(place.cluster), [])).length > 0) {
    const message = `${place.cluster} holds files and no PG_VERSION: it is damaged, or not a database. Put it back from a backup, or move it away`;
    throw new AppError("CONFIG_INVALID", message, { details: { folder: place.cluster } });
  }
  await makeCluster(place);
  return true;
}

/** Made beside its place and renamed, so that a first start that is interrupted leaves nothing that looks like a cluster. */
async function makeCluster(place: Place): Promise<void> {
  const parent = path.dirname(place.cluster);
  // Enterable by the server's user; what is inside is its own and closed to others.
  if (place.cluster.startsWith(SHARED_ROOT)) await openFolder(SHARED_ROOT);
  await openFolder(parent);
  const started = `${path.basename(place.cluster)}.new-`;
  const fresh = path.join(parent, started + randomUUID().slice(0, 8));
  await ownFolder(fresh, place.ids);
  await execute(place, "initdb", ["-D", fresh, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
  await rename(fresh, place.cluster);
  // An interrupted start's program may still be about, writing into its own.
  for (const name of await readdir(parent))
    if (name.startsWith(started))
      await rm(path.join(parent, name), { recursive: true, force: true }).catch(() => undefined);
}

async function binaryMajor(place: Place): Promise<string | null> {
  const share = path.join(path.dirname(place.bin), "share", "postgresql", "postgres.bki");
  const text = await readFile(share, "utf8").catch(() => "");
  return /^# PostgreSQL (\d+)/.exec(text)?.[1] ?? findBinaries().version.split(".")[0] ?? null;
}

/** Brings the data folder's server up. Throws DATA_FOLDER_IN_USE, DATABASE_UNAVAILABLE or CONFIG_INVALID. */
export async function startEmbeddedPostgres(data: string, clock: Clock): Promise<EmbeddedPostgres> {
  const release = await lockDataFolder(data);
  try {
    const place = await findPlace(data);
    await ownSocketFolder(place.socket_dir, place.ids);
    const first_start = await initialise(place);
    const settings = path.join(data, "postgres.settings");
    const wanted = sha256Hex(SETTINGS.join("\n") + place.bin);
    let pid = await runningServer(place.cluster, clock);
    if (pid !== null && (await readFile(settings, "utf8").catch(() => "")) !== wanted) {
      await stopServer(pid, clock);
      pid = await runningServer(place.cluster, clock);
    }
    const adopted = pid !== null;
    if (pid === null) pid = await launch(place, data, clock);
    else await untilReady(place, pid, clock, () => null);
    await writeFile(settings, wanted);
    let owned = pid;
    return {
      socket_dir: place.socket_dir,
      get pid() {
        return owned;
      },
      revive: async () => {
        owned = (await runningServer(place.cluster, clock)) ?? (await launch(place, data, clock));
        await untilReady(place, owned, clock, () => null);
      },
      adopted,
      first_start,
      release,
      stop: async () => {
        await stopServer(owned, clock);
        await rm(place.socket_dir, { recursive: true, force: true });
        await release();
      },
    };
  } catch (error) {
    await release();
    throw error;
  }
}

/** Stops what runs of a data folder's cluster and deletes the cluster. The caller holds the folder's lock. */
export async function removeCluster(data: string, clock: Clock): Promise<void> {
  const place = await findPlace(data);
  const pid = await runningServer(place.cluster, clock);
  if (pid !== null) await stopServer(pid, clock);
  await rm(place.cluster, { recursive: true, force: true });
  if (place.cluster.startsWith(SHARED_ROOT)) await rm(path.dirname(place.cluster), { recursive: true, force: true });
  await rm(place.socket_dir, { recursive: true, force: true });
}
