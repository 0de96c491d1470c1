// Use cases of replay and fork. An exact replay is decided here, from the journal alone; cached, simulated and live ones and
// forks are runs of the engine that begin with the source's past.
// Invariant: the source is read, never written; what cannot be replayed is refused before anything is made.
import type { Clock } from "../kit/clock.ts";
import type { Turn } from "../kit/turn.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { AppError } from "../contract/errors.ts";
import type { EventDraft, StoredEvent } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import { seededId } from "../contract/ids.ts";
import type { IdSeed } from "../contract/ids.ts";
import type { AppendRow, ApprovalRow, BudgetDelta, JournalStore, RunSummary } from "../contract/journal.ts";
import type { ManifestKind } from "../contract/manifests.ts";
import type { BlobStore } from "../contract/ports.ts";
import { EXACT } from "../contract/replay.ts";
import type { Lineage, ReplaySession, StartFork, StartReplay } from "../contract/replay.ts";
import { artifactsOf } from "../core/artifacts.ts";
import { decodeBody, encodingRows } from "../core/chain.ts";
import type { Governance } from "../core/governance.ts";
import { privacyRisk } from "../core/privacy.ts";
import { redeciding } from "../core/redecide.ts";
import type { Redecision } from "../core/redecide.ts";
import type { RunState } from "../core/run-state.ts";
import { readWholeRun } from "../journal/audit.ts";
import { chainAt, lineageOf } from "../journal/past.ts";
import type { PastReader, Recorded } from "../journal/past.ts";
import { chainFault } from "../journal/verify.ts";
import { forkPoint, refuseOverrides } from "./fork-plan.ts";
import { refused } from "./refused.ts";
import { sessionOf } from "./session.ts";

export interface ReplayCaller {
  readonly tenant_id: string;
  readonly project: string;
  readonly principal: string;
}

/** What owns the runs, as far as replays need it. */
export interface RunOwner {
  start(run: {
    tenant_id: string;
    run_id: string;
    command: { type: "start"; data: JsonObject };
    past?: RunState;
  }): Promise<RunSummary>;
  importRun(run: {
    rows: readonly AppendRow[];
    summary: RunSummary;
    approvals: readonly ApprovalRow[];
    budgets: readonly BudgetDelta[];
  }): Promise<void>;
}

export interface ReplaysOptions {
  readonly owner: () => RunOwner;
  readonly store: JournalStore;
  readonly past: PastReader;
  readonly governance: Governance;
  readonly blobs: Pick<BlobStore, "has">;
  readonly clock: Clock;
  readonly turn: Turn;
  /** An id for a run that is to begin in this process. */
  readonly newRunId: () => string;
  /** The summary of a run; null when the caller's tenant has none of this id. */
  readonly find: (caller: ReplayCaller, run_id: string) => Promise<RunSummary | null>;
  /** Whether the registry has this version. */
  readonly has: (caller: ReplayCaller, kind: ManifestKind, name: string, version: number) => boolean;
}

export class Replays {
  private readonly options: ReplaysOptions;

  constructor(options: ReplaysOptions) {
    this.options = options;
  }

  /** Replays a run from its start. */
  async start(caller: ReplayCaller, request: StartReplay, seed?: IdSeed): Promise<ReplaySession> {
    const replay_id = this.newRunId(seed);
    if (seed && (await this.options.find(caller, replay_id))) return this.get(caller, replay_id);
    const source = await this.source(caller, request.run_id);
    if (request.mode === "exact") return this.exact(caller, replay_id, source);
    const step = source.recorded.lineage?.step ?? 1;
    const lineage = this.lineage(source, {
      source_seq: 1,
      step,
      mode: request.mode,
      reuse: request.mode === "live" ? "none" : "matching",
      otherwise: request.mode === "live" ? "live" : "stop",
      live_writes: request.live_writes ?? false,
      simulate: request.simulate ?? [],
      overrides: source.recorded.lineage?.overrides ?? {},
    });
    return this.begin(caller, replay_id, "replay", source, lineage);
  }

