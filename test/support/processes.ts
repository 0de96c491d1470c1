// Real processes for chaos and end-to-end tests: the program itself, and a ledger outside of it that counts effects.
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client } from "../../src/sdk/client.ts";

export const ROOT = process.env["QD_ROOT"] ?? path.resolve(import.meta.dirname, "../..");
export const BIN = path.join(ROOT, "dist/cli/main.js");

const made = new Set<string>();
process.once("exit", () => made.forEach(remove));

/** A folder that everybody may enter (the embedded server may run as another user); removed when the test's process ends. */
export function tempFolder(name: string): string {
  const folder = mkdtempSync(path.join(tmpdir(), `${name}-`));
  made.add(folder);
  chmodSync(folder, 0o755);
  return folder;
}

export interface Running {
  readonly child: ChildProcess;
  readonly url: string;
  readonly client: Client;
  readonly ready_ms: number;
  readonly recovered: number;
  /** What it wrote last. */
  log(): string;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

const exited = (child: ChildProcess): Promise<void> =>
  new Promise((resolve) =>
    child.exitCode !== null || child.signalCode !== null ? resolve() : child.once("exit", () => resolve()),
  );

/** Neither ready nor ended: no fault outlasts this, so something waits for ever. */
export const START_MS_MAX = 120_000;

/** A start that hangs is a fault of the program, whatever was done to its services. */
export class HangingStart extends Error {}

/** Starts `up` and resolves when it is ready. Rejects when it ends before (as at a crash point), or hangs. */
export function startUp(
  data: string,
  env: Record<string, string> = {},
  args: string[] = [],
  bin = BIN,
): Promise<Running> {
  const child = spawn(process.execPath, [bin, "up", "--port", "0", "--data", data, "--json", ...args], {
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"], ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => (errors = (errors + chunk.toString()).slice(-4_000)));
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new HangingStart(`up is neither ready nor has it ended after ${START_MS_MAX} ms\n${errors}`));
    }, START_MS_MAX);
    child.once("exit", (code, signal) => {
      clearTimeout(late);
      reject(new Error(`up ended before it was ready: ${code ?? signal}\n${errors}`));
    });
    child.stdout.on("data", (chunk: Buffer) => {
      out += chunk.toString();
      if (!out.includes("\n}")) return;
      clearTimeout(late);
      const { url, ready_ms, recovered } = JSON.parse(out) as { url: string; ready_ms: number; recovered: number };
      const end = async (signal: NodeJS.Signals) => {
        child.kill(signal);
        await exited(child);
      };
      resolve({
        child,
        url,
        ready_ms,
        recovered,
        log: () => errors,
        client: new Client({ url, principal: "ada" }),
        kill: () => end("SIGKILL"),
        stop: () => end("SIGTERM"),
      });
    });
  });
}

export interface Ledger {
  readonly url: string;
  /** How often each idempotency key was seen at an endpoint. */
  counts(): Promise<{ once: Record<string, number>; idem: Record<string, number> }>;
  stop(): void;
}

/** The outside witness: a process of its own that counts what reaches it and never forgets. */
export async function startLedger(delay_ms: number): Promise<Ledger> {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, "ledger.mjs"), String(delay_ms)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const port = await new Promise<number>((resolve) =>
    child.stdout.once("data", (chunk: Buffer) => resolve(Number(chunk.toString()))),
  );
  const url = `http://127.0.0.1:${port}`;
  return {
    url,
    counts: async () => (await (await fetch(`${url}/counts`)).json()) as Awaited<ReturnType<Ledger["counts"]>>,
    stop: () => child.kill(),
  };
}

export function remove(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
}

/** Waits until something holds; fails with what it was after a time limit. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | null | undefined | false>,
  limit_ms = 60_000,
): Promise<T> {
  const end = performance.now() + limit_ms;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (performance.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Runs the command line once. */
export function cli(
  args: string[],
  options: { data?: string; cwd?: string; input?: string; env?: Record<string, string> } = {},
): Promise<{ code: number; out: string; err: string }> {
  const data = options.data === undefined ? [] : ["--data", options.data];
  const child = spawn(process.execPath, [BIN, ...args, ...data], {
    cwd: options.cwd ?? ROOT,
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"], NO_COLOR: "1", ...options.env },
  });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
  child.stdin.end(options.input ?? "");
  return new Promise((resolve) => child.once("close", (code) => resolve({ code: code ?? -1, out, err })));
}
