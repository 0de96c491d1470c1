// A run as the program sees it: what it says of its steps, calls and judgements becomes events. The step that something happens
// in is known from the asynchronous context, so parallel branches keep their own parents.
import { AsyncLocalStorage } from "node:async_hooks";
import type { Json, JsonObject } from "../../kit/json.ts";
import { NOT_RECORDED } from "../../contract/recorded.ts";
import { rfc3339 } from "../../kit/clock.ts";
import { encodeId, uuidV7 } from "../../kit/ids.ts";
import type { Host } from "./host.ts";
import type { Recorder } from "./recorder.ts";
import { CaptureUnavailable } from "./recorder.ts";
import type { Settings } from "./settings.ts";
import { messageOf } from "./transport.ts";
import type { Transport } from "./transport.ts";

export interface CaptureParts {
  readonly host: Host;
  readonly settings: Settings;
  readonly recorder: Recorder;
  readonly transport: Transport;
}

/** Where the program is: in which run, below which step. */
interface Place {
  readonly run: CaptureRun;
  readonly step: string | null;
}

const places = new AsyncLocalStorage<Place>();

/** The run that the calling code is in. */
export function currentRun(): CaptureRun | null {
  return places.getStore()?.run ?? null;
}

export type CallKind = "model" | "tool" | "retrieval";

/** A call that has begun. Exactly one of `completed` and `failed` counts; what comes after it is ignored. */
export interface OpenCall {
  readonly step: string;
  completed(data: JsonObject): void;
  failed(error: unknown, data?: JsonObject): void;
  event(type: string, data: JsonObject): void;
}

export interface RetrievalRequest {
  readonly retriever: string;
  readonly query: Json;
  readonly top_k?: number;
  readonly filters?: Json;
}

export class CaptureRun {
  readonly run_id: string;
  private readonly parts: CaptureParts;
  private readonly stopper = new AbortController();
  private steps = 0;
  private readonly prefix: string;
  private ended = false;

  constructor(parts: CaptureParts, run_id: string | null) {
    const { host } = parts;
    this.parts = parts;
    this.run_id = run_id ?? encodeId("run", uuidV7(Math.floor(host.now_us() / 1_000), host.random(10)));
    // Several processes may say something of one run: their steps must not have the same names.
    this.prefix = Buffer.from(host.random(4)).toString("hex");
  }

  /** Aborted when the run was stopped on the server: cancelled, over its budget, paused. */
  get signal(): AbortSignal {
    return this.stopper.signal;
  }

  /** The run was stopped on the server. */
  stopped(state: string): void {
    if (!this.ended) this.stopper.abort(new CaptureUnavailable(`run ${this.run_id} is ${state} on the server`));
  }

  /** Runs fn inside this run. */
  within<T>(fn: () => T): T {
    return places.run({ run: this, step: null }, fn);
  }

  begin(data: JsonObject): void {
    this.say("run.started", { data });
  }

  end(type: "run.succeeded" | "run.failed", data: JsonObject): void {
    if (this.ended) return;
    this.say(type, { data });
    this.ended = true;
    this.parts.recorder.forget(this.run_id);
  }

  /** Records an event of any type, below the step that the caller is in. */
  event(type: string, data: JsonObject): void {
    const parent = this.parent();
    this.say(type, { data, ...(parent === null ? {} : { parent_step_id: parent }) });
  }

  /** A step with a name; what happens inside belongs to it. */
  step<T>(name: string, fn: () => T | Promise<T>): Promise<T> {
    return this.around("step", { name }, fn);
  }

  /** A part of the run that is an agent of its own. */
  agent<T>(name: string, fn: () => T | Promise<T>): Promise<T> {
    return this.around("agent", { name }, fn);
  }

  /**
   * A tool call: what goes in, what comes out. In a replay the recorded result comes instead, and fn is not called.
   * `isError`: tells whether a result says that the tool failed.
   */
  async tool<T>(
    name: string,
    args: JsonObject,
    fn: () => T | Promise<T>,
    isError: (result: T) => boolean = () => false,
  ): Promise<T> {
    if (this.parts.settings.replay) return (await this.recorded({ kind: "tool", tool: name, args }))["result"] as T;
    return this.called(name, args, fn, isError);
  }

  /** The same of what recordings of earlier versions do not have: there it is asked anew. */
  async question<T>(name: string, args: JsonObject, fn: () => T | Promise<T>): Promise<T> {
    if (!this.parts.settings.replay) return this.called(name, args, fn, () => false);
    const { ended, data } = await this.answered({ kind: "tool", tool: name, args, optional: true });
    return ended === NOT_RECORDED ? fn() : (answerIn({ ended, data })["result"] as T);
  }

  private async called<T>(
    name: string,
    args: JsonObject,
    fn: () => T | Promise<T>,
    isError: (result: T) => boolean,
  ): Promise<T> {
    const call = await this.open("tool", { args, tool: name });
    return this.settled(call, fn, (result) => ({
      ...(isError(result) ? { is_error: true } : {}),
      result: jsonOf(result),
    }));
  }

