// The journal's use cases that span modules: verify, export, import, captured runs.
import { present } from "../kit/assert.ts";
import { isObject } from "../kit/json.ts";
import type { Turn } from "../kit/turn.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { AppError } from "../contract/errors.ts";
import type { StoredEvent } from "../contract/events.ts";
import { idBytes } from "../contract/ids.ts";
import { groupOf, SIGNER_GROUP } from "../contract/placement.ts";
import type { AppendRow, ApprovalRow, BudgetUse, CommittedRow, JournalStore, RunSummary } from "../contract/journal.ts";
import type { RegistryItem } from "../contract/manifests.ts";
import type { BlobStore, Db } from "../contract/ports.ts";
import type { QuarantinedPayload } from "../contract/runs.ts";
import { artifactsOf } from "../core/artifacts.ts";
import { decodeBody, decodingRows } from "../core/chain.ts";
import { privacyRisk } from "../core/privacy.ts";
import { importRecorded } from "../capture/import.ts";
import { quarantinedIn } from "../capture/quarantine.ts";
import type { Quarantine } from "../capture/quarantine.ts";
import type { Redactor } from "../capture/redact.ts";
import type { Sealing } from "../capture/sealing.ts";
import type { ImportSeams } from "../capture/import.ts";
import { readWholeRun, verifyAll, verifyOne } from "../journal/audit.ts";
import type { Verified } from "../journal/audit.ts";
import { EXPORT_FORMAT, readingBundle, rowLine, sealed } from "../journal/bundle.ts";
import { listCheckpoints } from "../journal/checkpoint.ts";
import { proveEvent, sealOf } from "../journal/event-proof.ts";
import { proofLines } from "../journal/proofs.ts";
import { budgetKey } from "../journal/writer.ts";
import type { Checkpointer, Signer, Witness } from "../journal/checkpoint.ts";
import type { Engine } from "../orchestrator/engine.ts";
import type { Registry } from "../orchestrator/registry.ts";
import type { Caller } from "../orchestrator/runs.ts";
import type { Triggers } from "../orchestrator/triggers.ts";
import { listApprovals } from "../store/approvals.ts";
import type { AliasMove } from "../core/registry-history.ts";
import type { Alias } from "../store/registry.ts";
import { getRun, listRuns } from "../store/runs.ts";
import type { EventProof, ExportProfile } from "../contract/journal-routes.ts";
import type { Imported, ImportedRun, JournalService } from "../gateway/services.ts";

export interface JournalServiceOptions {
  readonly store: JournalStore;
  readonly db: Db;
  readonly blobs: BlobStore;
  readonly registry: Registry;
  readonly signer: Signer;
  readonly witness: Witness;
  readonly checkpointer: Checkpointer;
  readonly engine: () => Pick<Engine, "importRun">;
  readonly seams: ImportSeams;
  /** Groups whose runs are taken here; one node signs for all. */
  readonly owned: () => readonly number[];
  readonly redactor: Redactor;
  readonly quarantine: Quarantine;
  readonly sealing: Sealing;
  /** Triggers that are new here wait until somebody lets them go on: where they come from they may still be at work. */
  readonly holdTriggers: Triggers["hold"];
  readonly groups: number;
  readonly turn: Turn;
}

const PAGE = 200;

export class LocalJournalService implements JournalService {
  private readonly options: JournalServiceOptions;

  constructor(options: JournalServiceOptions) {
    this.options = options;
  }

  async verify(caller: Caller, run_id: string | null): Promise<Verified> {
    if (run_id !== null) {
      idBytes("run", run_id);
      return verifyOne(this.options, caller.tenant_id, run_id);
    }
    await this.checkpoint();
    return verifyAll(this.options);
  }

  private async checkpoint(): Promise<void> {
    if (this.options.owned().includes(SIGNER_GROUP)) await this.options.checkpointer.tick();
  }

