// Captured runs while they are open: which run a foreign call belongs to, and, for a process that is run again, what answers
// its calls. A replayed call is answered by the recorded one with the same signature, in recorded order; what cannot be told
// apart, or was never recorded, ends the replay and says where it differs.
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import { Serial } from "../kit/serial.ts";
import { hmacHex } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { AppError, isAppError } from "../contract/errors.ts";
import type { EventDraft, TerminalState } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import { newId } from "../contract/ids.ts";
import type { JobResult } from "../contract/jobs.ts";
import type { JournalStore, RunSummary } from "../contract/journal.ts";
import type { BlobStore } from "../contract/ports.ts";
import { LIMITS } from "../contract/limits.ts";
import type { ReplayedCall, StartCapture } from "../contract/proxy.ts";
import { canonicalRequest } from "../contract/wire/wire.ts";
import { NOT_RECORDED } from "../contract/recorded.ts";
import { EXACT } from "../contract/replay.ts";
import type { Lineage } from "../contract/replay.ts";
import { decodeBody } from "../core/chain.ts";
import type { Command } from "../core/decide.ts";
import type { RunState } from "../core/run-state.ts";
import type { ForeignCommand } from "../core/foreign.ts";
import { differingPaths } from "../core/past-calls.ts";
import { isUnseen, privacyRisk } from "../core/privacy.ts";
import { readWholeRun } from "../journal/audit.ts";
import { chainAt } from "../journal/past.ts";
import { restored } from "./quarantine.ts";
import type { OpenedPayload, Place, Quarantine } from "./quarantine.ts";
import type { Keep, Redactor } from "./redact.ts";
import { identityOf, isAmbiguous, nameOf, recordedCalls, replayedEnd } from "./recording.ts";
import type { CallKind, RecordedCall } from "./recording.ts";

export interface CaptureCaller {
  readonly tenant_id: string;
  readonly project: string;
  readonly principal: string;
}

/** What owns the runs, as far as captures need it. */
export interface CaptureOwner {
  start(run: { tenant_id: string; run_id: string; command: Extract<Command, { type: "start" }> }): Promise<RunSummary>;
  decided(tenant_id: string, run_id: string, command: Command): Promise<readonly EventDraft[]>;
  result(result: JobResult): Promise<void>;
  peek(run_id: string): RunSummary | null;
  /** The folded state of an open run; not to be changed. */
  stateOf(run_id: string): Readonly<RunState> | null;
}

export interface CapturesOptions {
  readonly owner: () => CaptureOwner;
  readonly store: JournalStore;
  readonly tenantKey: (tenant_id: string) => Uint8Array;
  readonly clock: Clock;
  readonly random: Random;
  readonly blobs: Pick<BlobStore, "get">;
  readonly quarantine: Quarantine;
  readonly redactor: Redactor;
  /** An id for a run that is to begin in this process; one that its source has a name for is placed by that. */
  readonly newRunId: (external_id?: string) => string;
  readonly find: (caller: CaptureCaller, run_id: string) => Promise<RunSummary | null>;
  /** For each of these names, the newest run that its source calls so, where there is one. */
  readonly external: (caller: CaptureCaller, external_ids: readonly string[]) => Promise<readonly RunSummary[]>;
}

interface Replay {
  readonly source_run_id: string;
  /** Its calls were made elsewhere, and told of. */
  readonly observed: boolean;
  readonly calls: readonly RecordedCall[];
  readonly bySignature: ReadonlyMap<string, readonly RecordedCall[]>;
  readonly used: Map<string, number>;
  /** How far it is, in the time of the recording. */
  at_us: number;
}

const SESSIONS_MAX = 10_000;
const AMBIGUOUS =
  "Calls with this signature were in flight together and got different answers; which is which cannot be told";
const TORN =
  "The recorded answer held a secret in pieces and was not kept, or nobody could look at it and it is not here; it cannot be given again";

/** What a session of calls without a run is known by. */
export function sessionName(
  principal: string,
  given: { agent?: string | undefined; session?: string | undefined },
): string {
  return `session:${principal}/${given.agent ?? ""}/${given.session ?? ""}`;
}

export class Captures {
  private readonly options: CapturesOptions;
  private readonly serial = new Serial();
  private readonly sessions = new Map<string, string>();
  private readonly replays = new Map<string, Replay>();

  constructor(options: CapturesOptions) {
    this.options = options;
  }

  /** Digest of a call that says nothing of its content to who has no key: API, model and canonical request. */
  signature(tenant_id: string, call: { api: string; model: string; request: Json }): string {
    const key = this.options.tenantKey(tenant_id);
    return hmacHex(key, `call\n${canonicalJson({ ...call, kind: "model" })}`);
  }

