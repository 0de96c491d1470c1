// Use cases of runs: start, read, steer, explain. Checks what a request means, then hands commands to the engine.
import { rfc3339 } from "../kit/clock.ts";
import type { Clock } from "../kit/clock.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { decodeId, derivedOrdinal } from "../kit/ids.ts";
import { AppError } from "../contract/errors.ts";
import type { Actor, Event, EventOrder } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import { idBytes, PREFIXES, seededId } from "../contract/ids.ts";
import type { IdSeed } from "../contract/ids.ts";
import type { ApprovalRow, JournalStore, RunSummary } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db } from "../contract/ports.ts";
import type { Lineage } from "../contract/replay.ts";
import type { AckStream, AmendRun, Approval, Explanation, ResolveStep, Run, StartRun } from "../contract/runs.ts";
import { decodeBody } from "../core/chain.ts";
import type { Command } from "../core/decide.ts";
import { splitTarget } from "../core/decide.ts";
import { fold } from "../core/fold.ts";
import { decidedCall } from "../core/decided-call.ts";
import { privacyRisk } from "../core/privacy.ts";
import { emptyRun } from "../core/run-state.ts";
import type { RunState } from "../core/run-state.ts";
import { hasPast, lineageOf } from "../journal/past.ts";
import { readWholeRun } from "../journal/audit.ts";
import { EventReader } from "../journal/event-reader.ts";
import { getApproval, listApprovals } from "../store/approvals.ts";
import type { ApprovalFilter } from "../store/approvals.ts";
import { ackedSeq, keepAck } from "../store/stream-acks.ts";
import { getRun, listRuns } from "../store/runs.ts";
import type { RunFilter } from "../store/runs.ts";
import type { Engine, Governance } from "./engine.ts";

/** Who asks, and for which tenant. Both come from the credential, never from a body. */
export interface Caller {
  readonly tenant_id: string;
  readonly project: string;
  readonly principal: string;
}

export function runView(run: RunSummary): Run {
  const { tenant_id: _tenant, created_at_us, updated_at_us, ...rest } = run;
  return { ...rest, created_at: rfc3339(created_at_us), updated_at: rfc3339(updated_at_us) };
}

export function approvalView(row: ApprovalRow): Approval {
  const { tenant_id: _tenant, created_at_us, expires_at_us, resolved_at_us, shown, ...rest } = row;
  return {
    ...rest,
    shown: JSON.parse(shown) as unknown,
    created_at: rfc3339(created_at_us),
    expires_at: rfc3339(expires_at_us),
    resolved_at: resolved_at_us === null ? null : rfc3339(resolved_at_us),
  };
}

export interface RunsOptions {
  readonly engine: () => Pick<Engine, "start" | "command" | "ingest" | "peek">;
  /** An id for a run that is to begin in this process. */
  readonly newRunId: () => string;
  readonly store: JournalStore;
  readonly db: Db;
  readonly governance: Pick<Governance, "of">;
  /** The state that a replay or fork begins with. */
  readonly past?: (tenant_id: string, run_id: string, lineage: Lineage) => Promise<RunState>;
  readonly clock: Clock;
  /** Jobs that wait for remote workers: when they are too many, new runs must wait too. */
  readonly waitingJobs?: () => number;
}

export interface StartExtra {
  readonly seed?: IdSeed;
  /** An id that was given out before. */
  readonly run_id?: string;
  readonly retry_of?: string;
  /** More to say in `run.started`: what had it started. */
  readonly facts?: JsonObject;
}

export class Runs {
  private readonly options: RunsOptions;
  private readonly reader: EventReader;

  constructor(options: RunsOptions) {
    this.options = options;
    this.reader = new EventReader(options.store);
  }

  /** A run that exists under the id that it would have is the answer: the same request twice begins one. */
  async start(caller: Caller, request: StartRun, extra: StartExtra = {}): Promise<Run> {
    const waiting = this.options.waitingJobs?.() ?? 0;
    if (waiting >= LIMITS.queue_depth_max)
      throw new AppError("OVERLOADED", `${waiting} jobs wait for workers`, { details: { limit: "queue_depth_max" } });
    const known = extra.run_id ?? (extra.seed ? seededId("run", extra.seed) : null);
    const run_id = known ?? this.options.newRunId();
    if (known !== null) {
      const existing = await this.find(caller, run_id);
      if (existing) return runView(existing);
    }
    const data = { ...this.startData(caller, request, extra.retry_of ?? null), ...extra.facts };
    return runView(
      await this.options.engine().start({ tenant_id: caller.tenant_id, run_id, command: { type: "start", data } }),
    );
  }

