// Real services for tests and developers: installs what is missing (Debian packages, as root only), starts it on a free
// loopback port in a scratch folder, and stops it. `node scripts/services.mjs` keeps them up and prints their addresses.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const READY_MS = 10_000;

const isInstalled = (command) => spawnSync("sh", ["-c", `command -v ${command}`], { stdio: "ignore" }).status === 0;

/** Null when the command is there, else why it is not. */
function install(command, debianPackage) {
  if (isInstalled(command)) return null;
  if (process.getuid?.() !== 0) return `${command} is not installed, and only root may install ${debianPackage}`;
  if (!isInstalled("apt-get")) return `${command} is not installed, and there is no apt-get to install it with`;
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  // The package would start a server of its own on the standard port; nobody asked for that one.
  const quiet = ["-o", "Dpkg::Options::=--force-confnew", "-y", "--no-install-recommends"];
  const run = (args) => spawnSync("apt-get", args, { env, encoding: "utf8" });
  let done = run(["install", ...quiet, debianPackage]);
  if (done.status !== 0) {
    run(["update"]);
    done = run(["install", ...quiet, debianPackage]);
  }
  return isInstalled(command) ? null : `${debianPackage} could not be installed: ${done.stderr.trim().slice(-300)}`;
}

export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts Redis without persistence. Returns `{ url, pid, stop }`, or `{ missing }` with the reason. */
export async function startRedis(port) {
  const missing = install("redis-server", "redis-server");
  if (missing) return { missing };
  const folder = mkdtempSync(path.join(tmpdir(), "qd-redis-"));
  const chosen = port ?? (await freePort());
  const args = ["--port", String(chosen), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  const child = spawn("redis-server", args, { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("redis-server was not ready in time")), READY_MS);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`redis-server ended with ${code}`)));
    child.stdout.on("data", (chunk) => {
      if (!String(chunk).includes("eady to accept connections")) return;
      clearTimeout(timer);
      resolve();
    });
  });
  return {
    url: `redis://127.0.0.1:${chosen}`,
    port: chosen,
    pid: child.pid,
    stop: async () => {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGKILL");
        await ended;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const redis = await startRedis();
  if (redis.missing) {
    console.error(redis.missing);
    process.exit(1);
  }
  console.log(`REDIS_URL=${redis.url}`);
  process.once("SIGINT", () => void redis.stop().then(() => process.exit(0)));
  process.once("SIGTERM", () => void redis.stop().then(() => process.exit(0)));
}