  async checkExport(caller: Caller, run_id: string, profile: ExportProfile): Promise<void> {
    const missing: string[] = [];
    for await (const run of this.runs(caller, run_id)) {
      const events = await this.events(caller, run.run_id);
      checkPrivacy(run.run_id, events);
      for (const digest of profile === "full" ? artifactsOf(events) : [])
        if (!(await this.options.blobs.has(caller.tenant_id, digest))) missing.push(digest);
    }
    if (missing.length === 0) return;
    const message = `Run ${run_id} names ${missing.length} artifacts that are not here: ${missing.slice(0, 3).join(", ")}`;
    throw new AppError("ARTIFACT_MISSING", message, { details: { run_id, missing: missing.slice(0, 100) } });
  }

  private async events({ tenant_id }: Caller, run_id: string): Promise<StoredEvent[]> {
    const { store, turn } = this.options;
    return (await turn.pieces(decodingRows(await readWholeRun(store, tenant_id, run_id)))).flat();
  }

  /** Payloads that nobody could look at, once somebody has taken that on. Throws PRIVACY_RISK before. */
  async quarantined(caller: Caller, run_id: string): Promise<QuarantinedPayload[]> {
    const scope = { role: "qd_app" as const, tenant_id: caller.tenant_id };
    const run = await this.options.db.transaction(scope, (tx) => getRun(tx, run_id));
    if (run?.project_id !== caller.project) throw new AppError("NOT_FOUND", `There is no run ${run_id}`);
    const events = await this.events(caller, run_id);
    checkPrivacy(run_id, events);
    const place = { tenant_id: caller.tenant_id, run_id };
    const items: QuarantinedPayload[] = [];
    for (const { seq, type, data, origin } of events)
      for (const mark of [data["redaction"], origin?.said?.["redaction"]])
        for (const { at, value } of await this.options.quarantine.open(place, mark))
          items.push({ seq, type, at, value });
    return items;
  }

  async prove(caller: Caller, run_id: string, seq: number): Promise<EventProof> {
    const { db, sealing, signer, store } = this.options;
    const place = { tenant_id: caller.tenant_id, run_id };
    const scope = { role: "qd_app" as const, tenant_id: caller.tenant_id };
    const run = await db.transaction(scope, (tx) => getRun(tx, run_id));
    if (run?.project_id !== caller.project) throw new AppError("NOT_FOUND", `There is no run ${run_id}`);
    if (!run.sealed) await sealing.seal(place);
    const rows = await readWholeRun(store, caller.tenant_id, run_id);
    checkPrivacy(
      run_id,
      rows.flatMap((row) => decodeBody(row.body)),
    );
    return proveEvent(rows, present(sealOf(rows), "a sealed run has a seal"), seq, signer.public_key);
  }

  export(caller: Caller, run_id: string | null, profile: ExportProfile): AsyncIterable<string> {
    return sealed(this.lines(caller, run_id, profile));
  }