  private startData(caller: Caller, request: StartRun, retry_of: string | null): JsonObject {
    const refuse = (message: string, pointer: string) =>
      new AppError("RUN_REFUSED", message, { errors: [{ pointer, message }] });
    const kind = request.agent === undefined ? "workflow" : "agent";
    const name = request.agent ?? request.workflow;
    if (name === undefined || (request.agent !== undefined && request.workflow !== undefined)) {
      throw refuse("A run needs either `agent` or `workflow`", "");
    }
    const env = request.env ?? "dev";
    const { catalog } = this.options.governance.of({ tenant_id: caller.tenant_id, project: caller.project, env });
    const spec = kind === "agent" ? catalog.agent(name, request.version) : catalog.workflow(name, request.version);
    if (!spec) {
      const version = request.version === undefined ? "" : ` version ${request.version}`;
      throw refuse(`There is no ${kind} ${name}${version} in environment ${env}; apply it first`, `/${kind}`);
    }
    const input = (request.input ?? null) as Json;
    if (kind === "agent" && (input === null || input === "")) throw refuse("An agent needs an input", "/input");
    const deadline_ms = request.deadline_ms ?? spec.deadline_ms;
    const data: JsonObject = {};
    if (request.budget) data["budget"] = { ...request.budget };
    if (request.correlation_id !== undefined) data["correlation"] = request.correlation_id;
    if (deadline_ms !== null) data["deadline"] = this.options.clock.now_us() + deadline_ms * 1000;
    data["env"] = env;
    data["input"] = input;
    data["kind"] = kind;
    if (request.labels) data["labels"] = { ...request.labels };
    if (request.priority !== undefined) data["priority"] = request.priority;
    data["project"] = caller.project;
    data["requester"] = caller.principal;
    if (retry_of !== null) data["retry_of"] = retry_of;
    data["target"] = { digest: spec.digest, kind, name: spec.name, version: spec.version };
    return data;
  }