  /** The same of a tool call. */
  toolSignature(tenant_id: string, call: { tool: string; args: JsonObject }): string {
    const key = this.options.tenantKey(tenant_id);
    return hmacHex(key, `call\n${canonicalJson({ ...call, kind: "tool" })}`);
  }

  /** Starts a captured run, or one that answers a process from another one's recording. */
  async start(caller: CaptureCaller, request: StartCapture, session?: string): Promise<RunSummary> {
    const replay = request.replay_of === undefined ? null : await this.recording(caller, request.replay_of);
    const run_id = this.options.newRunId(session);
    const agent = request.agent ?? "captured";
    const data: JsonObject = {
      env: request.env ?? replay?.source.env ?? "dev",
      ...(session === undefined ? {} : { external_id: this.options.redactor.name(session) }),
      fidelity: "wire",
      kind: replay ? "replay" : "captured",
      ...(request.labels ? { labels: { ...request.labels } } : {}),
      ...(replay ? { lineage: replay.lineage as unknown as JsonObject } : {}),
      project: caller.project,
      requester: caller.principal,
      target: { kind: "captured", name: agent, version: 1 },
    };
    if (replay) this.replays.set(run_id, replay.replay);
    const { quarantine, redactor } = this.options;
    const keep: Keep = (payload) => quarantine.keep({ tenant_id: caller.tenant_id, run_id }, payload);
    const command = { type: "start" as const, data: await redactor.data(data, "run.started", keep) };
    return this.options.owner().start({ tenant_id: caller.tenant_id, run_id, command });
  }

  /** The run that a call belongs to: the one it names, or the open one of its session. */
  async runFor(caller: CaptureCaller, given: { run_id?: string; agent?: string; session?: string }): Promise<string> {
    if (given.run_id !== undefined) {
      const run = await this.options.find(caller, given.run_id);
      if (!run) throw new AppError("NOT_FOUND", `There is no run ${given.run_id}`);
      if (isTerminal(run.state)) throw new AppError("RUN_TERMINAL", `Run ${given.run_id} is ${run.state}`);
      // A replay must not become a live run, also when this process has not begun it.
      if (run.kind !== "captured" && !(await this.takesUp(caller, run))) {
        throw new AppError("REPLAY_REFUSED", `Run ${given.run_id} (${run.kind}) takes no calls of a process`, {
          details: { reason: "override_not_applicable" },
        });
      }
      return given.run_id;
    }
    const { tenant_id, principal } = caller;
    const session = sessionName(principal, given);
    return this.serial.run(`${tenant_id}/${session}`, () => this.sessionRun(caller, given, session));
  }

  /** The open run of a session, also of one that began before this process; else a new one. */
  private async sessionRun(
    caller: CaptureCaller,
    given: { agent?: string; session?: string },
    session: string,
  ): Promise<string> {
    const key = `${caller.tenant_id}/${session}`;
    const recorded = () => this.options.external(caller, [this.options.redactor.name(session)]);
    const known = this.sessions.get(key) ?? (await recorded())[0]?.run_id;
    const open = known === undefined ? null : this.options.owner().peek(known);
    const goesOn = open && !isTerminal(open.state) && open.steps < LIMITS.steps_per_run_max;
    const labels = given.session === undefined ? {} : { labels: { session: given.session } };
    const run_id =
      known !== undefined && goesOn
        ? known
        : (await this.start(caller, { agent: given.agent ?? "captured", ...labels }, session)).run_id;
    if (this.sessions.size >= SESSIONS_MAX) this.sessions.clear();
    this.sessions.set(key, run_id);
    return run_id;
  }

  /** Goes on with the replay of a process that another server process began: its journal says which calls were answered. */
  private takesUp(caller: CaptureCaller, { run_id, kind, source_run_id }: RunSummary): Promise<boolean> {
    return this.serial.run(`replay/${run_id}`, async () => {
      if (this.replays.has(run_id)) return true;
      if (kind !== "replay" || source_run_id === null) return false;
      const rows = await readWholeRun(this.options.store, caller.tenant_id, run_id);
      const events = rows.flatMap((row) => decodeBody(row.body));
      if ((events[0]?.data["target"] as JsonObject | undefined)?.["kind"] !== "captured") return false;
      const { replay } = await this.recording(caller, source_run_id);
      const bySeq = new Map(replay.calls.map((call) => [call.seq, call]));
      for (const { type, data } of events) {
        const source = (data["determinism"] as JsonObject | undefined)?.["source"];
        const call = type.endsWith(".requested") && isObject(source) ? bySeq.get(Number(source["seq"])) : undefined;
        if (call) take(replay, call);
      }
      this.replays.set(run_id, replay);
      return true;
    });
  }

