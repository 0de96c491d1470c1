// Where the outcome of a call comes from in a replay or fork: a payload somebody gave, the recording, or the world.
// Invariants: a recorded outcome answers only a call whose signature, made from what the call says now, equals the recorded
// one; a call with effects is never made unless the operator, a policy rule and a person all said so; a call that cannot be
// answered stops the session and says where it differs. Nothing is made up, nothing is relabelled.
import type { Json, JsonObject } from "../kit/json.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Determinism, Lineage, Refusal, Simulation } from "../contract/replay.ts";
import { lastAnswer } from "./agent-fold.ts";
import type { Decision } from "./decide-context.ts";
import { differingPaths, signatureOf } from "./past-calls.ts";
import type { CallRequest, PastCall, PastOutcome } from "./past-calls.ts";
import type { Verdict } from "./policy.ts";
import type { RunState } from "./run-state.ts";

/** An outcome that did not come from the world, with its label. */
export interface Taken {
  readonly how: "take";
  readonly determinism: Determinism;
  readonly outcome: PastOutcome;
  readonly kind: CallRequest["kind"];
  /** Name without version. */
  readonly name: string;
}

export type Reuse =
  | Taken
  | { readonly how: "make" }
  | { readonly how: "stop"; readonly reason: Refusal; readonly message: string; readonly mismatch: JsonObject | null };

const nameOf = (target: string): string => target.slice(0, target.lastIndexOf("@"));

/** Decides where the outcome of a call comes from. */
export function reuseOf(
  decision: Decision,
  call: CallRequest,
  given: { tool: ToolDefinition | null; verdict: Verdict },
): Reuse {
  const { run } = decision;
  const { lineage, past } = run;
  if (!lineage) return { how: "make" };
  const step = run.step_count + 1;
  const name = nameOf(call.target);
  const taken = { how: "take" as const, kind: call.kind, name };
  const wanted = lineage.simulate.find((one) => fits(one, call.kind, name, step));
  if (wanted) {
    const outcome = simulated(call.kind, wanted.result as Json, wanted.is_error === true);
    return { ...taken, outcome, determinism: { mode: "simulated", reason: "simulation_operator_override" } };
  }
  const found = lineage.reuse === "matching" ? past?.take(signatureOf(call)) : null;
  if (found?.outcome) {
    const source = { run_id: past?.source_run_id ?? "", seq: found.seq };
    const determinism: Determinism = { mode: "cached", reason: "cache_hit_signature_match", source };
    return { ...taken, outcome: found.outcome, determinism };
  }
  const { simulate } = given.verdict;
  if (simulate !== undefined) {
    const outcome = simulated(call.kind, simulate, false);
    return { ...taken, outcome, determinism: { mode: "simulated", reason: "simulation_policy_fallback" } };
  }
  return unrecorded(lineage, call, past?.nearest(call, step) ?? null, given.tool);
}

function fits(one: Simulation, kind: "tool" | "model", name: string, step: number): boolean {
  return (one.step === undefined || one.step === step) && (kind === "tool" ? one.tool : one.model) === name;
}

function simulated(kind: "tool" | "model", result: Json, is_error: boolean): PastOutcome {
  if (kind === "tool") return { ok: true, data: is_error ? { is_error, result } : { result } };
  const content = typeof result === "string" ? result : JSON.stringify(result);
  return { ok: true, data: { content, finish_reason: "simulated", model: "simulated", tool_calls: [] } };
}

function unrecorded(lineage: Lineage, call: CallRequest, nearest: PastCall | null, tool: ToolDefinition | null): Reuse {
  const name = nameOf(call.target);
  const writes = tool !== null && tool.effect_class !== "read";
  if (lineage.otherwise === "live" && (!writes || lineage.live_writes)) return { how: "make" };
  const reason = lineage.otherwise === "live" ? "write_not_permitted" : "signature_mismatch";
  const message =
    reason === "write_not_permitted"
      ? `${name} has effects and nothing was recorded for this call; give a payload (simulate), or allow live_writes`
      : `Nothing was recorded for this call of ${name}`;
  return { how: "stop", reason, message, mismatch: nearest ? mismatchOf(call, nearest) : null };
}

