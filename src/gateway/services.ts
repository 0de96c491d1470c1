// What the gateway needs of the rest of the program; the composition root provides it.
import type { Json, JsonObject } from "../kit/json.ts";
import type { Clock } from "../kit/clock.ts";
import type { BlobStore, Db, Log } from "../contract/ports.ts";
import type { Registry } from "../orchestrator/registry.ts";
import type { Owner } from "./forward.ts";
import type { Place } from "./placement.ts";
import type { ToolReviews } from "../orchestrator/tool-reviews.ts";
import type { Tasks } from "../orchestrator/tasks.ts";
import type { Triggers } from "../orchestrator/triggers.ts";
import type { Workers } from "../orchestrator/workers.ts";
import type { Caller, Runs } from "../orchestrator/runs.ts";
import type { Captures } from "../capture/captures.ts";
import type { Ingest } from "../capture/ingest.ts";
import type { Otlp } from "../capture/otlp/otlp.ts";
import type { Sealing } from "../capture/sealing.ts";
import type { Proxy } from "../capture/proxy.ts";
import type { Progress } from "../contract/progress.ts";
import type { ToolDoor } from "../contract/tools.ts";
import type { Backtests } from "../replay/backtests.ts";
import type { Diffs } from "../replay/diffs.ts";
import type { Replays } from "../replay/replays.ts";
import type { Verified } from "../journal/audit.ts";
import type { EventProof, ExportProfile } from "../contract/journal-routes.ts";
import type { QuarantinedPayload } from "../contract/runs.ts";
import type { ShardView } from "../contract/workers.ts";
import type { Commit } from "../orchestrator/engine.ts";

export interface ImportedRun {
  readonly run_id: string;
  readonly key: string;
  readonly events: number;
  readonly fidelity: string;
}

export interface Imported {
  readonly runs: number;
  readonly events: number;
  readonly artifacts: number;
  readonly skipped: number;
  /** Groups of runs that belong to other nodes, and were not taken. */
  readonly elsewhere: readonly number[];
}

export interface JournalService {
  verify(caller: Caller, run_id: string | null): Promise<Verified>;
  /** Throws ARTIFACT_MISSING for a run that cannot be exported whole. */
  checkExport(caller: Caller, run_id: string, profile: ExportProfile): Promise<void>;
  /** Payloads that nobody could look at, once somebody has taken that on. Throws PRIVACY_RISK before. */
  quarantined(caller: Caller, run_id: string): Promise<readonly QuarantinedPayload[]>;
  /** One event of a run with what shows that it stands there; seals the run where that is due. */
  prove(caller: Caller, run_id: string, seq: number): Promise<EventProof>;
  export(caller: Caller, run_id: string | null, profile: ExportProfile): AsyncIterable<string>;
  /** `groups`: only runs of these, for a node that does its part; `budgets`: with what the budgets had used. */
  import(caller: Caller, text: string, part?: { groups: readonly number[]; budgets: boolean }): Promise<Imported>;
  importRuns(caller: Caller, format: string, text: string): Promise<readonly ImportedRun[]>;
}

export interface Services {
  readonly runs: Runs;
  readonly registry: Registry;
  readonly journal: JournalService;
  readonly workers: Workers;
  readonly replays: Replays;
  readonly diffs: Diffs;
  readonly backtests: Backtests;
  readonly captures: Captures;
  readonly sealing: Pick<Sealing, "look">;
  readonly ingest: Ingest;
  readonly otlp: Otlp;
  readonly proxy: Proxy;
  readonly tools: ToolDoor;
  readonly toolReviews: ToolReviews;
  readonly triggers: Triggers;
  readonly tasks: Tasks;
  readonly blobs: BlobStore;
  readonly db: Db;
  readonly clock: Clock;
  readonly log: Log;
  readonly version: string;
  readonly tenant_id: string;
  readonly project: string;
  requestId(): string;
  /** Calls the listener after every commit of a run; returns the unsubscription. */
  subscribe(run_id: string, listener: (commit: Commit) => void): () => void;
  /** Calls the listener when a run is another node's; returns the unsubscription. */
  subscribeGone(run_id: string, listener: () => void): () => void;
  /** Calls the listener with what running calls of a run say; returns the unsubscription. */
  subscribeProgress(run_id: string, listener: (said: Progress) => void): () => void;
  status(caller: Caller): Promise<JsonObject>;
  ready(): Promise<Record<string, string>>;
  /** How many groups runs are placed in. */
  readonly groups: number;
  /** Who answers, where several control nodes share a database. */
  owner(place: Place): Owner;
  /** Where other nodes that own runs answer. */
  peers(): readonly string[];
  shards(): Promise<readonly ShardView[]>;
  /** Prometheus text format. */
  metrics(): Promise<string>;
  /** Told of each answered request. */
  observe(route: string, status: number, duration_ms: number): void;
}

/** A checked request as handlers get it. */
export interface Request {
  readonly caller: Caller;
  readonly params: Record<string, string>;
  readonly query: Record<string, Json>;
  readonly body: Json;
  readonly raw: Buffer;
  /** Aborted when the caller has gone; only on routes that may wait. */
  readonly gone: AbortSignal | null;
}