  /** These runs are another node's: what is known of them here does not hold any more. */
  forget(isGone: (run_id: string) => boolean): void {
    for (const [key, run_id] of this.sessions) if (isGone(run_id)) this.sessions.delete(key);
    for (const run_id of this.replays.keys()) if (isGone(run_id)) this.replays.delete(run_id);
  }

  isReplay(run_id: string): boolean {
    return this.replays.has(run_id);
  }

  /** How far a replay is, in the time of its recording; null for a run that is none. */
  async momentOf(caller: CaptureCaller, run_id: string): Promise<number | null> {
    const run = this.options.owner().peek(run_id);
    if (run?.kind === "replay" && !isTerminal(run.state)) await this.takesUp(caller, run);
    return this.replays.get(run_id)?.at_us ?? null;
  }

  /** Takes the recorded answer of a call, and records that it was given. Throws REPLAY_REFUSED where there is none. */
  async replayed(
    caller: CaptureCaller,
    run_id: string,
    call: { id: string; kind: CallKind; signatures: readonly string[]; requested: JsonObject },
  ): Promise<RecordedCall> {
    const replay = this.replays.get(run_id);
    if (!replay) throw new AppError("NOT_FOUND", `Run ${run_id} answers from no recording`);
    const signature = call.signatures.find((one) => replay.bySignature.has(one)) ?? "";
    const same = replay.bySignature.get(signature) ?? [];
    const n = replay.used.get(signature) ?? 0;
    const found = same[n];
    if (!found) return this.unrecorded(caller, run_id, replay, call.requested);
    const at = { paths: [], source_seq: found.seq, source_step: found.step };
    if (isAmbiguous(same)) return this.stop(caller, run_id, "ambiguous_signature", AMBIGUOUS, at);
    // Before anything is waited for: the same may be asked for meanwhile.
    take(replay, found);
    const opened = await this.opened(caller, replay, found);
    if (opened === null) return this.stop(caller, run_id, "privacy_risk", TORN, at);
    const source = { run_id: replay.source_run_id, seq: found.seq };
    const determinism = { mode: "exact", reason: "source_output_reused", source };
    const { cost_micro_usd: _cost, duration_ms: _ms, usage: _usage, ...rest } = found.completed;
    const { quarantine } = this.options;
    const { tenant_id } = caller;
    // The replay has no more in plain sight than its source, and keeps what it needs to be replayed itself.
    if (opened.length > 0)
      rest["redaction"] = await quarantine.putAway({ tenant_id, run_id }, rest["redaction"], opened);
    const target = call.kind === "retrieval" ? {} : { [call.kind]: found.requested[call.kind] ?? "" };
    // What was observed elsewhere is so again: nothing here made the call.
    const observed = replay.observed ? { origin: {} } : {};
    const command: ForeignCommand = {
      type: "replayed",
      call: call.id,
      // What was denied was never asked for.
      requested:
        found.ended === "model.denied"
          ? null
          : { type: `${call.kind}.requested`, data: { ...call.requested, ...target, determinism }, ...observed },
      ended: { ...replayedEnd(found, { ...rest, determinism }), ...observed },
    };
    await this.options.owner().decided(caller.tenant_id, run_id, command);
    return opened.length === 0 ? found : { ...found, completed: restored(found.completed, opened) };
  }

  /** What of an answer had been put away unseen; null where the answer is not whole even with that. */
  private async opened(
    { tenant_id }: CaptureCaller,
    { source_run_id }: Replay,
    { completed }: RecordedCall,
  ): Promise<readonly OpenedPayload[] | null> {
    const place = { tenant_id, run_id: source_run_id };
    // What came from another server is not here.
    const opened = await this.options.quarantine.open(place, completed["redaction"]).catch((error: unknown) => {
      if (isAppError(error, "NOT_FOUND")) return [];
      throw error;
    });
    const { raw, raw_ref, raw_withheld } = restored(completed, opened);
    const isSeen = !isUnseen(completed) || opened.length > 0 || raw !== undefined || raw_ref !== undefined;
    return isSeen && (raw_withheld !== true || typeof raw === "string") ? opened : null;
  }

