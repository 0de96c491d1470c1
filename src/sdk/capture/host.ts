// What capture takes from the process that it lives in: time, randomness, timers, files, the end of the process. The only place
// of the SDK that does; tests give it another one.
import { appendFileSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import path from "node:path";

export interface Host {
  now_us(): number;
  monotonic_ms(): number;
  random(length: number): Uint8Array;
  /** Calls fn once; does not keep the process running. */
  timer(delay_ms: number, fn: () => void): { cancel(): void };
  /** Calls fn once; the process is kept running until then, or until it is cancelled. */
  hold(delay_ms: number, fn: () => void): { cancel(): void };
  readonly fetch: typeof fetch;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly pid: number;
  /** True while a process with this number runs. */
  isAlive(pid: number): boolean;
  /** A folder for what is only kept for a while. */
  readonly temp: string;
  readonly files: Files;
  /** Tells whoever runs the program; never throws. */
  warn(text: string): void;
  /** `idle`: nothing is left to do; `exit`: the process ends now, nothing asynchronous is done any more. */
  on(event: "idle" | "exit", fn: () => void): () => void;
}

/** Files of one folder. Synchronous: what is about to be lost is written before anything else happens. */
export interface Files {
  append(file: string, text: string): void;
  /**
   * Makes a folder that only this user can look into. Throws when it is there already and somebody else's: what is in it
   * could be read by others, and what others put there would be sent in this program's name.
   */
  own(folder: string): void;
  read(file: string): string;
  list(folder: string): string[];
  rename(from: string, to: string): void;
  remove(file: string): void;
}

const files: Files = {
  append: (file, text) => appendFileSync(file, text, { mode: 0o600 }),
  own(folder) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { uid, mode } = lstatSync(folder);
    const mine = process.getuid?.();
    if (!lstatSync(folder).isDirectory()) throw new Error(`${folder} is no folder`);
    if (mine !== undefined && (uid !== mine || (mode & 0o077) !== 0))
      throw new Error(`${folder} can be reached by other users; make it yours alone (chmod 700), or set \`spill\``);
  },
  read: (file) => readFileSync(file, "utf8"),
  list(folder) {
    try {
      return readdirSync(folder);
    } catch {
      return [];
    }
  },
  rename: renameSync,
  remove: (file) => rmSync(file, { force: true }),
};

export function processHost(): Host {
  return {
    now_us: () => Math.round((performance.timeOrigin + performance.now()) * 1_000),
    monotonic_ms: () => performance.now(),
    random: (length) => randomBytes(length),
    timer(delay_ms, fn) {
      const timer = setTimeout(fn, delay_ms);
      timer.unref();
      return { cancel: () => clearTimeout(timer) };
    },
    hold(delay_ms, fn) {
      const timer = setTimeout(fn, delay_ms);
      return { cancel: () => clearTimeout(timer) };
    },
    // As it is now: what wraps it later would capture itself.
    fetch: globalThis.fetch.bind(globalThis),
    env: process.env,
    pid: process.pid,
    isAlive(pid) {
      try {
        process.kill(pid, 0);
        return true;
      } catch (error) {
        return error instanceof Error && "code" in error && error.code === "EPERM";
      }
    },
    // Each user has one: others' events are none of ours.
    temp: path.join(tmpdir(), `quarterdeck-${process.getuid?.() ?? "user"}`),
    files,
    warn: (text) => process.emitWarning(text, "QuarterdeckCapture"),
    on(event, fn) {
      const name = event === "idle" ? "beforeExit" : "exit";
      process.on(name, fn);
      return () => void process.off(name, fn);
    },
  };
}
