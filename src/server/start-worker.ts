// A worker process: executes jobs that it leases from the control plane over HTTP. It has no database and no journal; what
// it keeps is its credential, its secrets and the jobs at hand.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { newId } from "../contract/ids.ts";
import type { Log } from "../contract/ports.ts";
import { RemoteArtifacts } from "../sdk/artifacts.ts";
import { WorkerClient } from "../sdk/worker-client.ts";
import { RemoteWorker } from "../sdk/worker.ts";
import { WorkerPool } from "../worker/pool.ts";
import type { Config } from "./config.ts";
import { Metrics } from "./metrics.ts";
import { outsideOf } from "./outside.ts";

export interface WorkerServer {
  readonly instance: string;
  /** Where health and metrics are served. */
  readonly url: string;
  /** Resolves with why, when it ends by itself. */
  readonly ended: Promise<"refused" | "drained">;
  /** Finishes what is at hand, for at most the drain time. */
  close(): Promise<void>;
}

const DRAIN_MS = 30_000;

export async function startWorker(options: { config: Config; token: string; log: Log }): Promise<WorkerServer> {
  const { config, token, log } = options;
  const client = new WorkerClient({ urls: (config.control_url ?? "").split(","), token });
  const { mcp, execute } = outsideOf(config, log, systemClock, new RemoteArtifacts(client));
  const instance = newId("node", { clock: systemClock, random: systemRandom });
  let end: (reason: "refused" | "drained") => void = () => undefined;
  const ended = new Promise<"refused" | "drained">((resolve) => (end = resolve));
  const pool: WorkerPool = new WorkerPool({
    clock: systemClock,
    log,
    concurrency_max: config.concurrency,
    execute,
    report: (results) => worker.finished(results),
    progress: (said) => worker.says(said),
  });
  const worker: RemoteWorker = new RemoteWorker({
    client,
    connect: (url) => client.at(url),
    instance,
    labels: config.labels,
    concurrency: config.concurrency,
    runner: pool,
    clock: systemClock,
    random: systemRandom,
    log,
    onEnd: (reason) => end(reason),
  });
  const probes = await serveProbes(config, worker);
  worker.start();
  return {
    instance,
    url: probes.url,
    ended,
    close: async () => {
      await worker.drain(DRAIN_MS);
      pool.stop();
      await mcp.close();
      await client.close();
      await probes.close();
    },
  };
}

/** Live, ready (the control plane answers) and metrics, on an address of the worker's own. */
async function serveProbes(config: Config, worker: RemoteWorker): Promise<{ url: string; close(): Promise<void> }> {
  const metrics = new Metrics({ role: "worker" });
  metrics.gauge("worker_running", "Jobs at hand.", () => worker.figures.running);
  metrics.gauge("worker_unreported", "Results that were not acknowledged yet.", () => worker.figures.unreported);
  metrics.gauge("worker_leased", "Jobs taken so far.", () => worker.figures.leased);
  metrics.gauge("worker_accepted", "Results taken by the control plane so far.", () => worker.figures.accepted);
  metrics.gauge("worker_refused", "Results refused by the control plane so far.", () => worker.figures.refused);
  metrics.gauge("ready", "Whether the control plane answers.", () => (worker.isConnected ? 1 : 0));
  const server = createServer((req, res) => {
    const json = (status: number, text: string) =>
      res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ status: text }));
    if (req.url === "/healthz") json(200, "ok");
    else if (req.url === "/readyz")
      json(worker.isConnected ? 200 : 503, worker.isConnected ? "ok" : "no control plane");
    else if (req.url === "/metrics") {
      void metrics.text().then((text) => res.writeHead(200, { "content-type": "text/plain; version=0.0.4" }).end(text));
    } else json(404, "not found");
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(config.port, config.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${config.host}:${port}`,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
