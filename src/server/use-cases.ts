// Builds the use cases that requests are served by, over the engine that owns the runs at the moment.
import { Captures } from "../capture/captures.ts";
import { Ingest } from "../capture/ingest.ts";
import { Otlp } from "../capture/otlp/otlp.ts";
import { Proxy } from "../capture/proxy.ts";
import { Quarantine } from "../capture/quarantine.ts";
import { Redactor } from "../capture/redact.ts";
import { Sealing } from "../capture/sealing.ts";
import type { SealingOptions } from "../capture/sealing.ts";
import { ToolCalls } from "../capture/tool-calls.ts";
import { ToolRecords } from "../capture/tool-records.ts";
import type { Subscribe } from "../capture/wait.ts";
import { groupOf } from "../contract/placement.ts";
import type { BlobStore, Db, Log } from "../contract/ports.ts";
import type { Services } from "../gateway/services.ts";
import type { Checkpointer, Signer, Witness } from "../journal/checkpoint.ts";
import type { PastReader } from "../journal/past.ts";
import type { PostgresJournalStore } from "../journal/postgres-store.ts";
import type { Clock } from "../kit/clock.ts";
import { hmacHex } from "../kit/hash.ts";
import type { Turn } from "../kit/turn.ts";
import { systemRandom } from "../adapters/system/system.ts";
import { EventTriggers } from "../orchestrator/event-triggers.ts";
import { Fires } from "../orchestrator/fires.ts";
import type { Registry } from "../orchestrator/registry.ts";
import { Runs } from "../orchestrator/runs.ts";
import type { Shards } from "../orchestrator/shards.ts";
import { Schedules } from "../orchestrator/schedules.ts";
import { Tasks } from "../orchestrator/tasks.ts";
import { Triggers } from "../orchestrator/triggers.ts";
import { Backtests } from "../replay/backtests.ts";
import { Diffs } from "../replay/diffs.ts";
import { Replays } from "../replay/replays.ts";
import { findExternal, listRuns, listUnsealed } from "../store/runs.ts";
import { PostgresStagedEvents } from "../store/staged-events.ts";
import type { Config } from "./config.ts";
import type { GroupHosts } from "./group-hosts.ts";
import { LocalJournalService } from "./journal-service.ts";
import type { Outside } from "./outside.ts";
import type { Remote } from "./remote.ts";
import { DEFAULT_TENANT } from "./tenant.ts";
import type { Watchers } from "./watchers.ts";

export type UseCases = Pick<
  Services,
  | "runs"
  | "replays"
  | "diffs"
  | "backtests"
  | "captures"
  | "ingest"
  | "otlp"
  | "proxy"
  | "journal"
  | "triggers"
  | "tasks"
> & { readonly tools: ToolCalls; readonly records: ToolRecords; readonly sealing: Sealing };

type OutsideUse = Pick<Outside, "net" | "secrets"> &
  Pick<Config, "private_origins" | "redact" | "fields" | "seal_after_ms"> & { log: Log };

interface Given {
  registry: Registry;
  store: PostgresJournalStore;
  db: Db;
  past: PastReader;
  remote: Remote;
  clock: Clock;
  turn: Turn;
  hosts: GroupHosts;
  keeping: {
    blobs: BlobStore;
    signer: Signer;
    witness: Witness;
    checkpointer: Checkpointer;
    tenantKey: (tenant_id: string) => Uint8Array;
  };
  outside: OutsideUse;
  watchers: Watchers;
}

export function useCases(given: Given): UseCases {
  const { registry, store, db, past, remote, clock, turn, hosts, keeping, outside, watchers } = given;
  const { blobs } = keeping;
  const privacy = privacyOf(outside, keeping);
  const { shards } = hosts;
  const owner = () => shards;
  const newRunId = shards.newRunId.bind(shards);
  const seams = { clock, random: systemRandom };
  const runs = new Runs({
    engine: owner,
    store,
    db,
    governance: registry,
    past: past.state.bind(past),
    waitingJobs: () => remote.dispatcher.depth.waiting,
    newRunId,
    clock,
  });
  const find = runs.find.bind(runs);
  const replays = new Replays({
    owner,
    store,
    past,
    governance: registry,
    blobs,
    find,
    has: (caller, kind, name, version) => registry.has({ ...caller, kind, name, version }),
    newRunId,
    clock,
    turn,
  });
  const diffs = diffsOf(given, find, turn);
  const backtests = backtestsOf(given);
  const foreign = foreignUses({
    registry,
    store,
    db,
    shards,
    find,
    ...privacy,
    seams,
    turn,
    outside,
    watchers,
    ...keeping,
  });
  const tasks = new Tasks({ runs, store, governance: registry, live: shards.stateOf.bind(shards) });
  const triggers = triggersOf(given, runs, tasks);
  const sealing = sealingOf(given);
  const journal = new LocalJournalService({
    ...keeping,
    ...privacy,
    sealing,
    holdTriggers: triggers.hold.bind(triggers),
    store,
    db,
    registry,
    engine: owner,
    seams: { ...seams, newRunId },
    groups: shards.groups,
    turn,
    owned: () => hosts.owned,
  });
  return { runs, replays, diffs, backtests, ...foreign, records: privacy.records, journal, sealing, triggers, tasks };
}