  /** Starts a run that has another one's past up to a step, with something changed from there on. */
  async fork(caller: ReplayCaller, run_id: string, request: StartFork, seed?: IdSeed): Promise<ReplaySession> {
    const replay_id = this.newRunId(seed);
    if (seed && (await this.options.find(caller, replay_id))) return this.get(caller, replay_id);
    const source = await this.source(caller, run_id);
    const source_seq = forkPoint(source.recorded, run_id, request.step);
    const governed = this.options.governance.of({
      tenant_id: caller.tenant_id,
      project: source.summary.project_id,
      env: source.summary.env,
    });
    const { has } = this.options;
    refuseOverrides(request, source.recorded.outcome().run, {
      catalog: governed.catalog,
      has: (kind, name, version) => has(caller, kind, name, version),
    });
    const lineage = this.lineage(source, {
      source_seq,
      step: request.step,
      mode: request.reuse === "none" ? "live" : "cached",
      reuse: request.reuse ?? "matching",
      otherwise: request.otherwise ?? "live",
      live_writes: request.live_writes ?? false,
      simulate: request.simulate ?? [],
      overrides: request.overrides ?? {},
    });
    return this.begin(caller, replay_id, "fork", source, lineage);
  }

  /** A session as its journal tells it. */
  async get(caller: ReplayCaller, replay_id: string): Promise<ReplaySession> {
    const summary = await this.need(caller, replay_id);
    const rows = await readWholeRun(this.options.store, caller.tenant_id, replay_id);
    const events = rows.flatMap((row) => decodeBody(row.body));
    const lineage = lineageOf(events[0]);
    if (!lineage) throw new AppError("NOT_FOUND", `Run ${replay_id} is no replay and no fork`);
    return sessionOf(replay_id, lineage, summary, events);
  }

  private newRunId(seed: IdSeed | undefined): string {
    return seed ? seededId("run", seed) : this.options.newRunId();
  }

  private async need(caller: ReplayCaller, run_id: string): Promise<RunSummary> {
    const summary = await this.options.find(caller, run_id);
    if (!summary) throw new AppError("NOT_FOUND", `There is no run ${run_id}`, { details: { run_id } });
    return summary;
  }

  /** Reads and checks the run that a replay is made from. */
  private async source(caller: ReplayCaller, run_id: string): Promise<Source> {
    const summary = await this.need(caller, run_id);
    const recorded = await this.options.past.read(caller.tenant_id, run_id);
    // The replay of an exact replay is a replay of what that one replayed.
    if (recorded.lineage?.mode === "exact") return this.source(caller, recorded.lineage.source_run_id);
    const chain = await this.options.turn.pieces(chainFault(recorded.rows));
    if (chain)
      throw refused("chain_broken", `The journal of ${run_id} does not verify at event ${chain.seq}: ${chain.fault}`);
    const [unseen] = privacyRisk(recorded.events);
    if (unseen !== undefined)
      throw refused(
        "privacy_risk",
        `A payload of event ${unseen} of ${run_id} could not be redacted; who may can override that (quarterdeck runs override-privacy RUN --reason TEXT)`,
      );
    for (const digest of artifactsOf(recorded.events)) {
      if (await this.options.blobs.has(caller.tenant_id, digest)) continue;
      throw refused("artifact_missing", `Artifact ${digest} of ${run_id} is not there any more`, { digest });
    }
    return { run_id, summary, recorded };
  }

  private lineage(source: Source, given: Omit<Lineage, "source_run_id" | "source_chain">): Lineage {
    const { recorded, run_id } = source;
    const { tenant_id } = source.summary;
    return {
      source_run_id: run_id,
      source_chain: chainAt(recorded.rows, tenant_id, run_id, given.source_seq),
      ...given,
    };
  }

  private async begin(
    caller: ReplayCaller,
    replay_id: string,
    kind: "replay" | "fork",
    source: Source,
    lineage: Lineage,
  ): Promise<ReplaySession> {
    if (!hasProgram(source.recorded)) {
      throw refused(
        "override_not_applicable",
        `Run ${source.run_id} was captured from outside: its program is not here. Replay it exactly, or run it again against the proxy`,
      );
    }
    const { tenant_id } = caller;
    const past = await this.options.past.state(tenant_id, replay_id, lineage);
    refuseOpenCalls(past, source.run_id);
    const started: Record<string, Json | undefined> = source.recorded.events[0]?.data ?? {};
    const data: JsonObject = {
      env: source.summary.env,
      kind,
      ...(started["labels"] === undefined ? {} : { labels: started["labels"] }),
      lineage: lineage as unknown as JsonObject,
      ...(started["priority"] === undefined ? {} : { priority: started["priority"] }),
      project: source.summary.project_id,
      requester: caller.principal,
      target: started["target"] ?? null,
    };
    const command = { type: "start" as const, data };
    await this.options.owner().start({ tenant_id, run_id: replay_id, command, past });
    return this.get(caller, replay_id);
  }

