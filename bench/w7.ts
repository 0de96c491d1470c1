// W7: W6 with control nodes as processes of their own over one Postgres, each with the runs of its groups.
import { fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import path from "node:path";
import { startEmbeddedPostgres } from "../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../src/adapters/postgres/db.ts";
import { systemClock } from "../src/adapters/system/system.ts";
import { remove, tempFolder } from "../test/support/processes.ts";
import { startWorker } from "../test/support/workers.ts";
import { cpuOfTree } from "./harness.ts";
import { MANIFESTS, startRedis } from "./w6.ts";
import type { Asked } from "./w6-node.ts";

const WORKERS = 2;
/** Compiled, or as it is in the repository. */
const NODE = path.join(import.meta.dirname, `w6-node${path.extname(import.meta.filename)}`);

class Node {
  private readonly child: ChildProcess;
  private readonly waiting = new Map<number, { resolve(said: string): void; reject(error: Error): void }>();
  private asked = 0;
  readonly url: Promise<string>;

  constructor(env: Record<string, string>) {
    this.child = fork(NODE, [], { env: { ...process.env, ...env }, execArgv: process.execArgv });
    this.url = new Promise((resolve, reject) => this.waiting.set(0, { resolve, reject }));
    this.child.on("message", ({ id, said, failed }: { id: number; said: string; failed?: string }) => {
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (failed === undefined) waiting?.resolve(said);
      else waiting?.reject(new Error(failed));
    });
    this.child.once("exit", () => {
      for (const waiting of this.waiting.values()) waiting.reject(new Error("a node has ended"));
    });
  }

  ask(given: Omit<Asked, "id" | "workflow"> & { workflow?: string }): Promise<string> {
    const id = (this.asked += 1);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.child.send({ workflow: "w1", ...given, id });
    });
  }

  async close(): Promise<void> {
    const exit = new Promise((resolve) => this.child.once("exit", resolve));
    this.waiting.clear();
    this.child.kill("SIGKILL");
    await exit;
  }
}

/** A subject like the others, over so many nodes. */
export async function openNodes(given: { nodes: number; groups: number }): Promise<{
  name: string;
  run(): Promise<void>;
  cpu(): number;
  close(): Promise<void>;
}> {
  const data = tempFolder("qd-w7");
  const postgres = await startEmbeddedPostgres(data, systemClock);
  const admin = { socket_dir: postgres.socket_dir, user: "postgres", database: "postgres" };
  await withClient(admin, (tx) => tx.query({ text: "create database w7" }));
  const redis = await startRedis();
  const socket = encodeURIComponent(postgres.socket_dir);
  const url = (user: string) => `postgresql://${user}@localhost/w7?host=${socket}`;
  const nodes: Node[] = [];
  for (let n = 0; n < given.nodes; n++) {
    const env = {
      DATABASE_URL: url("serving"),
      DATABASE_ADMIN_URL: url("postgres"),
      REDIS_URL: redis.url,
      QUARTERDECK_DATA: tempFolder("qd-w7n"),
      QUARTERDECK_SHARED: data,
      QUARTERDECK_GROUPS: String(given.groups),
    };
    nodes.push(new Node(env));
    await nodes.at(-1)?.url;
  }
  const [first] = nodes;
  if (!first) throw new Error("there has to be a node");
  await first.ask({ apply: MANIFESTS });
  const token = await first.ask({ mint: "bench" });
  const control = (await Promise.all(nodes.map((node) => node.url))).join(",");
  const workers = await Promise.all(
    Array.from({ length: WORKERS }, () => startWorker(tempFolder("qd-w7w"), { control, token })),
  );
  // Until the groups are shared out, and the workers know it.
  await new Promise((resolve) => setTimeout(resolve, 4_000));
  let turn = 0;
  return {
    name: `quarterdeck, ${given.nodes} nodes, ${given.groups} groups, ${WORKERS} workers`,
    run: async () => {
      const state = await nodes[(turn += 1) % nodes.length]?.ask({});
      if (state !== "succeeded") throw new Error(`run ended as ${state}`);
    },
    cpu: () => cpuOfTree(process.pid),
    close: async () => {
      for (const worker of workers) await worker.kill();
      for (const node of nodes) await node.close();
      await redis.stop();
      await postgres.stop();
      remove(data);
    },
  };
}
