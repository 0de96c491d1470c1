// Remote workers as processes of their own.
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { BIN, cli, HangingStart, START_MS_MAX } from "./processes.ts";
import type { Running } from "./processes.ts";

export interface WorkerProcess {
  readonly child: ChildProcess;
  /** Its health and metrics. */
  readonly url: string;
  readonly instance: string;
  /** Resolves with the exit code, or -1 after a signal. */
  readonly exit: Promise<number>;
  /** What it wrote last. */
  log(): string;
  kill(): Promise<void>;
  stop(): Promise<number>;
}

export async function mint(server: Pick<Running, "url">, name: string, labels: string[] = []): Promise<string> {
  const flags = labels.flatMap((label) => ["--label", label]);
  const done = await cli(["workers", "mint", name, ...flags, "--url", server.url, "--json"]);
  if (done.code !== 0) throw new Error(done.err || done.out);
  return (JSON.parse(done.out) as { token: string }).token;
}

export function startWorker(
  data: string,
  given: { control: string; token: string; args?: string[]; env?: Record<string, string> },
): Promise<WorkerProcess> {
  const args = ["up", "--role", "worker", "--control", given.control, "--port", "0", "--data", data, "--json"];
  const child = spawn(process.execPath, [BIN, ...args, ...(given.args ?? [])], {
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      QUARTERDECK_WORKER_TOKEN: given.token,
      ...given.env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => (errors = (errors + chunk.toString()).slice(-4_000)));
  const exit = new Promise<number>((resolve) => child.once("exit", (code) => resolve(code ?? -1)));
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new HangingStart(`the worker is neither ready nor has it ended after ${START_MS_MAX} ms\n${errors}`));
    }, START_MS_MAX);
    void exit
      .finally(() => clearTimeout(late))
      .then((code) => reject(new Error(`the worker ended before it was ready: ${code}\n${errors}`)));
    child.stdout.on("data", (chunk: Buffer) => {
      out += chunk.toString();
      if (!out.includes("\n}")) return;
      clearTimeout(late);
      const { url, instance } = JSON.parse(out) as { url: string; instance: string };
      const end = (signal: NodeJS.Signals) => {
        child.kill(signal);
        return exit;
      };
      resolve({
        child,
        url,
        instance,
        exit,
        log: () => errors,
        kill: async () => void (await end("SIGKILL")),
        stop: () => end("SIGTERM"),
      });
    });
  });
}
