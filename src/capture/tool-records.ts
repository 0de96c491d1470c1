// What is recorded of tool calls that foreign agents make here: arguments and outcomes, redacted like everything that is
// captured. The call is made with the arguments as they came, and whoever waits for it gets the result as it came.
// Invariant: what was taken out stands in no event and no plain artifact. Arguments are kept encrypted, since the call may have
// to wait for a person; results are not kept, so who asks for one after a restart gets it as it was recorded.
import { messageOf } from "../contract/errors.ts";
import type { JobOutcome, JobResult, ResultBox } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { BlobStore } from "../contract/ports.ts";
import type { RedactionMark } from "../contract/redaction.ts";
import { preview } from "../core/artifacts.ts";
import type { ShownArgs } from "../core/run-state.ts";
import { assert } from "../kit/assert.ts";
import { unboxed } from "../kit/box.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Place, Quarantine } from "./quarantine.ts";
import { joined, markJson } from "./redact.ts";
import type { Redactor } from "./redact.ts";

export interface ToolRecordsOptions {
  readonly redactor: Redactor;
  readonly quarantine: Quarantine;
  readonly blobs: Pick<BlobStore, "get" | "put">;
}

type Completed = Extract<JobOutcome, { ok: true; kind: "tool" }>;
type Failed = Extract<JobOutcome, { ok: false }>;
type Attempt = Pick<JobResult, "run_id" | "step" | "attempt">;

const keyOf = ({ run_id, step, attempt }: Attempt): string => `${run_id}/${step}/${attempt}`;

export class ToolRecords {
  private readonly options: ToolRecordsOptions;
  /** Results as they came, for whoever waits for them; the oldest go first. */
  private readonly raw = new Map<string, { result: Json; chars: number }>();
  private rawChars = 0;

  constructor(options: ToolRecordsOptions) {
    this.options = options;
  }

  /** Arguments as they are recorded; null where there is nothing to take out of them. */
  async args(place: Place, args: JsonObject, signature: string): Promise<ShownArgs | null> {
    const { redactor, quarantine } = this.options;
    // The same arguments stand in both events of a call that has to be asked for.
    const proposed = redactor.payload(args, "/args", "tool.proposed");
    const both = proposed.value ? redactor.payload(proposed.value, "/args", "tool.requested") : proposed;
    const kept = await quarantine.keep(place, both);
    const mark = joined(both === proposed ? [kept.mark] : [proposed.mark, kept.mark]);
    if (!mark) return null;
    const { bytes, digest } = await quarantine.put(place, "/args", args);
    return {
      args: isObject(kept.value) ? kept.value : {},
      args_box: { bytes, digest },
      redaction: markJson(mark),
      signature,
    };
  }

  /** Arguments that were put away. Throws NOT_FOUND or ARTIFACT_CORRUPT. */
  async openArgs(place: Place, digest: string): Promise<JsonObject> {
    const value = await this.options.quarantine.get(place, digest);
    assert(isObject(value), "a box of arguments holds an object", { digest });
    return value;
  }

  /**
   * An outcome as it may be recorded. The call was made: where what came of it cannot be read or kept, its outcome is unknown,
   * and the run decides what follows, as it does when a worker is lost.
   */
  async outcome(result: JobResult): Promise<JobResult> {
    try {
      return await this.seen(result);
    } catch (error) {
      const message = `The call was made and its result could not be recorded: ${messageOf(error)}`;
      return { ...result, outcome: { ok: false, failure: { class: "unknown_outcome", code: "result_lost", message } } };
    }
  }

  private async seen(result: JobResult): Promise<JobResult> {
    const { outcome } = result;
    if (!outcome.ok) return { ...result, outcome: await this.failed(result, outcome) };
    return outcome.kind === "tool" ? { ...result, outcome: await this.completed(result, outcome) } : result;
  }

  /** The result of a call as it came, once; undefined where nothing was taken out of it, or it is not at hand any more. */
  take(attempt: Attempt): Json | undefined {
    const key = keyOf(attempt);
    const held = this.raw.get(key);
    if (held) this.drop(key, held.chars);
    return held?.result;
  }

  /** What other nodes own is theirs to answer. */
  forget(isGone: (run_id: string) => boolean): void {
    for (const [key, { chars }] of this.raw) if (isGone(key.split("/")[0] ?? "")) this.drop(key, chars);
  }

  private async completed(result: JobResult, outcome: Completed): Promise<JobOutcome> {
    const { redactor, quarantine } = this.options;
    const { result: short, result_box, result_ref, ...rest } = outcome;
    const text = result_box
      ? await this.unboxed(result.tenant_id, result_box)
      : result_ref && (await this.options.blobs.get(result.tenant_id, result_ref.digest)).toString("utf8");
    // A large result is looked at as what it was before it became text.
    const found = redactor.payload(text === undefined ? short : valueOf(text), "/result", "tool.completed");
    if (found.mark === null && !result_box) return outcome;
    const { mark, value } = await quarantine.keep(result, found);
    if (mark) this.hold(result, text ?? short);
    const recorded = mark ? { recorded: { redaction: markJson(mark) } } : {};
    return { ...rest, ...(await this.stored(result.tenant_id, value)), ...recorded };
  }

  private async failed(place: Place, outcome: Failed): Promise<JobOutcome> {
    const { redactor, quarantine } = this.options;
    const found = redactor.payload(outcome.failure.message, "/message", "tool.failed");
    if (found.mark === null) return outcome;
    const { mark, value } = await quarantine.keep(place, found);
    const message = typeof value === "string" ? value : "";
    const redaction = markJson(mark as RedactionMark);
    return { ...outcome, failure: { ...outcome.failure, message }, recorded: { ...outcome.recorded, redaction } };
  }

  private async unboxed(tenant_id: string, { digest, key }: ResultBox): Promise<string> {
    return unboxed(Buffer.from(key, "base64"), await this.options.blobs.get(tenant_id, digest)).toString("utf8");
  }

  private async stored(tenant_id: string, value: Json): Promise<Pick<Completed, "result" | "result_ref">> {
    const text = typeof value === "string" ? value : canonicalJson(value);
    const bytes = Buffer.byteLength(text);
    if (bytes <= LIMITS.inline_bytes_max) return { result: value };
    const digest = await this.options.blobs.put(tenant_id, Buffer.from(text));
    return { result: preview(text), result_ref: { bytes, digest } };
  }

  private hold(attempt: Attempt, result: Json): void {
    const chars = typeof result === "string" ? result.length : JSON.stringify(result).length;
    this.raw.set(keyOf(attempt), { result, chars });
    this.rawChars += chars;
    for (const [key, held] of this.raw) {
      if (this.rawChars <= LIMITS.raw_results_chars_max) return;
      this.drop(key, held.chars);
    }
  }

  private drop(key: string, chars: number): void {
    this.raw.delete(key);
    this.rawChars -= chars;
  }
}

/** What a worker wrote as text, where that is JSON in our canonical form. */
function valueOf(text: string): Json {
  if (!text.startsWith("{") && !text.startsWith("[")) return text;
  try {
    const value = parseJson(text, LIMITS.json_depth_max);
    return canonicalJson(value) === text ? value : text;
  } catch {
    return text;
  }
}
