// Numbers events, redacts them and sends them in batches, without the program waiting for it. While the server does not answer
// they go to a file, in order; they are sent again when it answers.
// Invariants: the numbers of a run have no gaps unless events are lost, so that a loss is visible; what is recorded is copied
// at once, so that the program may go on changing what it gave; nothing here throws into the program under fail-open.
import { LIMITS } from "../../contract/limits.ts";
import { fullJitter } from "../../kit/backoff.ts";
import { digestOf } from "../../kit/hash.ts";
import { isObject } from "../../kit/json.ts";
import type { JsonObject } from "../../kit/json.ts";
import { redactJson, rulesOf, RULESET, withoutTornSecrets } from "../../kit/redaction.ts";
import type { RedactionRule } from "../../kit/redaction-rules.ts";
import type { Host } from "./host.ts";
import type { Settings } from "./settings.ts";
import { Spill } from "./spill.ts";
import type { Batch, Sent, Transport } from "./transport.ts";

/** The server could not be told of a call, and the settings say that it must be; or it has stopped the run. */
export class CaptureUnavailable extends Error {
  override readonly name = "CaptureUnavailable";
}

interface Queued {
  readonly run_id: string;
  readonly no: number;
  /** JSON of the event: a copy, made when it happened. */
  readonly text: string;
}

interface Waiting {
  readonly run_id: string;
  readonly no: number;
  resolve(): void;
  reject(error: Error): void;
}

export interface RecorderFigures {
  recorded: number;
  acknowledged: number;
  spilled: number;
  lost: number;
}

const FLUSH_MS = 100;
const BATCH_EVENTS = 100;
const BATCH_CHARS = 1024 * 1024;
/** Events in memory; beyond it the newest are lost, and their numbers tell. */
const BUFFER_EVENTS = 50_000;
const RETRY = { base_ms: 500, cap_ms: 30_000 };

export class Recorder {
  readonly figures: RecorderFigures = { recorded: 0, acknowledged: 0, spilled: 0, lost: 0 };
  private readonly host: Host;
  private readonly settings: Settings;
  private readonly transport: Transport;
  private readonly spill: Spill | null;
  private readonly rules: readonly RedactionRule[];
  private readonly producer: { readonly producer_id: string; readonly producer_epoch: number };
  private readonly numbers = new Map<string, number>();
  private readonly onStopped: (run_id: string, state: string) => void;
  private queue: Queued[] = [];
  private waiting: Waiting[] = [];
  private inFlight: Batch | null = null;
  private working: Promise<void> | null = null;
  private timer: { cancel(): void } | null = null;
  private failures = 0;
  private closed = false;
  private readonly unhook: () => void;

  constructor(options: {
    host: Host;
    settings: Settings;
    transport: Transport;
    onStopped: (run_id: string, state: string) => void;
  }) {
    const { host, settings } = options;
    this.host = host;
    this.settings = settings;
    this.transport = options.transport;
    this.onStopped = options.onStopped;
    const id = Buffer.from(host.random(8)).toString("hex");
    this.producer = { producer_id: `sdk-${id}`, producer_epoch: Math.floor(host.now_us() / 1_000) };
    const { spill: folder, onProblem } = settings;
    this.spill = folder === null ? null : new Spill({ host, folder, id, onProblem });
    this.rules = rulesOf(settings.redact);
    this.unhook = host.on("exit", () => this.abandon());
  }

  /** Begins to send what earlier processes left behind. */
  start(): void {
    if (this.spill) this.later(0);
  }

  /** Records an event; returns its number in its run. */
  record(run_id: string, event: JsonObject): number {
    const no = (this.numbers.get(run_id) ?? 0) + 1;
    this.numbers.set(run_id, no);
    this.figures.recorded += 1;
    if (this.queue.length >= BUFFER_EVENTS) this.lose(1, "too many events wait to be sent");
    else this.queue.push({ run_id, no, text: this.snapshot({ ...event, sequence_no: no }) });
    if (this.queue.length >= BATCH_EVENTS && this.failures === 0) this.kick();
    else if (!this.timer && !this.working) this.later(FLUSH_MS);
    return no;
  }