function diffsOf({ store, registry, db }: Given, find: Runs["find"], turn: Turn): Diffs {
  return new Diffs({
    turn,
    store,
    governance: registry,
    find,
    siblings: async ({ tenant_id }, target, limit) =>
      db.transaction({ role: "qd_app", tenant_id }, (tx) => listRuns(tx, { target, limit })),
  });
}

function backtestsOf({ past, db }: Given): Backtests {
  return new Backtests({
    past,
    list: async ({ tenant_id }, filter) => db.transaction({ role: "qd_app", tenant_id }, (tx) => listRuns(tx, filter)),
  });
}

function triggersOf({ registry, store, db, clock, hosts, outside }: Given, runs: Runs, tasks: Tasks): Triggers {
  const { shards } = hosts;
  const { log, secrets } = outside;
  const owns = (run_id: string) => hosts.owned.includes(groupOf(run_id, shards.groups));
  const fires = new Fires({ db, runs, tasks, newRunId: shards.newRunId.bind(shards), owns, clock, log });
  const schedules = new Schedules({ db, fires, runs, clock, log });
  const events = new EventTriggers({ db, store, fires, log });
  return new Triggers({ registry, db, fires, schedules, events, secrets, clock, log });
}

function sealingOf({ store, db, clock, turn, hosts, keeping: { signer }, outside }: Given): Sealing {
  const unsealed: SealingOptions["unsealed"] = (wanted) =>
    db.transaction({ role: "qd_system" }, (tx) => listUnsealed(tx, wanted));
  return new Sealing({ ...outside, owner: () => hosts.shards, store, signer, unsealed, clock, turn });
}

/** What is taken out of payloads before they are recorded, and where it goes. */
interface Privacy {
  readonly redactor: Redactor;
  readonly quarantine: Quarantine;
  readonly records: ToolRecords;
}

function privacyOf({ redact, fields }: OutsideUse, keeping: Given["keeping"]): Privacy {
  const key = keeping.tenantKey(DEFAULT_TENANT);
  // Digests of fields are keyed, so that they say nothing of short values to who has no key.
  const redactor = new Redactor(redact, { fields, hash: (text) => hmacHex(key, `field\n${text}`) });
  const quarantine = new Quarantine({ ...keeping, random: systemRandom });
  return { redactor, quarantine, records: new ToolRecords({ ...keeping, redactor, quarantine }) };
}

/** What agents that we do not run are captured and governed by. */
function foreignUses(
  given: Privacy & {
    registry: Registry;
    store: PostgresJournalStore;
    db: Db;
    shards: Shards;
    find: Runs["find"];
    seams: { clock: Clock; random: typeof systemRandom };
    turn: Turn;
    outside: OutsideUse;
    watchers: Watchers;
    blobs: BlobStore;
    tenantKey: (tenant_id: string) => Uint8Array;
  },
): Pick<UseCases, "captures" | "ingest" | "otlp" | "proxy" | "tools"> {
  const { registry, store, db, shards, find, redactor, quarantine, seams, outside, blobs, tenantKey } = given;
  const owner = () => shards;
  const newRunId = shards.newRunId.bind(shards);
  const external = ({ tenant_id }: { tenant_id: string }, external_ids: readonly string[]) =>
    db.transaction({ role: "qd_app", tenant_id }, (tx) => findExternal(tx, external_ids));
  const own = { owner, store, tenantKey, blobs, quarantine, redactor };
  const captures = new Captures({ ...own, find, external, newRunId, ...seams });
  const door = { captures, owner, governance: registry, blobs, ...seams };
  const { clock } = seams;
  const staged = new PostgresStagedEvents(db);
  const preparing = { captures, redactor, quarantine, blobs, tenantKey, owner };
  const ingest = new Ingest({ ...preparing, store, staged, find, clock, log: outside.log });
  const otlp = new Otlp({ ...preparing, external, newRunId, turn: given.turn });
  const subscribe: Subscribe = (run_id, listener, moved) => {
    const stops = [
      given.watchers.subscribe(run_id, ({ drafts }) => listener(drafts)),
      given.watchers.subscribeGone(run_id, moved),
    ];
    return () => stops.forEach((stop) => stop());
  };
  const proxy = new Proxy({ ...door, redactor, quarantine, ...outside, subscribe });
  const tools = new ToolCalls({ ...door, store, subscribe, records: given.records });
  return { captures, ingest, otlp, proxy, tools };
}