/** Where a call differs from the recorded one that is most like it. */
function mismatchOf(call: CallRequest, recorded: PastCall): JsonObject {
  const now: JsonObject = { kind: call.kind, path: call.path, request: call.request, target: call.target };
  const then: JsonObject = {
    kind: recorded.kind,
    path: recorded.path,
    request: recorded.request,
    target: recorded.target,
  };
  const paths = differingPaths(then, now);
  const first = paths[0] ?? "";
  return {
    paths,
    produced: shortened(at(now, first)),
    recorded: shortened(at(then, first)),
    source_seq: recorded.seq,
    source_step: recorded.step,
  };
}

function at(value: Json, pointer: string): Json {
  let found: Json | undefined = value;
  for (const part of pointer.split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    found = (found as Record<string, Json> | null | undefined)?.[key];
  }
  return found ?? null;
}

const SHOWN_CHARS = 500;

function shortened(value: Json): Json {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length <= SHOWN_CHARS ? value : `${text.slice(0, SHOWN_CHARS)}…`;
}

/** A call with effects in a replay or fork: a rule must permit it by name of `replay_live`, and a person is always asked. */
export function permitsLive(run: RunState, tool: ToolDefinition, verdict: Verdict): Verdict {
  if (!run.lineage || tool.effect_class === "read") return verdict;
  if (!verdict.replay_live) return { ...verdict, effect: "deny", reason: "write_not_permitted" };
  return { ...verdict, effect: "require_approval", reason: "replay_live" };
}

/** Ends the session: what it needs was not recorded. */
export function stopReplay(decision: Decision, n: number, stop: Extract<Reuse, { how: "stop" }>): "stopped" {
  const { reason, message, mismatch } = stop;
  decision.push({ type: "replay.mismatched", data: { reason, step: n, ...mismatch } });
  decision.stop("failed", reason, `Step ${n}: ${message}`, LIMITS.stop_grace_ms * 1000);
  return "stopped";
}

/** Ends a step that was just requested with an outcome that is known already. */
export function takeOver(decision: Decision, n: number, taken: Taken): void {
  const step = decision.run.steps.get(n);
  const call = step?.call === undefined ? {} : { call: step.call };
  const determinism: JsonObject = { ...taken.determinism };
  decision.reused += 1;
  const { outcome, kind } = taken;
  if (!outcome.ok) {
    const { code, message } = outcome;
    decision.push({ type: `${kind}.failed`, step: n, data: { class: "permanent", code, determinism, message } });
    decision.push({ type: "step.ended", step: n, data: { code, message } });
    // Without its model an agent cannot go on; the recorded run ended here too.
    if (kind === "model" && decision.run.program?.kind === "agent") decision.stop("failed", code, message, 0);
    return;
  }
  // Nothing is paid a second time, and it took no time: what it cost stands in the source.
  const { cost_micro_usd: _cost, duration_ms: _ms, usage: _usage, determinism: _label, ...rest } = outcome.data;
  decision.push({ type: `${kind}.completed`, step: n, ...call, data: { ...rest, determinism } });
}

/** Calls that were in flight where a fork begins end as they did in the source. */
export function takeOpenCalls(decision: Decision): void {
  const { run } = decision;
  if (run.past === null || run.seq !== 1) return;
  for (const step of run.steps.values()) {
    if (step.status !== "running" || step.kind === "wait") continue;
    const call = run.past.at(step.n);
    if (!call?.outcome) continue;
    const source = { run_id: run.past.source_run_id, seq: call.seq };
    const determinism: Determinism = { mode: "exact", reason: "source_output_reused", source };
    takeOver(decision, step.n, {
      how: "take",
      kind: step.kind,
      name: nameOf(step.target),
      outcome: call.outcome,
      determinism,
    });
  }
}

/** A conversation goes on with what people said in the source, in the same order. */
export function takeRecordedInput(decision: Decision): void {
  const { run } = decision;
  const input = run.lineage?.reuse === "matching" ? run.past?.nextInput() : null;
  if (!input || run.program?.kind !== "agent") return;
  const source = { run_id: run.past?.source_run_id ?? "", seq: input.seq };
  const determinism: JsonObject = { mode: "cached", reason: "source_output_reused", source };
  decision.reused += 1;
  decision.push({
    type: "human.input",
    actor: { id: input.by, kind: "user" },
    data: { content: input.content, determinism },
  });
  if (input.final) decision.push({ type: "run.succeeded", data: { output: lastAnswer(run.program) } });
}
