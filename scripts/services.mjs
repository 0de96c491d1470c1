// Real services for tests and developers: installs what is missing (Debian packages, as root only), starts it on a free
// loopback port in a scratch folder, and stops it. `node scripts/services.mjs` keeps them up and prints their addresses.
import { spawn, spawnSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const READY_MS = 30_000;
/** Debian asks this program whether a package may start its service. */
const MAY_START = "/usr/sbin/policy-rc.d";
/** Where Debian keeps the servers of PostgreSQL, one folder per version. */
const POSTGRES_VERSIONS = "/usr/lib/postgresql";

const isInstalled = (command) => spawnSync("sh", ["-c", `command -v ${command}`], { stdio: "ignore" }).status === 0;

/** Null when it is there, else why it is not. */
function install(command, debianPackage, isThere = () => isInstalled(command)) {
  if (isThere()) return null;
  if (process.getuid?.() !== 0) return `${command} is not installed, and only root may install ${debianPackage}`;
  if (!isInstalled("apt-get")) return `${command} is not installed, and there is no apt-get to install it with`;
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const quiet = ["-o", "Dpkg::Options::=--force-confnew", "-y", "--no-install-recommends"];
  const run = (args) => spawnSync("apt-get", args, { env, encoding: "utf8" });
  // The package would start a server of its own on the standard port; nobody asked for that one.
  const ours = !existsSync(MAY_START);
  if (ours) writeFileSync(MAY_START, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    let done = run(["install", ...quiet, debianPackage]);
    if (done.status !== 0) {
      run(["update"]);
      done = run(["install", ...quiet, debianPackage]);
    }
    return isThere() ? null : `${debianPackage} could not be installed: ${done.stderr.trim().slice(-300)}`;
  } finally {
    if (ours) rmSync(MAY_START, { force: true });
  }
}

/** Below the ports that systems give to connections going out: one of those could be taken before it is used. */
const PORTS = [20_000, 32_000];
const PORTS_TRIED = 50;

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** A port that nobody listens at, and that no connection gets by chance, were it tried for while nobody does. */
export async function freePort() {
  for (let n = 0; n < PORTS_TRIED; n++) {
    const port = randomInt(...PORTS);
    if (await isFree(port)) return port;
  }
  throw new Error(`none of ${PORTS_TRIED} ports between ${PORTS.join(" and ")} is free`);
}

/** Resolves when the server has said that it is ready; rejects when it ends before, or says nothing in time. */
function ready(child, stream, name) {
  return new Promise((resolve, reject) => {
    let said = "";
    const timer = setTimeout(() => reject(new Error(`${name} was not ready in time: ${said.slice(-300)}`)), READY_MS);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${name} ended with ${code}: ${said.slice(-300)}`)));
    stream.on("data", (chunk) => {
      said = (said + String(chunk)).slice(-4_000);
      if (!said.includes("eady to accept connections")) return;
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Ends a server at once, by its process, and removes its folder. Harmless when it has ended. */
async function stop(child, signal, folder) {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  if (child.exitCode === null && child.signalCode === null) {
    child.kill(signal);
    await ended;
  }
  rmSync(folder, { recursive: true, force: true });
}

/** Starts Redis without persistence. Returns `{ url, port, pid, stop }`, or `{ missing }` with the reason. */
export async function startRedis(port) {
  const missing = install("redis-server", "redis-server");
  if (missing) return { missing };
  const folder = mkdtempSync(path.join(tmpdir(), "qd-redis-"));
  const chosen = port ?? (await freePort());
  const args = ["--port", String(chosen), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  const child = spawn("redis-server", args, { stdio: ["ignore", "pipe", "inherit"] });
  await ready(child, child.stdout, "redis-server");
  const url = `redis://127.0.0.1:${chosen}`;
  return { url, port: chosen, pid: child.pid, stop: () => stop(child, "SIGKILL", folder) };
}

/** The folder of the newest PostgreSQL server of the system; null where there is none. */
function postgresPrograms() {
  const versions = existsSync(POSTGRES_VERSIONS) ? readdirSync(POSTGRES_VERSIONS) : [];
  const folders = versions
    .toSorted((a, b) => Number(b) - Number(a))
    .map((version) => path.join(POSTGRES_VERSIONS, version, "bin"));
  return folders.find((folder) => existsSync(path.join(folder, "initdb"))) ?? null;
}

/** PostgreSQL refuses root; Debian's package brings a user for it. */
function postgresUser() {
  if (process.getuid?.() !== 0) return {};
  const id = (flag) => Number(spawnSync("id", [flag, "postgres"], { encoding: "utf8" }).stdout);
  return { uid: id("-u"), gid: id("-g") };
}

/**
 * Starts a PostgreSQL of the system: over TCP only, with passwords, as an organisation has it; with `socketOnly` over a
 * socket only, without passwords, as the embedded one is. Returns `{ url, socket_dir, port, pid, version, stop }` with the
 * URL of its superuser, or `{ missing }` with the reason.
 */
export async function startPostgres({ socketOnly = false } = {}) {
  const missing = install("postgres", "postgresql", () => postgresPrograms() !== null);
  if (missing) return { missing };
  const programs = postgresPrograms();
  const user = postgresUser();
  const folder = mkdtempSync(path.join(tmpdir(), "qd-postgres-"));
  const password = randomBytes(12).toString("hex");
  const passwordFile = path.join(folder, "password");
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (user.uid !== undefined) for (const place of [folder, passwordFile]) chownSync(place, user.uid, user.gid);
  const data = path.join(folder, "data");
  const how = [
    `--auth=${socketOnly ? "trust" : "scram-sha-256"}`,
    `--pwfile=${passwordFile}`,
    "--username=postgres",
    "--encoding=UTF8",
  ];
  const options = { ...user, cwd: folder, encoding: "utf8" };
  const made = spawnSync(path.join(programs, "initdb"), ["-D", data, "--locale=C.UTF-8", ...how], options);
  if (made.status !== 0) throw new Error(`initdb failed: ${String(made.stderr).slice(-300)}`);
  const port = socketOnly ? 5432 : await freePort();
  const where = socketOnly ? ["", folder] : ["127.0.0.1", ""];
  const settings = { listen_addresses: where[0], unix_socket_directories: where[1], port, log_min_messages: "log" };
  const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const stdio = ["ignore", "inherit", "pipe"];
  const child = spawn(path.join(programs, "postgres"), ["-D", data, ...args], { ...user, cwd: folder, stdio });
  await ready(child, child.stderr, "postgres");
  const url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
  const version = path.basename(path.dirname(programs));
  return { url, socket_dir: folder, port, pid: child.pid, version, stop: () => stop(child, "SIGQUIT", folder) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const services = { REDIS_URL: await startRedis(), DATABASE_ADMIN_URL: await startPostgres() };
  for (const [name, service] of Object.entries(services))
    console.log(`${name}=${service.url ?? `  # ${service.missing}`}`);
  const stopAll = async () => {
    for (const service of Object.values(services)) await service.stop?.();
    process.exit(0);
  };
  process.once("SIGINT", () => void stopAll());
  process.once("SIGTERM", () => void stopAll());
}
