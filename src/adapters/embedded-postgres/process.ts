// What the operating system says of a process. Linux reads /proc; elsewhere only "is there one" can be asked.
import { readFile } from "node:fs/promises";

export interface ProcessFacts {
  readonly command: string;
  /** Z is a zombie: dead, but not reaped by its parent yet. */
  readonly state: string;
  readonly start: string;
}

/** Facts of a process; null when there is none. */
export async function processFacts(pid: number): Promise<ProcessFacts | null> {
  if (!Number.isInteger(pid) || pid <= 0) return null;
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    const close = stat.lastIndexOf(")");
    const fields = stat.slice(close + 2).split(" ");
    return { command: stat.slice(stat.indexOf("(") + 1, close), state: fields[0] ?? "", start: fields[19] ?? "" };
  } catch {
    if (process.platform === "linux") return null;
  }
  try {
    process.kill(pid, 0);
    return { command: "postgres", state: "R", start: String(pid) };
  } catch {
    return null;
  }
}

/** A value that differs between two processes with the same pid; null when the process is gone or a zombie. */
export async function processStart(pid: number): Promise<string | null> {
  const facts = await processFacts(pid);
  return facts === null || facts.state === "Z" ? null : facts.start;
}
