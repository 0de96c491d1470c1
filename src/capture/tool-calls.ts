// Tool calls of agents that we do not run. Such a call is a step like any other: policy, budget, approval, a worker that makes
// it, the outcome on record; here is who waits for it. Invariant: a call whose client stopped waiting is never made twice by
// asking again: the same call in the same run is given the outcome of the first.
import type { AgentSpec, Catalog } from "../contract/catalog.ts";
import type { EventDraft, StoredEvent } from "../contract/events.ts";
import type { JournalStore } from "../contract/journal.ts";
import { newId } from "../contract/ids.ts";
import type { ToolDefinition } from "../contract/jobs.ts";
import type { BlobStore } from "../contract/ports.ts";
import type { ToolAnswer, ToolCaller, ToolDoor } from "../contract/tools.ts";
import { decodeBody } from "../core/chain.ts";
import { isToolEnd } from "../core/foreign.ts";
import type { ForeignToolCall } from "../core/foreign.ts";
import type { Governance } from "../core/governance.ts";
import { readWholeRun } from "../journal/audit.ts";
import type { Clock } from "../kit/clock.ts";
import type { StopSignal } from "../kit/stop.ts";
import { isObject } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Random } from "../kit/random.ts";
import type { CaptureOwner, Captures } from "./captures.ts";
import type { Place } from "./quarantine.ts";
import { toolSignatureOf } from "./recording.ts";
import type { ToolRecords } from "./tool-records.ts";
import { before, endsRun } from "./wait.ts";
import type { Subscribe } from "./wait.ts";

export interface ToolCallsOptions {
  readonly captures: Captures;
  readonly records: ToolRecords;
  readonly owner: () => CaptureOwner;
  readonly governance: Pick<Governance, "of" | "asOf">;
  readonly store: Pick<JournalStore, "readRun">;
  readonly blobs: Pick<BlobStore, "get">;
  readonly clock: Clock;
  readonly random: Random;
  readonly subscribe: Subscribe;
}

/** A call that was made. Its outcome is kept for whoever asks again. */
interface Made {
  /** Null when the run is another node's before there is one. */
  readonly outcome: Promise<EventDraft | null>;
  /** Why there is none yet, in words for a model. */
  waits: () => string;
}

const KEPT_MAX = 10_000;
/** More than there are groups of runs. */
const OPENED_MAX = 1_024;
const MADE = "This call is still being made.";

export class ToolCalls implements ToolDoor {
  private readonly options: ToolCallsOptions;
  /** Calls whose client stopped waiting, by run and signature. */
  private readonly left = new Map<string, Made>();
  /** Runs whose open calls are known here. */
  private readonly known = new Map<string, Promise<void>>();
  /** When runs were read back from the journal, the latest last. */
  private readonly opened: { readonly isThose: (run_id: string) => boolean; readonly at_us: number }[] = [];

  constructor(options: ToolCallsOptions) {
    this.options = options;
  }

  async list(of: ToolCaller): Promise<readonly ToolDefinition[]> {
    const { captures } = this.options;
    const at_us = of.run_id === undefined ? null : await captures.momentOf(of.caller, of.run_id);
    const then = at_us === null ? [] : listed(this.catalogThen(of, at_us), of);
    // A recording that came from elsewhere may have left its registry behind.
    return then.length > 0 ? then : listed(this.catalog(of, this.env(of.run_id)), of);
  }

  async call(
    of: ToolCaller,
    given: { tool: string; args: JsonObject; wait_ms: number; gone: StopSignal },
  ): Promise<ToolAnswer> {
    const { captures, clock, records } = this.options;
    const { tool, args } = given;
    const { tenant_id } = of.caller;
    const run_id = await captures.runFor(of.caller, of);
    const signature = captures.toolSignature(tenant_id, { tool, args });
    const shown = await records.args({ tenant_id, run_id }, args, signature);
    if (captures.isReplay(run_id)) {
      const id = this.callId();
      const call = { id, kind: "tool" as const, signatures: [signature], requested: { ...(shown ?? { args }), tool } };
      const found = await captures.replayed(of.caller, run_id, call);
      return this.answer(tenant_id, { type: found.ended, data: found.completed });
    }
    await this.knows(tenant_id, run_id);
    const key = `${run_id}\n${signature}`;
    const made = this.left.get(key) ?? (await this.make(of, run_id, { tool, args, ...(shown ? { shown } : {}) }));
    this.left.delete(key);
    const outcome = await before(made.outcome, clock, given);
    if (outcome) return this.whole({ tenant_id, run_id }, outcome);
    // One of a run that has moved is taken up where it is now.
    if (this.known.has(run_id)) this.leave(key, made);
    return {
      is_error: true,
      code: "pending",
      result: `${made.waits()} Make the same call again to get its outcome; it is not made twice.`,
    };
  }