  /** Resolves when an event is on record; throws CaptureUnavailable when the server cannot be told. */
  acknowledged(run_id: string, no: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ run_id, no, resolve, reject });
      this.kick();
    });
  }

  /** Forgets a run that has ended. */
  forget(run_id: string): void {
    this.numbers.delete(run_id);
  }

  /** Sends what there is; what cannot be sent in time is spilled. */
  async flush(timeout_ms: number): Promise<void> {
    let late = false;
    const timer = this.host.timer(timeout_ms, () => (late = true));
    while (this.queue.length > 0 || this.working) {
      this.kick();
      const tick = new Promise<void>((resolve) => void this.host.timer(FLUSH_MS, resolve));
      await Promise.race([this.working ?? tick, tick]);
      if (late || this.failures > 0) break;
    }
    timer.cancel();
    if (this.queue.length > 0 && this.failures > 0) this.toSpill();
  }

  /** Nothing is sent any more; what was not, is spilled. */
  close(): void {
    this.closed = true;
    this.timer?.cancel();
    this.unhook();
    this.abandon();
  }

  private kick(): void {
    if (this.working || this.closed) return;
    this.timer?.cancel();
    this.timer = null;
    this.working = this.work().finally(() => {
      this.working = null;
      const left = this.queue.length > 0 || !(this.spill?.isEmpty ?? true);
      if (!left || this.closed) return;
      const soon = this.waiting.length > 0 ? 0 : FLUSH_MS;
      this.later(this.failures > 0 ? this.pause() : soon);
    });
  }

  private later(delay_ms: number): void {
    this.timer?.cancel();
    this.timer = this.host.timer(delay_ms, () => this.kick());
  }

  private pause(): number {
    const [first = 0] = this.host.random(1);
    return 100 + fullJitter({ ...RETRY, retry: this.failures, random: first / 255 });
  }

  /** What was spilled goes first: it is older. */
  private async work(): Promise<void> {
    if (!(await this.resend())) return this.toSpill();
    while (this.queue.length > 0) {
      const batch = this.next();
      this.inFlight = batch;
      const sent = await this.transport.send(batch);
      this.inFlight = null;
      if (!this.settle(batch, sent)) {
        if (this.spill) this.keep([batch]);
        else this.again(batch);
        return this.toSpill();
      }
    }
  }

  /** True when nothing is spilled any more. */
  private async resend(): Promise<boolean> {
    const kept = this.spill?.take() ?? [];
    for (const [index, file] of kept.entries()) {
      for (const [at, batch] of file.batches.entries()) {
        if (this.settle(batch, await this.transport.send(batch))) continue;
        this.keep([...file.batches.slice(at), ...kept.slice(index + 1).flatMap((other) => other.batches)]);
        for (const one of kept.slice(index)) this.spill?.done(one);
        return false;
      }
      this.spill?.done(file);
    }
    return true;
  }

  /** True when a batch is done with, one way or the other. */
  private settle(batch: Batch, sent: Sent): boolean {
    if (sent.kind === "later") {
      this.failures += 1;
      this.fail(sent.why);
      if (this.failures === 1) this.settings.onProblem(sent.why);
      return false;
    }
    this.failures = 0;
    if (sent.kind === "refused") {
      this.lose(batch.events.length, sent.why);
      this.fail(sent.why);
      return true;
    }
    const { state, items } = sent.answer;
    const refused = items.filter((item) => item.status === "rejected");
    for (const { error } of refused.slice(0, 3)) this.settings.onProblem(`${error?.code}: ${error?.message}`);
    this.figures.acknowledged += items.length - refused.length;
    this.figures.lost += refused.length;
    if (state !== null && !["queued", "running"].includes(state)) this.onStopped(batch.run_id, state);
    const last = Number(batch.events.at(-1)?.["sequence_no"] ?? 0);
    const told = this.waiting.filter((one) => one.run_id === batch.run_id && one.no <= last);
    this.waiting = this.waiting.filter((one) => !told.includes(one));
    for (const one of told) one.resolve();
    return true;
  }

  /** Events of the run that waits longest, up to a batch. */
  private next(): Batch {
    const run_id = this.queue[0]?.run_id ?? "";
    const taken: Queued[] = [];
    const rest: Queued[] = [];
    let chars = 0;
    let full = false;
    for (const one of this.queue) {
      if (one.run_id === run_id) full ||= taken.length >= BATCH_EVENTS || chars + one.text.length > BATCH_CHARS;
      if (one.run_id === run_id && (!full || taken.length === 0)) {
        taken.push(one);
        chars += one.text.length;
      } else rest.push(one);
    }
    this.queue = rest;
    return this.batchOf(run_id, taken);
  }

  private batchOf(run_id: string, taken: readonly Queued[]): Batch {
    return { run_id, ...this.producer, events: taken.map((one) => this.clean(one.text)) };
  }

  private again(batch: Batch): void {
    const { run_id, events } = batch;
    const back = events.map((event) => ({ run_id, no: Number(event["sequence_no"]), text: JSON.stringify(event) }));
    this.queue.unshift(...back);
  }

  /** What must not leave the process does not. An event that cannot be looked at is sent without its content. */
  private clean(text: string): JsonObject {
    const event = JSON.parse(text) as JsonObject;
    if (this.rules.length === 0) return event;
    const data = (event["data"] ?? {}) as JsonObject;
    const ruleset = `${RULESET}/${this.settings.redact}`;
    try {
      const { value, rules, paths } = redactJson(data, this.rules);
      if (paths.length === 0) return event;
      const clean = withoutTornSecrets(value as JsonObject, paths);
      return {
        ...event,
        data: { ...clean, redaction: { paths: [...paths], rules: [...rules], ruleset, status: "redacted" } },
      };
    } catch {
      return { ...event, data: { redaction: { paths: [""], rules: [], ruleset, status: "failed" } } };
    }
  }

  /** What of a call may leave the process, as it would be recorded. Throws where that cannot be told. */
  shown(data: JsonObject): JsonObject {
    const clean = this.clean(JSON.stringify({ data }));
    const { redaction, ...shown } = clean["data"] as JsonObject;
    if (isObject(redaction) && redaction["status"] === "failed")
      throw new Error(
        "The call cannot be looked at for secrets, so it is not sent; it is not in the recording either.",
      );
    return shown;
  }

  private toSpill(): void {
    if (!this.spill || this.queue.length === 0) return;
    const batches: Batch[] = [];
    while (this.queue.length > 0) batches.push(this.next());
    this.keep(batches);
  }

  private keep(batches: readonly Batch[]): void {
    const count = batches.reduce((sum, batch) => sum + batch.events.length, 0);
    if (this.spill?.put(batches)) this.figures.spilled += count;
    else this.lose(count, "they could be neither sent nor kept");
  }

  /** The process ends, or capture does: what is left is kept, synchronously. */
  private abandon(): void {
    const batches = this.inFlight ? [this.inFlight] : [];
    this.inFlight = null;
    while (this.queue.length > 0) batches.push(this.next());
    if (batches.length > 0) this.keep(batches);
    this.fail("capture has ended");
  }

  private snapshot(event: JsonObject): string {
    return snapshot(event, this.settings.onProblem, (text) => this.clean(text));
  }

  private lose(count: number, why: string): void {
    this.figures.lost += count;
    this.settings.onProblem(`${count} events are lost: ${why}`);
  }

  private fail(why: string): void {
    const waiting = this.waiting.splice(0);
    for (const one of waiting) one.reject(new CaptureUnavailable(why));
  }
}

