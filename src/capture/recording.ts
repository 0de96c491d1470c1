// What a captured run's journal says of the calls that were made in it, as far as they can be made and answered again.
import { canonicalJson } from "../kit/jcs.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { EventDraft, StoredEvent } from "../contract/events.ts";
import { isToolEnd } from "../core/foreign.ts";

/** A recorded call of a captured run, with what answers it. */
export interface RecordedCall {
  readonly step: number;
  readonly seq: number;
  readonly begun_seq: number;
  /** When it ended. */
  readonly at_us: number;
  readonly signature: string;
  readonly requested: JsonObject;
  /** How it ended, and with what. */
  readonly ended: EventDraft["type"];
  readonly completed: JsonObject;
}

const BEGINS: readonly string[] = [
  "model.proposed",
  "model.requested",
  "tool.proposed",
  "tool.requested",
  "retrieval.requested",
];

export type CallKind = "model" | "tool" | "retrieval";

/** What makes two calls of a tool or retriever the same call. */
export function identityOf(kind: string, data: JsonObject): { tool: string; args: JsonObject } {
  if (kind !== "retrieval") return { tool: nameOf(data["tool"] ?? ""), args: (data["args"] ?? {}) as JsonObject };
  const { retriever, query, top_k, filters } = data;
  return {
    tool: `retrieval:${String(retriever)}`,
    args: { filters: filters ?? null, query: query ?? null, top_k: top_k ?? null },
  };
}

/** The signature of a recorded call of a tool or retriever. Where something was taken out of it, it was made before that. */
export function toolSignatureOf(
  kind: string,
  data: JsonObject,
  sign: (call: { tool: string; args: JsonObject }) => string,
): string {
  const { redaction, signature } = data;
  return isObject(redaction) && typeof signature === "string" ? signature : sign(identityOf(kind, data));
}

/** True for what ends a call with an answer that can be given again. */
function isAnswer(kind: string, event: StoredEvent): boolean {
  if (kind === "tool") return isToolEnd(event.type) || (event.type === "tool.failed" && event.origin !== undefined);
  if (kind === "retrieval") return event.type === "retrieval.completed" || event.type === "retrieval.failed";
  // One of ours without a status was cut off by a crash; those that others observed were seen to their end.
  if (event.type === "model.failed") return typeof event.data["status"] === "number" || event.origin !== undefined;
  // Where a fallback was denied, its client saw how the model before it had failed.
  if (event.type === "model.denied") return event.data["fallback_of"] === undefined;
  return event.type === "model.completed";
}

/** Name of a tool without its version. */
export function nameOf(target: Json): string {
  return String(target).replace(/@\d+$/, "");
}

/** Fidelities with calls that a process made and can make again. */
const CALLED: readonly string[] = ["wire", "events"];

/** Calls that were answered, in the order in which they were made. Imports have none: nobody could make theirs again. */
export function recordedCalls(
  events: readonly StoredEvent[],
  toolSignature: (call: { tool: string; args: JsonObject }) => string,
): RecordedCall[] {
  if (!CALLED.includes(String(events[0]?.data["fidelity"]))) return [];
  const begun = new Map<number, StoredEvent>();
  const calls: RecordedCall[] = [];
  // Where another model was asked then, the client has never seen that the first one failed.
  const passedOver = new Set(
    events
      .filter((event) => BEGINS.includes(event.type))
      .map(({ data }) => isObject(data["fallback_of"]) && data["fallback_of"]["step"]),
  );
  for (const event of events) {
    const step = event.step ?? 0;
    // What was approved is asked for again, with all that it says.
    if (event.type === "model.requested" || (BEGINS.includes(event.type) && !begun.has(step))) begun.set(step, event);
    const request = begun.get(step) ?? (event.type === "model.denied" ? event : undefined);
    const kind = request?.type.slice(0, request.type.indexOf(".")) ?? "";
    if (!request || !isAnswer(kind, event)) continue;
    begun.delete(step);
    if (event.type === "model.failed" && passedOver.has(step)) continue;
    const data = request.type === "model.proposed" ? ((request.data["args"] ?? {}) as JsonObject) : request.data;
    const signature = kind === "model" ? data["signature"] : toolSignatureOf(kind, data, toolSignature);
    if (typeof signature !== "string") continue;
    const { type: ended, seq, at: at_us, data: completed } = event;
    calls.push({ step, seq, begun_seq: request.seq, at_us, signature, requested: data, ended, completed });
  }
  return calls.sort((a, b) => a.begun_seq - b.begun_seq);
}

/** The end of a replayed call. What was in doubt then is no doubt of the replay's own: nothing was called. */
export function replayedEnd({ ended }: RecordedCall, data: JsonObject): { type: EventDraft["type"]; data: JsonObject } {
  if (ended !== "step.in_doubt") return { type: ended, data };
  return { type: "step.ended", data: { ...data, code: "in_doubt" } };
}

/** Equal calls that overlapped in time and were answered differently. */
export function isAmbiguous(same: readonly RecordedCall[]): boolean {
  return same.some((call, i) => {
    const next = same[i + 1];
    if (!next || next.begun_seq > call.seq) return false;
    const said = ({ ended, completed }: RecordedCall) =>
      canonicalJson([
        ended,
        completed["content"] ?? completed["result"] ?? completed["documents"] ?? null,
        completed["tool_calls"] ?? [],
        completed["status"] ?? null,
        completed["code"] ?? null,
      ]);
    return said(call) !== said(next);
  });
}