  private callId(): string {
    return newId("event", this.options).replace("evt_", "call_");
  }

  private knows(tenant_id: string, run_id: string): Promise<void> {
    const known = this.known.get(run_id);
    if (known) return known;
    if (this.known.size >= KEPT_MAX) this.known.delete(this.known.keys().next().value ?? "");
    const read = this.takeUp(tenant_id, run_id);
    this.known.set(run_id, read);
    read.catch(() => this.known.delete(run_id));
    return read;
  }

  /** These runs are read back from the journal: who waited for a call of theirs before may have been elsewhere. */
  reset(isThose: (run_id: string) => boolean): void {
    if (this.opened.length >= OPENED_MAX) this.opened.shift();
    this.opened.push({ isThose, at_us: this.options.clock.now_us() });
  }

  /** These runs are another node's: whoever asks again is answered there. */
  forget(isGone: (run_id: string) => boolean): void {
    this.options.records.forget(isGone);
    for (const run_id of this.known.keys()) if (isGone(run_id)) this.known.delete(run_id);
    for (const key of this.left.keys()) if (isGone(key.split("\n")[0] ?? "")) this.left.delete(key);
  }

  private leave(key: string, made: Made): void {
    if (this.left.size >= KEPT_MAX) this.left.delete(this.left.keys().next().value ?? "");
    this.left.set(key, made);
  }

  private env(run_id: string | undefined): string {
    return (run_id === undefined ? null : this.options.owner().peek(run_id)?.env) ?? "dev";
  }

  /** What a replay is offered is what its run was offered: the model is asked with it. */
  private catalogThen({ caller, run_id }: ToolCaller, at_us: number): Catalog | null {
    const scope = { tenant_id: caller.tenant_id, project: caller.project, env: this.env(run_id) };
    return this.options.governance.asOf(scope, at_us)[0]?.catalog ?? null;
  }

  private catalog({ caller }: ToolCaller, env: string): Catalog {
    return this.options.governance.of({ tenant_id: caller.tenant_id, project: caller.project, env }).catalog;
  }

  /** An agent that is applied here names its tools; of others only the policy knows. */
  private agent(of: ToolCaller): AgentSpec | null {
    return of.agent === undefined ? null : this.catalog(of, this.env(of.run_id)).agent(of.agent);
  }

  private async make(
    of: ToolCaller,
    run_id: string,
    call: Pick<ForeignToolCall, "tool" | "args" | "shown">,
  ): Promise<Made> {
    const id = this.callId();
    const { made, stop } = this.watch(run_id, (draft) => draft.call === id);
    try {
      const { tools: allow = null, capabilities } = this.agent(of) ?? {};
      const within = capabilities === undefined ? {} : { capabilities };
      const command = { type: "tool" as const, call: { ...call, call: id, allow, ...within } };
      await this.options.owner().decided(of.caller.tenant_id, run_id, command);
    } catch (error) {
      stop();
      throw error;
    }
    return made;
  }

  /** Waits for the end of the step that an event is of which `isOurs`. */
  private watch(
    run_id: string,
    isOurs: (draft: EventDraft) => boolean,
    waited = MADE,
  ): { made: Made; stop: () => void } {
    let waits = waited;
    let step = 0;
    let settle: (draft: EventDraft | null) => void = () => undefined;
    const outcome = new Promise<EventDraft | null>((resolve) => (settle = resolve));
    const take = (drafts: readonly EventDraft[]) => {
      for (const draft of drafts) {
        if (isOurs(draft)) step = draft.step ?? 0;
        const known = step > 0 && draft.step === step;
        if (known) waits = waitsFor(run_id, draft) ?? waits;
        if (known ? isToolEnd(draft.type) : endsRun(draft.type)) settle(draft);
      }
    };
    const stop = this.options.subscribe(run_id, take, () => settle(null));
    void outcome.finally(stop);
    return { made: { outcome, waits: () => waits }, stop };
  }

