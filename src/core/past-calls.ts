// What a recorded run called, and what came of it: read from its events by folding them again, so each request is exactly the
// one that was made. Calls are found by signature, the n-th of equal ones by the n-th; calls of different workflow nodes
// never answer for each other.
import { digestOf } from "../kit/hash.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Catalog } from "../contract/catalog.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { Message, ToolDefinition } from "../contract/jobs.ts";
import { fold } from "./fold.ts";
import { modelMessages } from "./model-input.ts";
import type { RunState, StepState } from "./run-state.ts";

/** A call as it is about to be made, in the form that its signature is of. */
export interface CallRequest {
  readonly kind: "tool" | "model";
  /** name@version. */
  readonly target: string;
  /** Where in the program: `node/3` of a workflow; a conversation has one place. */
  readonly path: string;
  readonly request: JsonObject;
}

export type PastOutcome =
  | { readonly ok: true; readonly data: JsonObject }
  | { readonly ok: false; readonly code: string; readonly message: string };

export interface PastCall extends CallRequest {
  readonly step: number;
  readonly signature: string;
  /** seq of the outcome's event; 0 when none was recorded. */
  readonly seq: number;
  readonly outcome: PastOutcome | null;
}

/** Digest of what was called with what, and where: kind, target, place, canonical request (event-schema section 6). */
export function signatureOf(call: CallRequest): string {
  const { kind, target, path, request } = call;
  return digestOf(canonicalJson({ kind, path, request, target }));
}

export function toolRequest(target: string, path: string, args: JsonObject): CallRequest {
  return { kind: "tool", target, path, request: args };
}

export function modelRequest(given: {
  target: string;
  path: string;
  messages: readonly Message[];
  tools: readonly ToolDefinition[];
  max_output_tokens: number;
  params: JsonObject;
}): CallRequest {
  const { target, path, max_output_tokens, params } = given;
  const messages = given.messages.map((message) => ({ ...message })) as unknown as Json;
  const tools = given.tools.map(({ name, digest }) => ({ digest, name }));
  return { kind: "model", target, path, request: { max_output_tokens, messages, params, tools } };
}

/** Where a step stands in its program. */
export function pathOf(run: RunState, slot: number): string {
  return run.program?.kind === "workflow" ? `node/${slot}` : "";
}

/** The request of an open step. */
export function requestOf(run: RunState, step: StepState, catalog: Catalog): CallRequest {
  const path = pathOf(run, step.slot);
  if (step.kind === "tool") return toolRequest(step.target, path, step.args);
  const spec = run.program?.kind === "agent" ? run.program.spec : null;
  return modelRequest({
    target: step.target,
    path,
    messages: modelMessages(run, step.slot),
    tools: spec ? catalog.toolsMatching(spec.tools, spec.capabilities) : [],
    max_output_tokens: step.max_output_tokens,
    params: { ...spec?.params },
  });
}

/** Something a person said in a conversation. */
export interface PastInput {
  readonly seq: number;
  readonly content: Json;
  readonly by: string;
  /** Nothing followed: the run ended. */
  readonly final: boolean;
}

/** Follows a run's events and collects its calls. */
export class CallCollector {
  readonly calls: PastCall[] = [];
  readonly inputs: PastInput[] = [];
  private readonly open = new Map<
    number,
    { request: CallRequest; failure: { code: string; message: string } | null }
  >();
  private readonly run: RunState;

  constructor(run: RunState) {
    this.run = run;
  }

  /** Folds the event into the run and notes the call that it begins or ends. */
  take(event: StoredEvent, catalog: Catalog): void {
    const { run } = this;
    fold(run, event, event.at, catalog);
    const n = event.step ?? 0;
    const data: Record<string, Json | undefined> = event.data;
    const last = this.inputs.at(-1);
    // The end that comes right after an input was asked for with it.
    if (last && event.type === "run.succeeded" && event.seq === last.seq + 1)
      this.inputs[this.inputs.length - 1] = { ...last, final: true };
    switch (event.type) {
      case "human.input":
        this.inputs.push({
          seq: event.seq,
          content: data["content"] ?? null,
          by: event.actor?.id ?? "user",
          final: false,
        });
        return;
      case "tool.requested":
      case "model.requested": {
        const step = run.steps.get(n);
        if (step) this.open.set(n, { request: requestOf(run, step, catalog), failure: null });
        return;
      }
      case "tool.completed":
      case "model.completed":
        return this.close(n, event.seq, { ok: true, data: event.data });
      case "tool.failed":
      case "model.failed": {
        const call = this.open.get(n);
        if (call) call.failure = { code: String(data["code"]), message: String(data["message"]) };
        return;
      }
      case "step.resolved":
        if (data["resolution"] === "completed")
          this.close(n, event.seq, { ok: true, data: { result: data["result"] ?? null } });
        return;
      case "step.ended":
        return this.close(n, event.seq, { ok: false, code: String(data["code"]), message: String(data["message"]) });
      default:
        return;
    }
  }