  /** The summary of a run of the caller's tenant, or null. */
  async find(caller: Caller, run_id: string): Promise<RunSummary | null> {
    idBytes("run", run_id);
    const live = this.options.engine().peek(run_id);
    if (live && live.tenant_id === caller.tenant_id) return live;
    return this.options.db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, (tx) => getRun(tx, run_id));
  }

  private async need(caller: Caller, run_id: string): Promise<RunSummary> {
    const run = await this.find(caller, run_id);
    if (!run) throw new AppError("NOT_FOUND", `There is no run ${run_id}`, { details: { run_id } });
    return run;
  }

  async get(caller: Caller, run_id: string): Promise<Run> {
    return runView(await this.need(caller, run_id));
  }

  async list(caller: Caller, filter: RunFilter): Promise<Run[]> {
    const rows = await this.options.db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, (tx) =>
      listRuns(tx, filter),
    );
    return rows.map((row) => runView(this.options.engine().peek(row.run_id) ?? row));
  }

  /** Events of a run behind the one with a seq, in their logical form; as they were committed, or as they happened. */
  async events(
    caller: Caller,
    run_id: string,
    page: { after_seq: number; limit: number; order: EventOrder },
  ): Promise<Event[]> {
    await this.need(caller, run_id);
    const wanted = { tenant_id: caller.tenant_id, run_id, after_seq: page.after_seq, limit: page.limit };
    return page.order === "logical" ? this.reader.readLogical(wanted) : this.reader.read(wanted);
  }

  /** Keeps how far a reader has come. Throws VALIDATION_ERROR for an event that there is not. */
  async ack(
    caller: Caller,
    run_id: string,
    { consumer, seq }: AckStream,
  ): Promise<{ consumer: string; acked_seq: number }> {
    const [event] = await this.events(caller, run_id, { after_seq: seq - 1, limit: 1, order: "commit" });
    if (!event)
      throw new AppError("VALIDATION_ERROR", `Run ${run_id} has no event ${seq}`, {
        errors: [{ pointer: "/seq", message: `there is no event ${seq}` }],
      });
    const reader = { run_id, principal: caller.principal, consumer };
    const now_us = this.options.clock.now_us();
    const acked_seq = await this.options.db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, (tx) =>
      keepAck(tx, reader, seq, now_us),
    );
    return { consumer, acked_seq };
  }

  /** The seq of the last event that a reader has done with; 0: none. */
  acked({ tenant_id, principal }: Caller, run_id: string, consumer: string): Promise<number> {
    return this.options.db.transaction({ role: "qd_app", tenant_id }, (tx) =>
      ackedSeq(tx, { run_id, principal, consumer }),
    );
  }

  private async steer(caller: Caller, run_id: string, command: Command): Promise<Run> {
    const run = await this.need(caller, run_id);
    if (isTerminal(run.state)) {
      throw new AppError("RUN_TERMINAL", `Run ${run_id} is ${run.state}; it cannot be changed`, {
        details: { run_id, state: run.state },
      });
    }
    return runView(await this.options.engine().command(caller.tenant_id, run_id, command));
  }

  private actor(caller: Caller): Actor {
    return { id: caller.principal, kind: "user" };
  }

  cancel(caller: Caller, run_id: string, reason: string): Promise<Run> {
    return this.steer(caller, run_id, { type: "cancel", reason, actor: this.actor(caller) });
  }

  pause(caller: Caller, run_id: string): Promise<Run> {
    return this.steer(caller, run_id, { type: "pause", actor: this.actor(caller) });
  }

  resume(caller: Caller, run_id: string): Promise<Run> {
    return this.steer(caller, run_id, { type: "resume", actor: this.actor(caller) });
  }

  input(caller: Caller, run_id: string, content: Json, final: boolean): Promise<Run> {
    return this.steer(caller, run_id, { type: "input", content, final, actor: this.actor(caller) });
  }

  resolve(caller: Caller, run_id: string, step: number, resolution: ResolveStep): Promise<Run> {
    const note = resolution.note ?? "";
    const ours =
      resolution.outcome === "completed"
        ? { outcome: "completed" as const, result: (resolution.result ?? null) as Json, note }
        : resolution.outcome === "failed"
          ? { outcome: "failed" as const, message: resolution.message, note }
          : { outcome: "retry" as const, note };
    return this.steer(caller, run_id, { type: "resolve", step, resolution: ours, actor: this.actor(caller) });
  }

  /** A payload of the run could not be redacted; it may be replayed and exported all the same. Throws CONFLICT where none is. */
  async overridePrivacy(caller: Caller, run_id: string, reason: string): Promise<Run> {
    await this.need(caller, run_id);
    const rows = await readWholeRun(this.options.store, caller.tenant_id, run_id);
    if (privacyRisk(rows.flatMap((row) => decodeBody(row.body))).length === 0)
      throw new AppError("CONFLICT", `Every payload of run ${run_id} could be looked at; there is nothing to override`);
    const command = { type: "override" as const, reason, actor: this.actor(caller) };
    await this.options.engine().ingest(caller.tenant_id, run_id, command);
    return runView(await this.need(caller, run_id));
  }

  /** Puts something right in a run that is over. Throws CONFLICT while it goes on. */
  async amend(caller: Caller, run_id: string, { note, about }: AmendRun): Promise<Run> {
    await this.need(caller, run_id);
    const command = { type: "amend" as const, note, about: about ?? null, actor: this.actor(caller) };
    await this.options.engine().ingest(caller.tenant_id, run_id, command);
    return runView(await this.need(caller, run_id));
  }

  /** Starts a new run with the same target, version and input. */
  async retry(caller: Caller, run_id: string, seed?: IdSeed): Promise<Run> {
    const run = await this.need(caller, run_id);
    if (!isTerminal(run.state)) throw new AppError("CONFLICT", `Run ${run_id} is still ${run.state}; cancel it first`);
    const [first] = await this.options.store.readRun(caller.tenant_id, run_id, 1, 1);
    const started = first ? decodeBody(first.body)[0] : undefined;
    if (!started || run.kind === "captured")
      throw new AppError("RUN_REFUSED", `Run ${run_id} was not started here and cannot be retried`);
    const [name, version] = splitTarget(run.target);
    const { data } = started;
    const request: StartRun = {
      ...(run.kind === "agent" ? { agent: name } : { workflow: name }),
      version,
      env: run.env,
      input: data["input"] ?? null,
      ...(data["labels"] ? { labels: data["labels"] as Record<string, string> } : {}),
      ...(typeof data["priority"] === "number" ? { priority: data["priority"] } : {}),
      ...(data["budget"] ? { budget: data["budget"] as NonNullable<StartRun["budget"]> } : {}),
    };
    // What a task minds holds for it again.
    const facts = data["routing"] === undefined ? {} : { routing: data["routing"] };
    return this.start(caller, request, { retry_of: run_id, facts, ...(seed ? { seed } : {}) });
  }

  async approvals(caller: Caller, filter: ApprovalFilter): Promise<Approval[]> {
    const rows = await this.options.db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, (tx) =>
      listApprovals(tx, filter),
    );
    return rows.map(approvalView);
  }

  async approval(caller: Caller, approval_id: string): Promise<Approval> {
    return approvalView(await this.needApproval(caller, approval_id));
  }

  private async needApproval(caller: Caller, approval_id: string): Promise<ApprovalRow> {
    const row = await this.options.db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, (tx) =>
      getApproval(tx, approval_id),
    );
    if (!row) throw new AppError("NOT_FOUND", `There is no approval ${approval_id}`, { details: { approval_id } });
    return row;
  }

  async decideApproval(
    caller: Caller,
    approval_id: string,
    decision: "approved" | "rejected",
    note: string,
  ): Promise<Approval> {
    const row = await this.needApproval(caller, approval_id);
    if (row.state !== "pending") {
      throw new AppError(
        "APPROVAL_RESOLVED",
        `Approval ${approval_id} is ${row.state}${row.resolved_by ? ` by ${row.resolved_by}` : ""}`,
        {
          details: { approval_id, state: row.state },
        },
      );
    }
    const number = derivedOrdinal(PREFIXES.approval, idBytes("run", row.run_id), approval_id) ?? 0;
    const actor: Actor = { id: caller.principal, kind: "human_reviewer" };
    await this.options
      .engine()
      .command(caller.tenant_id, row.run_id, { type: "approve", number, decision, note, actor });
    const after = await this.approval(caller, approval_id);
    if (after.state !== "expired") return after;
    throw new AppError("APPROVAL_RESOLVED", `Approval ${approval_id} expired at ${after.expires_at}`, {
      details: { approval_id, state: after.state },
    });
  }

  /** Why a step was allowed, denied or held: the recorded decision, and each rule's say on the same call. */
  async explain(caller: Caller, run_id: string, step: number): Promise<Explanation> {
    const run = await this.need(caller, run_id);
    const rows = await readWholeRun(this.options.store, caller.tenant_id, run_id);
    const events = rows.flatMap((row) => decodeBody(row.body));
    const at = events.findLastIndex((event) => event.type === "policy.decided" && event.step === step);
    const decided = events[at];
    if (!decided)
      throw new AppError("NOT_FOUND", `Step ${step} of ${run_id} has no policy decision`, {
        details: { run_id, step },
      });
    const lineage = lineageOf(events[0]);
    const { catalog, policy } = this.options.governance.of({
      tenant_id: caller.tenant_id,
      project: run.project_id,
      env: run.env,
      overrides: lineage?.overrides,
    });
    const past = hasPast(lineage) && (await this.options.past?.(caller.tenant_id, run_id, lineage));
    const state = past || emptyRun(caller.tenant_id, run_id);
    for (const event of events.slice(0, at)) fold(state, event, event.at, catalog);
    const call = decidedCall(state, events, decided, catalog);
    const { data } = decided;
    const named = events
      .slice(0, at + 1)
      .findLast((event) => event.type === "policy.decided" && "policy" in event.data);
    const digest = String(named?.data["policy"] ?? "");
    return {
      run_id,
      step,
      decision: String(data["decision"]),
      reason: String(data["reason"] ?? ""),
      rules: (data["rules"] ?? []) as string[],
      policy_digest: digest,
      same_policy: policy?.digest === digest,
      call: {
        kind: call.kind,
        name: call.name,
        args: call.args,
        effect_class: call.effect_class,
        run: call.run,
        call_micro_usd: call.call_micro_usd,
      },
      trace: (policy?.explain(call) ?? []).map(({ rule, effect, outcome, condition, error }) => ({
        rule,
        effect,
        outcome,
        condition,
        ...(error === undefined ? {} : { error }),
      })),
    };
  }
}

/** Step number from what a user gives: a number, or a step id of this run. */
export function stepNumber(run_id: string, step: string): number {
  if (/^\d{1,6}$/.test(step)) return Number(step);
  const bytes = decodeId(PREFIXES.run, run_id);
  const ordinal = bytes ? derivedOrdinal(PREFIXES.step, bytes, step) : null;
  if (ordinal === null)
    throw new AppError("NOT_FOUND", `${step} is no step of ${run_id}`, { details: { run_id, step } });
  return ordinal;
}
