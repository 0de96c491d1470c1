// W6: W1 with the control plane in this process, the queue in Redis, and two workers as processes of their own over HTTP.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { systemClock } from "../src/adapters/system/system.ts";
import { loadConfig } from "../src/server/config.ts";
import { createLog } from "../src/server/log.ts";
import { startServer } from "../src/server/start.ts";
import type { Commit } from "../src/orchestrator/engine.ts";
import { remove, tempFolder } from "../test/support/processes.ts";
import { startWorker } from "../test/support/workers.ts";
import { cpuOfTree, STEPS } from "./harness.ts";

const WORKERS = 2;
export const MANIFESTS = `
kind: Tool
metadata: { name: bench.noop }
spec: { kind: builtin, builtin: noop, cost_usd: "0.0001" }
---
kind: Workflow
metadata: { name: w1 }
spec: { steps: [${Array.from({ length: STEPS }, (_, i) => `{ id: s${i}, tool: bench.noop, args: { i: ${i} } }`).join(", ")}], budget: { cost_usd: "10" } }
---
kind: Policy
metadata: { name: bench }
spec:
  rules:
    - { id: never, effect: deny, match: { effect_classes: [irreversible] } }
    - { id: allow, effect: allow, match: { tools: ["bench.*"] }, when: "run.steps < 5000 && cost < 1000000.0" }
---
kind: Budget
metadata: { name: bench }
spec: { scope: project, period: month, limit_usd: "9000000" }
`;

export async function startRedis(): Promise<{ url: string; stop(): Promise<void> }> {
  const port = 20_000 + Math.floor(Math.random() * 20_000);
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const child = spawn("redis-server", args, { stdio: ["ignore", "pipe", "inherit"], cwd: "/tmp" });
  for await (const chunk of child.stdout) if (String(chunk).includes("eady to accept connections")) break;
  return {
    url: `redis://127.0.0.1:${port}`,
    stop: async () => {
      child.kill();
      await once(child, "exit");
    },
  };
}

export interface ClusterOptions {
  /** Manifests besides those of W6, and the workflow that is run. */
  readonly manifests: string;
  readonly workflow: string;
  readonly origins: readonly string[];
  readonly onCommit: (commit: Commit) => void;
}

const PLAIN: ClusterOptions = { manifests: "", workflow: "w1", origins: [], onCommit: () => undefined };

/** A subject like the others: `run` resolves at the end of one run. */
export async function openCluster(options = PLAIN): Promise<{
  name: string;
  run(input?: string): Promise<void>;
  cpu(): number;
  waits(): Promise<string>;
  close(): Promise<void>;
}> {
  const data = tempFolder("qd-w6");
  const redis = await startRedis();
  const waiting = new Map<string, (state: string) => void>();
  const config = loadConfig({ role: "control", data, port: 0, redis_url: redis.url }, {});
  const server = await startServer({
    config,
    log: createLog(systemClock, (line) => process.stderr.write(`${line}\n`)),
    onCommit: (commit) => {
      options.onCommit(commit);
      const { run_id, summary } = commit;
      if (summary.state === "running") return;
      waiting.get(run_id)?.(summary.state);
      waiting.delete(run_id);
    },
  });
  const { registry, workers, runs, tenant_id, project } = server.services;
  const caller = { tenant_id, project, principal: "bench" };
  await registry.apply({ ...caller, text: MANIFESTS + options.manifests });
  const { token } = await workers.mint("bench", "bench", []);
  const processes = await Promise.all(
    Array.from({ length: WORKERS }, () =>
      startWorker(tempFolder("qd-w6w"), {
        control: server.url,
        token,
        env: { QUARTERDECK_PRIVATE_ORIGINS: options.origins.join(",") },
      }),
    ),
  );
  return {
    name: "quarterdeck, 2 workers",
    run: async (input = "") => {
      let end: (state: string) => void = () => undefined;
      const ended = new Promise<string>((resolve) => (end = resolve));
      const { run_id } = await runs.start(caller, { workflow: options.workflow, input });
      waiting.set(run_id, end);
      const state = await ended;
      if (state !== "succeeded") throw new Error(`run ended as ${state}`);
    },
    cpu: () => cpuOfTree(process.pid),
    waits: () => server.services.metrics(),
    close: async () => {
      for (const worker of processes) await worker.kill();
      await server.close();
      await redis.stop();
      remove(data);
    },
  };
}