  private async exact(caller: ReplayCaller, replay_id: string, source: Source): Promise<ReplaySession> {
    const { recorded, summary, run_id } = source;
    if (!isTerminal(summary.state))
      throw refused(
        "source_not_ended",
        `Run ${run_id} is ${summary.state}; it can be replayed exactly when it has ended`,
      );
    const last = recorded.events.at(-1)?.seq ?? 0;
    const lineage = this.lineage(source, { source_seq: last, ...EXACT });
    // Without a program there is nothing to decide: the journal itself is what happens again.
    const { drafts, mismatch } = hasProgram(recorded)
      ? await this.options.turn.pieces(redeciding(recorded))
      : { drafts: recorded.events, mismatch: null };
    // A seal is of the source's own bytes.
    const events = derived(
      drafts.filter(({ type }) => type !== "run.sealed"),
      mismatch,
      lineage,
    );
    const rows = await this.options.turn.pieces(
      encodingRows({ tenant_id: caller.tenant_id, run_id: replay_id }, events, this.options.clock.now_us()),
    );
    const replay: RunSummary = {
      ...summary,
      run_id: replay_id,
      kind: "replay",
      state: mismatch ? "failed" : summary.state,
      reason: mismatch ? "decision_mismatch" : summary.reason,
      requester: caller.principal,
      created_at_us: this.options.clock.now_us(),
      updated_at_us: this.options.clock.now_us(),
      // Nothing was paid: what it cost stands in the source.
      cost_micro_usd: 0,
      tokens: 0,
      retry_of: null,
      source_run_id: run_id,
      sealed: false,
    };
    await this.options.owner().importRun({ rows, summary: replay, approvals: [], budgets: [] });
    const numbered = events.map((event, i) => ({ ...event, seq: i + 1, at: replay.created_at_us }));
    return sessionOf(replay_id, lineage, replay, numbered);
  }
}

/** Captured runs have none: what decided is not here. */
function hasProgram({ events }: Recorded): boolean {
  const target = events[0]?.data["target"] as JsonObject | undefined;
  return target?.["kind"] === "agent" || target?.["kind"] === "workflow";
}

interface Source {
  readonly run_id: string;
  readonly summary: RunSummary;
  readonly recorded: Recorded;
}

/** The journal of an exact replay: what was decided, and where it went another way. */
function derived(
  drafts: readonly (EventDraft | StoredEvent)[],
  mismatch: Redecision["mismatch"],
  lineage: Lineage,
): EventDraft[] {
  const events = drafts.map((draft): EventDraft => {
    if (draft.type !== "run.started") return draft;
    const data = { ...draft.data, kind: "replay", lineage: lineage as unknown as JsonObject };
    return { type: draft.type, ...(draft.actor ? { actor: draft.actor } : {}), data };
  });
  if (!mismatch) return events;
  const { message, step, ...rest } = mismatch;
  const detail = JSON.parse(JSON.stringify({ ...rest, reason: "decision_mismatch", step })) as JsonObject;
  return [
    ...events.filter(
      (event) => !/^run\.(succeeded|failed|cancelled|timed_out|budget_exceeded|policy_blocked)$/.test(event.type),
    ),
    { type: "replay.mismatched", data: detail },
    { type: "run.failed", data: { code: "decision_mismatch", message: `Step ${step}: ${message}` } },
  ];
}

function refuseOpenCalls(past: RunState, run_id: string): void {
  for (const step of past.steps.values()) {
    const recorded = past.past?.at(step.n)?.outcome;
    const waits = step.status === "approval" || step.status === "in_doubt";
    if (!waits && (step.status !== "running" || recorded)) continue;
    const why = waits ? `waits (${step.status})` : "has no recorded outcome";
    throw refused(
      "open_call_at_fork_point",
      `Step ${step.n} of ${run_id} is open there and ${why}; fork at or before it`,
      {
        step: step.n,
      },
    );
  }
}
