// Builds an engine over the in-memory journal for tests, with parts that a test may replace.
import { MemoryJournalStore } from "../../src/journal/memory-store.ts";
import { Engine } from "../../src/orchestrator/engine.ts";
import type { Commit } from "../../src/orchestrator/engine.ts";
import { systemClock, systemRandom } from "../../src/adapters/system/system.ts";
import { encodeId, uuidBytes } from "../../src/kit/ids.ts";
import { newId } from "../../src/contract/ids.ts";
import type { Catalog } from "../../src/contract/catalog.ts";
import type { JobQueue } from "../../src/contract/jobs.ts";
import type { Log } from "../../src/contract/ports.ts";
import type { Policy } from "../../src/core/policy.ts";
import type { JsonObject } from "../../src/kit/json.ts";

export const TENANT = encodeId("ten", uuidBytes("00000000-0000-7000-8000-000000000001"));
export const silent: Log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const clocks = { clock: systemClock, random: systemRandom };
export const seams = { ...clocks, newRunId: () => newId("run", clocks) };

export interface Harness {
  readonly store: MemoryJournalStore;
  readonly engine: Engine;
  readonly commits: Commit[];
}

export async function openEngine(options: {
  catalog: Catalog;
  policy: Policy | null;
  queue: (report: Engine["results"]) => JobQueue;
  store?: MemoryJournalStore;
  onCommit?: (commit: Commit) => void;
  log?: Log;
  park_after_ms?: number;
}): Promise<Harness> {
  const store = options.store ?? new MemoryJournalStore();
  const commits: Commit[] = [];
  const { catalog, policy } = options;
  const engine: Engine = new Engine({
    store,
    ...seams,
    governance: { of: () => ({ catalog, policy }) },
    queue: options.queue((results) => engine.results(results)),
    tenantKey: () => new Uint8Array(32),
    log: options.log ?? silent,
    group: 0,
    owner: "test",
    ...(options.park_after_ms === undefined ? {} : { park_after_ms: options.park_after_ms }),
    onCommit: (commit) => {
      commits.push(commit);
      options.onCommit?.(commit);
    },
  });
  await engine.open();
  return { store, engine, commits };
}

export function startData(
  kind: "agent" | "workflow",
  name: string,
  input: unknown = "go",
  extra: JsonObject = {},
): JsonObject {
  return {
    env: "dev",
    input: input as JsonObject,
    kind,
    project: "default",
    requester: "ada",
    target: { digest: "d", kind, name, version: 1 },
    ...extra,
  };
}

export const freshRun = () => newId("run", seams);