  /**
   * Calls of a run that were open when this process took it over: nobody waits for them here, so whoever asks again is given
   * their outcome, also when it has come by then.
   */
  private async takeUp(tenant_id: string, run_id: string): Promise<void> {
    const seen: EventDraft[] = [];
    const stop = this.options.subscribe(
      run_id,
      (drafts) => void seen.push(...drafts),
      () => undefined,
    );
    try {
      const rows = await readWholeRun(this.options.store, tenant_id, run_id);
      const recorded = rows.flatMap((row) => decodeBody(row.body));
      const since_us = this.opened.findLast(({ isThose }) => isThose(run_id))?.at_us ?? 0;
      for (const [step, begun] of openTools(recorded, since_us)) {
        const told = recorded.flatMap((draft) => (draft.step === step ? (waitsFor(run_id, draft) ?? []) : []));
        const { made, stop: unwatch } = this.watch(run_id, (draft) => draft.step === step, told.at(-1));
        // What was committed while the run was read is not in what was read.
        const ended = [...recorded, ...seen].find((draft) => draft.step === step && isToolEnd(draft.type));
        if (ended) unwatch();
        const sign = (call: { tool: string; args: JsonObject }) => this.options.captures.toolSignature(tenant_id, call);
        const key = `${run_id}\n${toolSignatureOf("tool", begun.data, sign)}`;
        this.leave(key, ended ? { ...made, outcome: Promise.resolve(ended) } : made);
      }
    } finally {
      stop();
    }
  }

  /** The answer with its result as it came, where that is at hand. */
  private async whole({ tenant_id, run_id }: Place, outcome: EventDraft): Promise<ToolAnswer> {
    const { step = 0, attempt = 1 } = outcome;
    const raw = this.options.records.take({ run_id, step, attempt });
    const answer = await this.answer(tenant_id, outcome);
    return raw === undefined ? answer : { ...answer, result: raw };
  }

  private async answer(tenant_id: string, { type, data }: Pick<EventDraft, "type" | "data">): Promise<ToolAnswer> {
    if (type === "tool.completed")
      return { is_error: data["is_error"] === true, result: await this.result(tenant_id, data) };
    if (type === "step.in_doubt") {
      const why = `Nobody knows whether this call took effect (${String(data["code"] ?? data["reason"])}).`;
      return { is_error: true, code: "in_doubt", result: `${why} A person has to find out; do not make it again.` };
    }
    const code = String(data["reason"] ?? data["code"] ?? type);
    return { is_error: true, code, result: refusal(type, data) };
  }

  /** A large result stands in an artifact; its event has only the beginning. */
  private async result(tenant_id: string, data: JsonObject): Promise<Json> {
    const ref = data["result_ref"];
    if (!isObject(ref)) return data["result"] ?? null;
    return (await this.options.blobs.get(tenant_id, String(ref["digest"]))).toString("utf8");
  }
}

function listed(catalog: Catalog | null, { agent }: ToolCaller): readonly ToolDefinition[] {
  const { tools = ["*"], capabilities } = (agent === undefined ? null : catalog?.agent(agent)) ?? {};
  return catalog?.toolsMatching(tools, capabilities) ?? [];
}

/** Why a call was refused or has failed, and what may be done. Names no run: a replay gives the same words. */
function refusal(type: string, data: JsonObject): string {
  const message = String(data["message"] ?? type);
  const code = String(data["reason"] ?? data["code"] ?? "");
  if (code === "no_matching_rule") return `${message}. No rule allows this tool; somebody has to add one to a Policy.`;
  return code === "" || message.includes(code) ? message : `${message} (${code})`;
}

/** Why a call has no outcome yet, as an event of its step tells. */
function waitsFor(run_id: string, { type, data }: EventDraft): string | null {
  if (type === "tool.requested") return MADE;
  if (type !== "human.approval_requested") return null;
  return `This call needs the approval of a person (run ${run_id}, approval ${String(data["number"])}).`;
}

/** Tool calls that had no end at this moment, by step, with the event that began them. */
function openTools(events: readonly StoredEvent[], at_us: number): Map<number, EventDraft> {
  const open = new Map<number, EventDraft>();
  for (const event of events) {
    const step = event.step ?? 0;
    const isBegun = event.type === "tool.proposed" || event.type === "tool.requested";
    // One that began later had somebody here who waited for it.
    if (isBegun && event.at < at_us) open.set(step, open.get(step) ?? event);
    if (isToolEnd(event.type) && event.at < at_us) open.delete(step);
  }
  return open;
}