  private async *lines(caller: Caller, run_id: string | null, profile: ExportProfile): AsyncIterable<JsonObject> {
    const { registry, db, store } = this.options;
    const scope = { role: "qd_app" as const, tenant_id: caller.tenant_id };
    yield {
      type: "header",
      format: EXPORT_FORMAT,
      profile,
      scope: run_id === null ? "all" : "run",
      tenant_id: caller.tenant_id,
      project: caller.project,
    };
    // What starts runs is no part of one: it must not begin to do so where that one is read.
    const wanted = ({ kind }: { kind: string }) => run_id === null || kind !== "Trigger";
    const { tenant_id, project } = caller;
    for (const item of registry.items(tenant_id, project).filter(wanted)) yield { type: "item", item: plain(item) };
    for (const alias of registry.aliases(tenant_id, project).filter(wanted))
      yield { type: "alias", alias: plain(alias) };
    for (const move of registry.moves(tenant_id, project).filter(wanted)) yield { type: "move", move: plain(move) };
    // What is proven must be covered by a checkpoint.
    if (run_id !== null) await this.checkpoint();
    const digests = new Set<string>();
    const named = new Set<string>();
    const proven: CommittedRow[] = [];
    for await (const run of this.runs(caller, run_id)) {
      for (const row of await readWholeRun(store, caller.tenant_id, run.run_id)) {
        const events = decodeBody(row.body);
        for (const digest of row.body.toString("utf8").matchAll(/sha256:[0-9a-f]{64}/g)) digests.add(digest[0]);
        for (const digest of artifactsOf(events)) named.add(digest);
        // Only the keys of this server open them: they belong into its backup, not to others.
        if (run_id !== null) for (const digest of boxesOf(events)) digests.delete(digest);
        if (run_id !== null) proven.push(row);
        yield rowLine(row);
        const pause = this.options.turn.pause();
        if (pause) await pause;
      }
      yield { type: "run", run: plain(run) };
    }
    const approvals = await db.transaction(scope, (tx) => listApprovals(tx, { limit: 1_000_000 }));
    for (const approval of approvals) {
      if (run_id === null || approval.run_id === run_id) yield { type: "approval", approval: plain(approval) };
    }
    for (const digest of profile === "full" ? [...digests].sort() : []) {
      // Digests of definitions and policies look like those of artifacts; only what is stored is one.
      if (!(await this.options.blobs.has(caller.tenant_id, digest))) {
        if (named.has(digest)) yield { type: "missing", digest };
        continue;
      }
      const bytes = await this.options.blobs.get(caller.tenant_id, digest);
      yield { type: "artifact", digest, bytes: bytes.toString("base64") };
    }
    if (run_id === null) {
      const use = (await store.budgetUse(null)).filter((row) => row.tenant_id === caller.tenant_id);
      for (const budget of use) yield { type: "budget", budget: plain(budget) };
    }
    const checkpoints = await db.transaction(scope, (tx) => listCheckpoints(tx, 0, 1_000_000));
    if (run_id !== null) return yield* proofLines({ store, checkpoints, signer: this.options.signer }, proven);
    for (const checkpoint of checkpoints) yield { type: "checkpoint", checkpoint: plain(checkpoint) };
  }

  private async *runs(caller: Caller, run_id: string | null): AsyncIterable<RunSummary> {
    const scope = { role: "qd_app" as const, tenant_id: caller.tenant_id };
    if (run_id !== null) {
      // With the runs that it has its past from: without them it could not be read.
      for (let id: string | null = run_id; id !== null;) {
        const wanted: string = id;
        const run: RunSummary | null = await this.options.db.transaction(scope, (tx) => getRun(tx, wanted));
        if (run) yield run;
        id = run?.source_run_id ?? null;
      }
      return;
    }
    for (let before: string | undefined; ;) {
      const filter = { limit: PAGE, ...(before === undefined ? {} : { before }) };
      const page = await this.options.db.transaction(scope, (tx) => listRuns(tx, filter));
      yield* page;
      before = page.at(-1)?.run_id;
      if (page.length < PAGE) return;
    }
  }

  async import(
    caller: Caller,
    text: string,
    part?: { groups: readonly number[]; budgets: boolean },
  ): Promise<Imported> {
    const { groups, owned } = this.options;
    const bundle = await this.options.turn.pieces(readingBundle(text));
    if (bundle.header["tenant_id"] !== caller.tenant_id) {
      throw new AppError(
        "IMPORT_INVALID",
        `The file belongs to tenant ${String(bundle.header["tenant_id"])}; its chains name that tenant`,
      );
    }
    const of = <T>(type: string, key: string): T[] =>
      bundle.lines.filter((line) => line["type"] === type).map((line) => line[key] as T);
    await this.options.holdTriggers(caller, of<Alias>("alias", "alias"));
    await this.options.registry.restore(
      caller.tenant_id,
      caller.project,
      of<RegistryItem>("item", "item"),
      of<Alias>("alias", "alias"),
      of<AliasMove>("move", "move"),
    );
    let artifacts = 0;
    for (const line of bundle.lines) {
      if (line["type"] !== "artifact") continue;
      await this.options.blobs.put(caller.tenant_id, Buffer.from(String(line["bytes"]), "base64"));
      artifacts += 1;
    }
    const summaries = new Map(of<RunSummary>("run", "run").map((run) => [run.run_id, run]));
    const approvals = of<ApprovalRow>("approval", "approval");
    const saved = part?.budgets === false ? [] : of<BudgetUse>("budget", "budget");
    let budgets = await this.freshBudgets(saved);
    const here = new Set(owned());
    const elsewhere = new Set<number>();
    let runs = 0;
    let skipped = 0;
    for (const [run_id, rows] of [...bundle.rows].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const group = groupOf(run_id, groups);
      if (part && !part.groups.includes(group)) continue;
      if (!here.has(group)) {
        elsewhere.add(group);
        continue;
      }
      const summary = summaries.get(run_id);
      if (!summary) throw new AppError("IMPORT_INVALID", `The file has rows of run ${run_id} and no summary`);
      const done = await this.importRun(
        caller,
        rows,
        summary,
        approvals.filter((approval) => approval.run_id === run_id),
        budgets,
      );
      if (done) budgets = [];
      if (done) runs += 1;
      else skipped += 1;
    }
    await this.checkpoint();
    return { runs, events: bundle.events, artifacts, skipped, elsewhere: [...elsewhere] };
  }