  /** Answers a call that the SDK of a replayed program asks for. */
  async answer(
    caller: CaptureCaller,
    run_id: string,
    call: ReplayedCall,
  ): Promise<{ ended: string; data: JsonObject }> {
    await this.runFor(caller, { run_id });
    if (call.optional && !this.hasTool(run_id, call.tool)) return { ended: NOT_RECORDED, data: {} };
    const id = newId("event", this.options).replace("evt_", "call_");
    const asked = await this.asked({ tenant_id: caller.tenant_id, run_id }, call);
    const found = await this.replayed(caller, run_id, { id, kind: call.kind, ...asked });
    return { ended: found.ended, data: await this.whole(caller.tenant_id, found.completed) };
  }

  /** A recording from before this was captured has none of it. */
  private hasTool(run_id: string, tool: string | undefined): boolean {
    return this.replays.get(run_id)?.calls.some(({ requested }) => requested["tool"] === tool) === true;
  }

  /** A call as it may be recorded, and what the recording may know it by: as it was asked for, or with what is recorded of it. */
  private async asked(place: Place, call: ReplayedCall): Promise<{ signatures: string[]; requested: JsonObject }> {
    const { redactor, quarantine } = this.options;
    const { kind } = call;
    const given = callData(call);
    const clean = await redactor.data(given, `${kind}.requested`, (payload) => quarantine.keep(place, payload));
    const signed = (data: JsonObject): string => {
      if (kind !== "model") return this.toolSignature(place.tenant_id, identityOf(kind, data));
      const { api, model, request } = data;
      const said = { api: String(api), model: String(model), request: canonicalRequest(request ?? null) };
      return this.signature(place.tenant_id, said);
    };
    const signature = signed(given);
    const isSame = clean === given;
    return {
      signatures: isSame ? [signature] : [signature, signed(clean)],
      requested: kind === "model" || !isSame ? { ...clean, signature } : clean,
    };
  }

  /** Data with its payloads, wherever they are kept. */
  private async whole(tenant_id: string, data: JsonObject): Promise<JsonObject> {
    const out: JsonObject = { ...data };
    for (const [key, value] of Object.entries(data)) {
      if (!key.endsWith("_ref") || !isObject(value) || typeof value["digest"] !== "string") continue;
      const text = (await this.options.blobs.get(tenant_id, value["digest"])).toString("utf8");
      out[key.slice(0, -"_ref".length)] = value["json"] === true ? (JSON.parse(text) as Json) : text;
    }
    return out;
  }

  /** What a recorded request said, wherever it is kept. */
  private async requestOf(tenant_id: string, requested: JsonObject): Promise<Json> {
    if (requested["tool"] !== undefined) return { args: requested["args"] ?? {}, tool: nameOf(requested["tool"]) };
    const ref = requested["request_ref"];
    if (!isObject(ref)) return requested["request"] ?? null;
    return parseJson((await this.options.blobs.get(tenant_id, String(ref["digest"]))).toString("utf8"));
  }

  private async unrecorded(
    caller: CaptureCaller,
    run_id: string,
    replay: Replay,
    requested: JsonObject,
  ): Promise<never> {
    const next = replay.calls.find((call) => (replay.used.get(call.signature) ?? 0) === 0);
    const { tenant_id } = caller;
    const paths = next
      ? differingPaths(await this.requestOf(tenant_id, next.requested), await this.requestOf(tenant_id, requested))
      : [];
    const message = next
      ? `The process asks otherwise than it did (${paths.join(", ") || "it asks again"}); the recorded call is step ${next.step} of ${replay.source_run_id}`
      : `The process makes more calls than were recorded in ${replay.source_run_id}`;
    return this.stop(caller, run_id, "signature_mismatch", message, {
      paths,
      ...(next ? { source_seq: next.seq, source_step: next.step } : {}),
    });
  }

  private async stop(
    caller: CaptureCaller,
    run_id: string,
    reason: string,
    message: string,
    detail: JsonObject,
  ): Promise<never> {
    const step = (this.options.owner().peek(run_id)?.steps ?? 0) + 1;
    const mismatch = { ...detail, reason, step };
    const command: ForeignCommand = {
      type: "end",
      state: "failed",
      code: reason,
      message: `Step ${step}: ${message}`,
      mismatch,
    };
    await this.options.owner().decided(caller.tenant_id, run_id, command);
    this.replays.delete(run_id);
    throw new AppError("REPLAY_REFUSED", message, { details: { reason, ...detail } });
  }