  private close(step: number, seq: number, outcome: PastOutcome): void {
    const call = this.open.get(step);
    this.open.delete(step);
    if (call) this.calls.push({ ...call.request, step, signature: signatureOf(call.request), seq, outcome });
  }

  /** Calls without an outcome come last: the run ended, or goes on, without it. */
  done(): PastCall[] {
    for (const [step, { request }] of this.open)
      this.calls.push({ ...request, step, signature: signatureOf(request), seq: 0, outcome: null });
    this.open.clear();
    return this.calls.sort((a, b) => a.step - b.step);
  }
}

/** The calls of a source that a replay or fork may take outcomes from. */
export class PastCalls {
  readonly source_run_id: string;
  private readonly bySignature = new Map<string, PastCall[]>();
  private readonly byStep = new Map<number, PastCall>();
  private readonly used = new Map<string, number>();
  private readonly inputs: PastInput[];

  /** Only calls from `step` on, and inputs after `seq`: what was before is the run's own past. */
  constructor(
    source_run_id: string,
    recorded: { calls: readonly PastCall[]; inputs: readonly PastInput[] },
    from: { step: number; seq: number },
  ) {
    const { calls } = recorded;
    const { step } = from;
    this.source_run_id = source_run_id;
    this.inputs = recorded.inputs.filter((input) => input.seq > from.seq);
    for (const call of calls) {
      this.byStep.set(call.step, call);
      if (call.step < step || call.outcome === null) continue;
      const same = this.bySignature.get(call.signature);
      if (same) same.push(call);
      else this.bySignature.set(call.signature, [call]);
    }
  }

  /** The recorded call with this signature that was not taken yet, in recorded order. */
  take(signature: string): PastCall | null {
    const n = this.used.get(signature) ?? 0;
    const found = this.bySignature.get(signature)?.[n];
    if (!found) return null;
    this.used.set(signature, n + 1);
    return found;
  }

  /** What a person said next, each once. */
  nextInput(): PastInput | null {
    return this.inputs.shift() ?? null;
  }

  /** Calls that ended at or before an event of the source. */
  until(seq: number): PastCall[] {
    return [...this.byStep.values()].filter((call) => call.seq > 0 && call.seq <= seq);
  }

  /** The call of a step of the source. */
  at(step: number): PastCall | null {
    return this.byStep.get(step) ?? null;
  }

  /** The recorded call that is most like one that was not found: the same place and target, else the same kind. */
  nearest(call: CallRequest, step: number): PastCall | null {
    const here = this.byStep.get(step);
    if (here && here.kind === call.kind) return here;
    for (const other of this.byStep.values())
      if (other.step >= step && other.target === call.target && other.path === call.path) return other;
    return here ?? null;
  }
}

/** JSON pointers at which two values differ, at most `max` of them. Arrays are compared by index. */
export function differingPaths(a: Json | undefined, b: Json | undefined, max = 5): string[] {
  const paths: string[] = [];
  const walk = (x: Json | undefined, y: Json | undefined, at: string): void => {
    if (paths.length >= max || x === y) return;
    const bothObjects = typeof x === "object" && typeof y === "object" && x !== null && y !== null;
    if (!bothObjects || Array.isArray(x) !== Array.isArray(y)) {
      paths.push(at);
      return;
    }
    const keys = new Set([...Object.keys(x), ...Object.keys(y)]);
    for (const key of keys) {
      const name = key.replaceAll("~", "~0").replaceAll("/", "~1");
      walk((x as JsonObject)[key], (y as JsonObject)[key], `${at}/${name}`);
    }
  };
  walk(a, b, "");
  return paths;
}