  /**
   * What a backup says was spent, for budgets that nobody has used here yet: on an empty server limits hold on. What open
   * runs hold comes with them.
   */
  private async freshBudgets(saved: readonly BudgetUse[]): Promise<BudgetUse[]> {
    const here = new Set((await this.options.store.budgetUse(null)).map((use) => budgetKey(use)));
    return saved
      .filter((use) => !here.has(budgetKey(use)))
      .map((use) => ({ ...use, reserved_micro_usd: 0, reserved_tokens: 0 }));
  }

  /** False when the run is here already with the same end: importing twice changes nothing. */
  private async importRun(
    caller: Caller,
    rows: readonly AppendRow[],
    summary: RunSummary,
    approvals: readonly ApprovalRow[],
    budgets: readonly BudgetUse[],
  ): Promise<boolean> {
    const existing = await readWholeRun(this.options.store, caller.tenant_id, summary.run_id);
    const last = existing.at(-1);
    if (last) {
      if (last.chain.equals(rows.at(-1)?.chain ?? Buffer.alloc(0))) return false;
      throw new AppError("RUN_EXISTS", `Run ${summary.run_id} is here with other events`);
    }
    await this.options.engine().importRun({ rows, summary, approvals, budgets });
    return true;
  }

  async importRuns(caller: Caller, format: string, text: string): Promise<readonly ImportedRun[]> {
    const imported = await importRecorded({
      format,
      text,
      caller,
      seams: this.options.seams,
      redactor: this.options.redactor,
      turn: this.options.turn,
      quarantine: this.options.quarantine,
    });
    const results: ImportedRun[] = [];
    for (const run of imported) {
      await this.options.engine().importRun({ rows: run.rows, summary: run.summary, approvals: [], budgets: [] });
      results.push({
        run_id: run.summary.run_id,
        key: run.key,
        events: run.rows.at(-1)?.last_seq ?? 0,
        fidelity: run.fidelity,
      });
    }
    return results;
  }
}

function checkPrivacy(run_id: string, events: readonly StoredEvent[]): void {
  const seqs = privacyRisk(events);
  if (seqs.length === 0) return;
  throw new AppError("PRIVACY_RISK", `A payload of event ${seqs[0]} of ${run_id} could not be redacted`, {
    details: { run_id, seqs: seqs.slice(0, 100) },
  });
}

/** Artifacts that only this server can read. */
function boxesOf(events: readonly StoredEvent[]): string[] {
  const marked = events
    .flatMap(({ data, origin }) => [data["redaction"], origin?.said?.["redaction"]])
    .flatMap((mark) => quarantinedIn(mark).map((one) => one.digest));
  return [
    ...marked,
    ...events.flatMap(({ data: { args_box } }) => (isObject(args_box) ? String(args_box["digest"]) : [])),
  ];
}

function plain(value: unknown): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}
