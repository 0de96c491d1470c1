// What takes events and spans of others, over the in-memory journal, with a clock that a test moves.
import { atOnce, Turn } from "../../src/kit/turn.ts";
import { newId } from "../../src/contract/ids.ts";
import type { StoredEvent } from "../../src/contract/events.ts";
import type { RunSummary } from "../../src/contract/journal.ts";
import { buildCatalog } from "../../src/core/catalog.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { Captures } from "../../src/capture/captures.ts";
import { Ingest } from "../../src/capture/ingest.ts";
import { Otlp } from "../../src/capture/otlp/otlp.ts";
import { Quarantine } from "../../src/capture/quarantine.ts";
import { Redactor } from "../../src/capture/redact.ts";
import { readWholeRun } from "../../src/journal/audit.ts";
import { MemoryJournalStore } from "../../src/journal/memory-store.ts";
import { chainFault } from "../../src/journal/verify.ts";
import { Engine } from "../../src/orchestrator/engine.ts";
import { systemRandom } from "../../src/adapters/system/system.ts";
import { silent, TENANT } from "./engine.ts";
import { FakeClock } from "./fake-clock.ts";
import { MemoryStagedEvents } from "./staged-events.ts";

export class CaptureWorld {
  readonly caller = { tenant_id: TENANT, project: "default", principal: "ada" };
  readonly clock = new FakeClock();
  readonly store = new MemoryJournalStore();
  readonly staged = new MemoryStagedEvents();
  readonly blobs = new Map<string, Uint8Array>();
  engine!: Engine;
  captures!: Captures;
  ingest!: Ingest;
  otlp!: Otlp;

  /** As a process that starts: whatever was open goes on. */
  async open(level: "secrets" | "off" = "secrets"): Promise<this> {
    const catalog = buildCatalog({ items: [], current: new Map() }, {});
    const { clock, store, staged } = this;
    const seams = { clock, random: systemRandom, newRunId: () => newId("run", { clock, random: systemRandom }) };
    const tenantKey = () => new Uint8Array(32).fill(7);
    const engine = new Engine({
      store,
      ...seams,
      governance: { of: () => ({ catalog, policy: null }) },
      queue: { dispatch: () => undefined, abort: () => undefined },
      tenantKey,
      log: silent,
      group: 0,
      owner: "test",
    });
    const find = async (_caller: object, run_id: string) => engine.peek(run_id) ?? store.runs.get(run_id) ?? null;
    const external = async (_caller: object, ids: readonly string[]): Promise<RunSummary[]> =>
      [...store.runs.values()].filter((run) => run.external_id !== null && ids.includes(run.external_id));
    const owner = () => engine;
    const blobs = { put: this.put.bind(this), get: this.get.bind(this) };
    const quarantine = new Quarantine({ blobs, tenantKey, random: systemRandom });
    const redactor = new Redactor(level);
    this.captures = new Captures({ owner, store, tenantKey, blobs, quarantine, redactor, find, external, ...seams });
    const preparing = { captures: this.captures, redactor, quarantine, blobs, tenantKey, owner };
    this.ingest = new Ingest({ ...preparing, store, staged, find, clock, log: silent });
    this.otlp = new Otlp({ ...preparing, external, turn: new Turn(clock, 1), ...seams });
    this.engine = engine;
    await engine.open();
    await this.ingest.resume(() => true);
    return this;
  }

  private async put(_tenant: string, content: Uint8Array): Promise<string> {
    const digest = `sha256:${this.blobs.size}`;
    this.blobs.set(digest, content);
    return digest;
  }

  private async get(_tenant: string, digest: string): Promise<Buffer> {
    return Buffer.from(this.blobs.get(digest) ?? []);
  }

  /** Events of a run, whose chain is checked. */
  async events(run_id: string): Promise<StoredEvent[]> {
    const rows = await readWholeRun(this.store, TENANT, run_id);
    const wrong = atOnce(chainFault(rows));
    if (wrong) throw new Error(`the chain of ${run_id} is broken: ${JSON.stringify(wrong)}`);
    return rows.flatMap((row) => decodeBody(row.body));
  }

  async types(run_id: string): Promise<string[]> {
    return (await this.events(run_id)).map((event) => event.type);
  }
}