/** What the server's reader refuses: NUL, and halves of characters. */
const UNFIT = /\\u(0000|d[89a-f])/i;

function jsonOf(value: unknown): string {
  const plain = (_key: string, item: unknown): unknown => (typeof item === "bigint" ? String(item) : item);
  const text = JSON.stringify(value, plain) ?? "{}";
  if (!UNFIT.test(text)) return text;
  return JSON.stringify(value, (key, item: unknown) =>
    typeof item === "string" ? item.toWellFormed().replaceAll("\u0000", "\ufffd") : plain(key, item),
  );
}

/** A copy of an event as JSON. What has no JSON form is named instead. */
function snapshot(
  event: JsonObject,
  onProblem: (problem: string) => void,
  clean: (text: string) => JsonObject,
): string {
  const { data, ...rest } = event;
  let text: string;
  try {
    text = jsonOf(data);
  } catch (error) {
    onProblem(`the data of ${String(event["type"])} has no JSON form: ${String(error)}`);
    text = JSON.stringify({ unrecordable: String(error) });
  }
  if (text.length > DATA_CHARS) {
    onProblem(`the data of ${String(event["type"])} has ${text.length} characters; it is cut`);
    // What is taken out of it goes first: of half a key nothing tells that it is one.
    text = JSON.stringify(shortened(clean(`{"data":${text}}`)["data"] as JsonObject));
  }
  return `${jsonOf(rest).slice(0, -1)},"data":${text}}`;
}

/** Payloads above this are cut, so that a batch stays below what a request may hold. */
const DATA_CHARS = LIMITS.request_bytes_max / 4;
const CUT_CHARS = 64 * 1024;

/** Long payloads without their ends; how long they were and their digest stand beside them. */
function shortened(data: JsonObject): JsonObject {
  const out: JsonObject = {};
  const cut: JsonObject = {};
  for (const [key, value] of Object.entries(data)) {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    if (text.length <= CUT_CHARS) {
      out[key] = value;
      continue;
    }
    cut[key] = { characters: text.length, digest: digestOf(text) };
    if (typeof value === "string") out[key] = value.slice(0, CUT_CHARS).toWellFormed();
    else out[key] = Array.isArray(value) ? [] : { start: text.slice(0, CUT_CHARS).toWellFormed() };
  }
  return { ...out, cut };
}