  /** Ends a run that somebody captured. A replay that did not make every recorded call has gone another way. */
  async end(caller: CaptureCaller, run_id: string, exit_code: number): Promise<RunSummary> {
    const run = await this.options.find(caller, run_id);
    if (!run) throw new AppError("NOT_FOUND", `There is no run ${run_id}`);
    if (isTerminal(run.state)) return run;
    if (run.kind === "replay") await this.takesUp(caller, run);
    const replay = this.replays.get(run_id);
    const made = [...(replay?.used.values() ?? [])].reduce((sum, n) => sum + n, 0);
    const state: TerminalState = exit_code === 0 ? "succeeded" : "failed";
    const missing = replay && made < replay.calls.length ? replay.calls.length - made : 0;
    const command: ForeignCommand =
      missing > 0
        ? {
            type: "end",
            state: "failed",
            code: "signature_mismatch",
            message: `${missing} recorded calls were not made`,
            mismatch: { paths: [], reason: "signature_mismatch", step: made + 1 },
          }
        : {
            type: "end",
            state,
            code: exit_code === 0 ? "" : "exit_code",
            message: `The process ended with ${exit_code}`,
          };
    await this.options.owner().decided(caller.tenant_id, run_id, command);
    this.replays.delete(run_id);
    return (await this.options.find(caller, run_id)) ?? run;
  }

  /**
   * Signatures are made with the tenant's key: those of a run that came from another server say nothing here. They are made
   * again of the requests, as far as those are on record as they came.
   */
  private async signedHere(tenant_id: string, calls: readonly RecordedCall[]): Promise<readonly RecordedCall[]> {
    const signed: RecordedCall[] = [];
    for (const call of calls) {
      const signature = await this.signatureOf(tenant_id, call.requested);
      if (signature === call.signature) return calls;
      signed.push(signature === null ? call : { ...call, signature });
    }
    return signed;
  }

  private async signatureOf(tenant_id: string, requested: JsonObject): Promise<string | null> {
    const { api, redaction } = requested;
    if (typeof api !== "string" || redaction !== undefined) return null;
    const request = await this.requestOf(tenant_id, requested).catch((error: unknown) => {
      if (isAppError(error, "NOT_FOUND")) return null;
      throw error;
    });
    if (!isObject(request)) return null;
    const model = String(request["model"] ?? requested["model"]);
    return this.signature(tenant_id, { api, model, request: canonicalRequest(request) });
  }

  private async recording(caller: CaptureCaller, source_run_id: string) {
    const source = await this.options.find(caller, source_run_id);
    if (!source) throw new AppError("NOT_FOUND", `There is no run ${source_run_id}`);
    const rows = await readWholeRun(this.options.store, caller.tenant_id, source_run_id);
    const events = rows.flatMap((row) => decodeBody(row.body));
    const [unseen] = privacyRisk(events);
    if (unseen !== undefined)
      throw new AppError(
        "REPLAY_REFUSED",
        `A payload of event ${unseen} of ${source_run_id} could not be redacted; who may can override that (quarterdeck runs override-privacy RUN --reason TEXT)`,
        { details: { reason: "privacy_risk", seq: unseen } },
      );
    const calls = recordedCalls(events, (call) => this.toolSignature(caller.tenant_id, call));
    if (source.kind !== "captured" || calls.length === 0) {
      throw new AppError(
        "REPLAY_REFUSED",
        `Run ${source_run_id} (${source.kind}) has no calls of a process that could be answered; replay it without a command`,
        { details: { reason: "override_not_applicable" } },
      );
    }
    const bySignature = new Map<string, RecordedCall[]>();
    for (const call of await this.signedHere(caller.tenant_id, calls))
      bySignature.set(call.signature, [...(bySignature.get(call.signature) ?? []), call]);
    const source_seq = events.at(-1)?.seq ?? 0;
    const lineage: Lineage = {
      source_run_id,
      source_seq,
      source_chain: chainAt(rows, caller.tenant_id, source_run_id, source_seq),
      ...EXACT,
    };
    const observed = events[0]?.data["fidelity"] === "events";
    const at_us = events[0]?.at ?? 0;
    const replay: Replay = { source_run_id, observed, calls, bySignature, used: new Map(), at_us };
    return { source, lineage, replay };
  }
}

/** The recorded answer of a call is given: whoever asks the same again is given the next one. */
function take(replay: Replay, { signature, at_us }: RecordedCall): void {
  replay.used.set(signature, (replay.used.get(signature) ?? 0) + 1);
  replay.at_us = Math.max(replay.at_us, at_us);
}

/** What an event says of a call that the SDK asks for. */
function callData(call: ReplayedCall): JsonObject {
  const { kind, optional: _optional, ...said } = call;
  const given = said as JsonObject;
  const { api = "other", model = "", request = null } = given;
  return kind === "model" ? { api, model, request } : given;
}