  /** A retrieval: fn gives the documents, best first. */
  async retrieval<T extends readonly object[]>(request: RetrievalRequest, fn: () => T | Promise<T>): Promise<T> {
    const data: JsonObject = { ...request };
    if (this.parts.settings.replay)
      return (await this.recorded({ kind: "retrieval", ...data }))["documents"] as unknown as T;
    const call = await this.open("retrieval", data);
    return this.settled(call, fn, (documents) => ({
      documents: documents.map((document, i): JsonObject => ({ rank: i + 1, ...(jsonOf(document) as JsonObject) })),
    }));
  }

  /** Begins a call. Under fail-closed it has been acknowledged when this resolves; else this throws CaptureUnavailable. */
  async open(kind: CallKind, data: JsonObject): Promise<OpenCall> {
    const { host, recorder, settings } = this.parts;
    if (settings.closed) this.signal.throwIfAborted();
    const step = this.newStep();
    const parent = this.parent();
    const begun = host.monotonic_ms();
    const no = this.say(`${kind}.requested`, {
      data,
      step_id: step,
      ...(parent === null ? {} : { parent_step_id: parent }),
    });
    if (settings.closed && settings.enabled) {
      await recorder.acknowledged(this.run_id, no);
      this.signal.throwIfAborted();
    }
    let open = true;
    const close = (type: string, said: JsonObject): void => {
      if (!open) return;
      open = false;
      const duration_ms = Math.round((host.monotonic_ms() - begun) * 1_000) / 1_000;
      this.say(`${kind}.${type}`, { data: { ...said, duration_ms }, step_id: step });
    };
    return {
      step,
      completed: (said) => close("completed", said),
      failed: (error, said = {}) => close("failed", { code: codeOf(error), ...said, message: messageOf(error) }),
      event: (type, said) => void (open && this.say(type, { data: said, step_id: step })),
    };
  }

  /** What of a call may leave the process: in a replay it asks as it was recorded. */
  shown(call: JsonObject): JsonObject {
    return this.parts.recorder.shown(call);
  }

  /** How a call ended in the recording of the replayed run. Throws that it is not in there. */
  answered(call: JsonObject): Promise<{ ended: string; data: JsonObject }> {
    return this.parts.transport.replayed(this.run_id, this.shown(call));
  }

  /** What the recording says of a call that has an answer. Throws what it ended with otherwise. */
  async recorded(call: JsonObject): Promise<JsonObject> {
    return answerIn(await this.answered(call));
  }

  /** Sends all that was recorded; what cannot be sent is kept for later. */
  flush(timeout_ms = 5_000): Promise<void> {
    return this.parts.recorder.flush(timeout_ms);
  }

  private async settled<T>(call: OpenCall, fn: () => T | Promise<T>, said: (result: T) => JsonObject): Promise<T> {
    try {
      const result = await places.run({ run: this, step: call.step }, fn);
      call.completed(said(result));
      return result;
    } catch (error) {
      call.failed(error);
      throw error;
    }
  }

  private async around<T>(kind: "step" | "agent", data: JsonObject, fn: () => T | Promise<T>): Promise<T> {
    const step = this.newStep();
    const parent = this.parent();
    this.say(`${kind}.started`, { data, step_id: step, ...(parent === null ? {} : { parent_step_id: parent }) });
    try {
      const result = await places.run({ run: this, step }, fn);
      this.say(`${kind}.ended`, { data: {}, step_id: step });
      return result;
    } catch (error) {
      this.say(`${kind}.ended`, {
        data: { code: codeOf(error), is_error: true, message: messageOf(error) },
        step_id: step,
      });
      throw error;
    }
  }

  private newStep(): string {
    this.steps += 1;
    return `${this.prefix}-${this.steps}`;
  }

  private parent(): string | null {
    const place = places.getStore();
    return place?.run === this ? place.step : null;
  }

  private say(type: string, event: JsonObject): number {
    const { host, recorder, settings } = this.parts;
    if (!settings.enabled || settings.replay || this.ended) return 0;
    return recorder.record(this.run_id, { occurred_at: rfc3339(host.now_us()), type, ...event });
  }
}

/** Throws what a call ended with that has no answer. */
function answerIn({ ended, data }: { ended: string; data: JsonObject }): JsonObject {
  if (ended.endsWith(".completed")) return data;
  throw Object.assign(new Error(String(data["message"] ?? data["reason"] ?? ended)), {
    name: String(data["code"] ?? "Error"),
  });
}

function codeOf(error: unknown): string {
  const code = error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
  return (code || (error instanceof Error ? error.name : "error")).slice(0, 128) || "error";
}

/** What is not there is null; everything else has its JSON form, made when it is recorded. */
function jsonOf(value: unknown): Json {
  return (value ?? null) as Json;
}
