// BullMQ on a Redis of its own with appendfsync always: a step is a job, whose worker adds the next one. There is no
// journal of what happened, no policy and no budget; it is here as the floor of a plain queue that survives a crash.
import { createRequire } from "node:module";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { serve } from "./peer-lines.mjs";

const require = createRequire(path.join(process.argv[2], "package.json"));
const { Queue, Worker } = await import(pathToFileURL(require.resolve("bullmq")).href);
const data = mkdtempSync(path.join(tmpdir(), "bullmq-"));
const socket = path.join(data, "redis.sock");
const redis = spawn(
  "redis-server",
  [
    "--port",
    "0",
    "--unixsocket",
    socket,
    "--dir",
    data,
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--save",
    "",
  ],
  { stdio: ["ignore", "pipe", "inherit"] },
);
await new Promise((resolve, reject) => {
  redis.once("error", reject);
  redis.stdout.on("data", (chunk) => String(chunk).includes("ready to accept") && resolve());
});
const connection = { path: socket, maxRetriesPerRequest: null };
const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true } });
const RESULT = "x".repeat(200);
const waiting = new Map();

const worker = new Worker(
  "bench",
  async (job) => {
    const { run, left, parallel } = job.data;
    if (!parallel && left > 1) await queue.add("step", { run, left: left - 1 });
    const waiter = waiting.get(run);
    if (parallel && (waiter.open -= 1) === 0) await queue.add("step", { run, left: 1 });
    else if (!parallel && left === 1) {
      waiting.delete(run);
      setImmediate(() => waiter.resolve());
    }
    return RESULT;
  },
  { connection, concurrency: 50 },
);
await worker.waitUntilReady();

const flows = {
  w1: (run) => queue.add("step", { run, left: 10 }),
  w2: (run) => queue.add("step", { run, left: 1_000 }),
  w3: (run) =>
    queue.addBulk(Array.from({ length: 1_000 }, () => ({ name: "step", data: { run, left: 1, parallel: true } }))),
};
serve(
  (id, workload) =>
    new Promise((resolve, reject) => {
      waiting.set(id, { resolve, open: 1_000 });
      flows[workload](id).catch(reject);
    }),
  async () => {
    await worker.close();
    await queue.close();
    redis.kill();
    rmSync(data, { recursive: true, force: true });
  },
);
