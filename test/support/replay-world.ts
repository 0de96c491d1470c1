// An engine, a registry made of manifests and replays over the in-memory journal; a script plays the outside world and counts
// what reached it.
import { digestOf } from "../../src/kit/hash.ts";
import { canonicalJson } from "../../src/kit/jcs.ts";
import { Turn } from "../../src/kit/turn.ts";
import type { Job, JobOutcome, JobQueue } from "../../src/contract/jobs.ts";
import type { RegistryItem } from "../../src/contract/manifests.ts";
import type { ReplaySession } from "../../src/contract/replay.ts";
import { buildCatalog, policySet } from "../../src/core/catalog.ts";
import type { Governance, Governed, Scope } from "../../src/core/governance.ts";
import { Policy } from "../../src/core/policy.ts";
import { MemoryJournalStore } from "../../src/journal/memory-store.ts";
import { PastReader } from "../../src/journal/past.ts";
import { Engine } from "../../src/orchestrator/engine.ts";
import type { Commit } from "../../src/orchestrator/engine.ts";
import { readManifests } from "../../src/orchestrator/manifests.ts";
import { Replays } from "../../src/replay/replays.ts";
import { freshRun, seams, silent, startData, TENANT } from "./engine.ts";

/** Versions by name, in the order in which they were applied. */
class Shelf implements Governance {
  private readonly items: RegistryItem[] = [];
  private readonly moves: { at_us: number; key: string; version: number }[] = [];

  apply(yaml: string): void {
    for (const manifest of readManifests(yaml)) {
      const { kind, name, spec } = manifest;
      const digest = digestOf(canonicalJson(spec));
      const version = this.items.filter((item) => item.kind === kind && item.name === name).length + 1;
      const common = { created_by: "ada", created_at_us: 0, state: "released" as const };
      this.items.push({ kind, name, version, digest, spec, ...common });
      this.moves.push({ at_us: seams.clock.now_us(), key: `${kind}/${name}`, version });
    }
  }

  has(kind: string, name: string, version: number): boolean {
    return this.items.some((item) => item.kind === kind && item.name === name && item.version === version);
  }

  of(scope: Scope): Governed {
    return this.at(scope, Infinity);
  }

  asOf(scope: Scope, at_us: number): Governed[] {
    return [this.at(scope, at_us)];
  }

  private at({ overrides }: Scope, at_us: number): Governed {
    const current = new Map(this.moves.filter((move) => move.at_us <= at_us).map((move) => [move.key, move.version]));
    const { tools, prompts, policies } = overrides ?? {};
    for (const [kind, versions] of Object.entries({ Tool: tools, Prompt: prompts, Policy: policies }))
      for (const [name, version] of Object.entries(versions ?? {})) current.set(`${kind}/${name}`, version);
    const snapshot = { items: this.items, current };
    return { catalog: buildCatalog(snapshot, {}), policy: new Policy(policySet(snapshot)) };
  }
}

export type Script = (job: Job) => JobOutcome;

export class ReplayWorld {
  readonly store = new MemoryJournalStore();
  readonly shelf = new Shelf();
  /** Jobs that reached the world. */
  readonly calls: Job[] = [];
  readonly replays: Replays;
  readonly artifacts = new Set<string>();
  engine: Engine;
  private script: Script;
  private readonly past: PastReader;
  private readonly ends = new Map<string, () => void>();

  constructor(yaml: string, script: Script) {
    this.shelf.apply(yaml);
    this.script = script;
    this.past = new PastReader({ store: this.store, governance: this.shelf });
    this.engine = this.newEngine();
    this.replays = new Replays({
      owner: () => this.engine,
      store: this.store,
      past: this.past,
      governance: this.shelf,
      blobs: { has: async (_tenant, digest) => this.artifacts.has(digest) },
      find: async (_caller, run_id) => this.engine.peek(run_id) ?? this.store.runs.get(run_id) ?? null,
      has: (_caller, kind, name, version) => this.shelf.has(kind, name, version),
      turn: new Turn(seams.clock, 1),
      ...seams,
    });
  }

  readonly caller = { tenant_id: TENANT, project: "default", principal: "ada" };

  set world(script: Script) {
    this.script = script;
  }

  private newEngine(): Engine {
    const queue: JobQueue = {
      dispatch: (jobs) => {
        this.calls.push(...jobs);
        const results = jobs.map((job) => {
          const { tenant_id, run_id, step, attempt, kind } = job;
          return { tenant_id, run_id, step, attempt, kind, duration_ms: 1, outcome: this.script(job) };
        });
        queueMicrotask(() => this.engine.results(results));
      },
      abort: () => undefined,
    };
    return new Engine({
      store: this.store,
      ...seams,
      governance: this.shelf,
      past: this.past.state.bind(this.past),
      queue,
      tenantKey: () => new Uint8Array(32),
      log: silent,
      group: 0,
      owner: "test",
      onCommit: (commit) => this.committed(commit),
    });
  }

  /** As after a crash: another engine takes the runs over. */
  async restart(): Promise<void> {
    this.engine = this.newEngine();
    await this.engine.open();
  }

  private committed(commit: Commit): void {
    if (!["running", "queued"].includes(commit.summary.state)) this.ends.get(commit.run_id)?.();
  }

  /** Resolves when a run has ended or waits. */
  async rests(run_id: string): Promise<string> {
    for (;;) {
      const state = (this.engine.peek(run_id) ?? this.store.runs.get(run_id))?.state ?? "queued";
      if (!["running", "queued"].includes(state)) return state;
      await new Promise<void>((resolve) => {
        this.ends.set(run_id, resolve);
        setTimeout(resolve, 5);
      });
    }
  }

  async run(kind: "agent" | "workflow", name: string, input: unknown, version = 1): Promise<string> {
    const run_id = freshRun();
    const data = startData(kind, name, input, { target: { digest: "d", kind, name, version } });
    await this.engine.start({ tenant_id: TENANT, run_id, command: { type: "start", data } });
    await this.rests(run_id);
    return run_id;
  }

  /** The session once its run rests. */
  async settled(session: ReplaySession): Promise<ReplaySession> {
    await this.rests(session.replay_id);
    return this.replays.get(this.caller, session.replay_id);
  }

  digest(run_id: string): string {
    return this.store.rows
      .filter((row) => row.run_id === run_id)
      .map((row) => row.chain.toString("hex"))
      .join();
  }
}
