// Events that could not be sent, in files: one a process, one batch a line. A process that starts takes over the files of
// processes that are gone. Sending a batch twice is harmless: the server knows each event by its number.
import type { Host } from "./host.ts";
import { messageOf } from "./transport.ts";
import type { Batch } from "./transport.ts";

const BYTES_MAX = 256 * 1024 * 1024;
const OURS = /^(?<pid>\d+)-[0-9a-f]+\.(jsonl|sending)$/;

export class Spill {
  private readonly host: Host;
  private readonly folder: string;
  private readonly name: string;
  private readonly onProblem: (problem: string) => void;
  private bytes = 0;
  private owned = false;
  /** The last line may be torn: the disk was full while it was written. */
  private torn = false;

  constructor(options: { host: Host; folder: string; id: string; onProblem: (problem: string) => void }) {
    this.host = options.host;
    this.folder = options.folder;
    this.name = `${options.host.pid}-${options.id}.jsonl`;
    this.onProblem = options.onProblem;
  }

  private get file(): string {
    return `${this.folder}/${this.name}`;
  }

  get isEmpty(): boolean {
    return this.bytes === 0;
  }

  /** Keeps batches; false when they could not be kept. Synchronous, so that it works while the process ends. */
  put(batches: readonly Batch[]): boolean {
    const text = batches.map((batch) => `${JSON.stringify(batch)}\n`).join("");
    if (this.bytes + text.length > BYTES_MAX) {
      this.onProblem(`${this.file} has reached ${BYTES_MAX} bytes; events are lost`);
      return false;
    }
    try {
      this.own();
      this.host.files.append(this.file, this.torn ? `\n${text}` : text);
      this.torn = false;
      this.bytes += text.length;
      return true;
    } catch (error) {
      this.torn = true;
      this.onProblem(`events cannot be kept in ${this.file}: ${messageOf(error)}`);
      return false;
    }
  }

  /** Throws when others can reach the folder. */
  private own(): void {
    if (!this.owned) this.host.files.own(this.folder);
    this.owned = true;
  }

  /** Takes all that is kept, to be sent. It stays on disk until `done`. */
  take(): readonly Kept[] {
    const { files } = this.host;
    const kept: Kept[] = [];
    if (files.list(this.folder).length === 0) return kept;
    try {
      this.own();
    } catch (error) {
      this.onProblem(`what is in ${this.folder} is not sent: ${messageOf(error)}`);
      return kept;
    }
    for (const name of files.list(this.folder).toSorted((a, b) => a.localeCompare(b))) {
      const pid = Number(OURS.exec(name)?.groups?.["pid"] ?? 0);
      // Of others only what they have left behind.
      const isFree = name === this.name || (pid > 0 && pid !== this.host.pid && !this.host.isAlive(pid));
      if (!isFree) continue;
      const mine = `${this.folder}/${this.name.replace(/\.jsonl$/, "")}${kept.length.toString(16)}.sending`;
      try {
        files.rename(`${this.folder}/${name}`, mine);
        kept.push({ file: mine, batches: this.read(mine) });
      } catch (error) {
        this.onProblem(`${name} cannot be read: ${messageOf(error)}`);
      }
    }
    this.bytes = 0;
    return kept;
  }

  /** All of it was sent. */
  done(kept: Kept): void {
    this.host.files.remove(kept.file);
  }

  private read(file: string): Batch[] {
    const batches: Batch[] = [];
    for (const line of this.host.files.read(file).split("\n")) {
      if (line === "") continue;
      try {
        batches.push(JSON.parse(line) as Batch);
      } catch {
        this.onProblem(`a line of ${file} was cut off; its events are lost`);
      }
    }
    return batches;
  }
}

export interface Kept {
  readonly file: string;
  readonly batches: readonly Batch[];
}
