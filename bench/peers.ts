// Peers from npm, each running our workloads as its documentation says. They are installed on first use into
// bench/peers/NAME, apart from the program's own dependencies.
import { spawn, spawnSync } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { cpuOfTree } from "./harness.ts";

const PEERS: Record<string, Record<string, string>> = {
  restate: {
    "@restatedev/restate-server": "1.7.12",
    "@restatedev/restate-sdk": "1.17.2",
    "@restatedev/restate-sdk-clients": "1.17.2",
  },
  bullmq: { bullmq: "6.7.0", ioredis: "6.0.0" },
  portkey: { "@portkey-ai/gateway": "1.15.2" },
  dbos: { "@dbos-inc/dbos-sdk": "5.3.0", pg: "8.23.1" },
};

// The benchmarks run compiled, from another folder; peers and their scripts are in the repository.
const BENCH = path.join(process.cwd(), "bench");
const FOLDER = path.join(BENCH, "peers");

/** The folder of a peer, with its packages in it. */
export function installPeer(name: string): string {
  const packages = PEERS[name];
  if (!packages) throw new Error(`there is no peer ${name}; there are ${Object.keys(PEERS).join(", ")}`);
  const folder = path.join(FOLDER, name);
  if (existsSync(path.join(folder, "node_modules"))) return folder;
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    path.join(folder, "package.json"),
    JSON.stringify({ private: true, type: "module", dependencies: packages }),
  );
  const done = spawnSync("npm", ["install", "--no-audit", "--no-fund"], {
    cwd: folder,
    stdio: ["ignore", "ignore", "inherit"],
  });
  if (done.status !== 0) throw new Error(`the peer ${name} could not be installed`);
  return folder;
}

/** A peer is a process of its own that answers one line for each line it gets: the workload to run once. */
export async function openPeer(
  name: string,
): Promise<{ name: string; run(workload: string): Promise<void>; cpu(): number; close(): Promise<void> }> {
  const folder = installPeer(name);
  const script = path.join(BENCH, `peer-${name}.mjs`);
  const child: ChildProcess = spawn(process.execPath, [script, folder], { stdio: ["pipe", "pipe", "inherit"] });
  const waiting = new Map<string, { resolve: () => void; reject: (error: Error) => void }>();
  let ready: () => void = () => undefined;
  const isReady = new Promise<void>((resolve, reject) => {
    ready = resolve;
    child.once("exit", (code) => reject(new Error(`the peer ${name} ended with ${code}`)));
  });
  let buffer = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    buffer += chunk.toString();
    for (let end = buffer.indexOf("\n"); end >= 0; end = buffer.indexOf("\n")) {
      const line = buffer.slice(0, end);
      buffer = buffer.slice(end + 1);
      if (line === "ready") ready();
      const [verb, id, ...rest] = line.split(" ");
      if (verb === "done") waiting.get(id ?? "")?.resolve();
      if (verb === "failed") waiting.get(id ?? "")?.reject(new Error(rest.join(" ")));
      waiting.delete(id ?? "");
    }
  });
  await isReady;
  child.once("exit", (code) => {
    for (const { reject } of waiting.values()) reject(new Error(`the peer ${name} ended with ${code}`));
  });
  let counter = 0;
  return {
    name,
    run: (workload) =>
      new Promise((resolve, reject) => {
        const id = String((counter += 1));
        waiting.set(id, { resolve, reject });
        child.stdin?.write(`${id} ${workload}\n`);
      }),
    cpu: () => cpuOfTree(child.pid ?? 0),
    close: async () => {
      child.stdin?.end();
      await new Promise<void>((resolve) => child.once("exit", () => resolve()));
    },
  };
}
