// What must be true of every history. Each oracle returns what is wrong, in words.
import { decodeBody } from "../../src/core/chain.ts";
import type { StoredEvent } from "../../src/contract/events.ts";
import { isTerminal } from "../../src/contract/events.ts";
import { redecide } from "../../src/core/redecide.ts";
import { verifyRun } from "../../src/journal/verify.ts";
import { emptyRun } from "../../src/core/run-state.ts";
import { fold } from "../../src/core/fold.ts";
import type { Sim } from "./sim.ts";
import { DEAR_MICRO_USD, SHARED_LIMIT, TOOLS } from "./world.ts";

const toolName = (event: StoredEvent) => String(event.data["tool"] ?? "").replace(/@1$/, "");

function effects(sim: Sim, run_id: string, events: readonly StoredEvent[], faults: string[]): void {
  const requested = new Map(events.filter((e) => e.type === "tool.requested").map((e) => [e.step ?? 0, toolName(e)]));
  for (const [step, name] of requested) {
    const key = `${run_id}/${step}`;
    const count = sim.effects.count.get(key) ?? 0;
    if (TOOLS.get(name)?.idempotent === false && count > 1 && !sim.personRetried.has(key))
      faults.push(`${key}: ${name} had its effect ${count} times`);
    const outcomes = events.filter(
      (e) =>
        e.step === step &&
        (e.type === "tool.completed" || (e.type === "step.resolved" && e.data["resolution"] === "completed")),
    );
    if (outcomes.length > 1) faults.push(`${key}: ${outcomes.length} outcomes`);
  }
  for (const [key] of sim.effects.count) {
    const [run, step] = key.split("/");
    if (run === run_id && !requested.has(Number(step))) faults.push(`${key}: an effect without a committed intent`);
  }
}

function mediation(sim: Sim, run_id: string, events: readonly StoredEvent[], faults: string[]): void {
  for (const [index, event] of events.entries()) {
    if (event.type !== "tool.requested" && event.type !== "model.requested") continue;
    const decided = events[index - 1];
    if (decided?.type !== "policy.decided" || decided.step !== event.step || decided.data["decision"] !== "allow") {
      faults.push(`${run_id} seq ${event.seq}: an intent without an allow just before it`);
    }
    const name = toolName(event);
    if (name === "forbidden") faults.push(`${run_id} seq ${event.seq}: a forbidden tool was requested`);
    const isDear = event.type === "model.requested" && Number(decided?.data["reserves"]) > DEAR_MICRO_USD;
    if (name !== "approve_me" && !isDear) continue;
    if (isDear) sim.saw("a model call was approved");
    const asked = events.findLast(
      (e) => e.type === "human.approval_requested" && e.step === event.step && e.seq < event.seq,
    );
    const granted = events.filter(
      (e) =>
        e.type === "human.approval_resolved" &&
        e.step === event.step &&
        e.data["decision"] === "approved" &&
        e.seq < event.seq,
    );
    if (!asked || granted.length !== 1) faults.push(`${run_id} seq ${event.seq}: ran without exactly one approval`);
    if (granted.some((e) => e.data["by"] === "ada"))
      faults.push(`${run_id} seq ${event.seq}: approved by the one who asked`);
    if (granted.some((e) => e.at > Number(asked?.data["expires"])))
      faults.push(`${run_id} seq ${event.seq}: approved after it expired`);
  }
}

/** What a task minds holds for each of its calls, and its models are asked in their order. */
function routes(sim: Sim, run_id: string, events: readonly StoredEvent[], faults: string[]): void {
  const routing = events[0]?.data["routing"] as { privacy: string } | undefined;
  if (!routing) return;
  let at = -1;
  for (const { type, seq, data } of events) {
    if (type === "routing.decided") {
      if (data["at"] !== at + 1) faults.push(`${run_id} seq ${seq}: from model ${at} to ${String(data["at"])}`);
      at = Number(data["at"]);
      if (at > 0) sim.saw("a task asked its next model");
    }
    if (type !== "model.requested") continue;
    const model = String(data["model"]).replace(/@1$/, "");
    if (model !== ["sim", "spare"][at] && data["approved"] === undefined)
      faults.push(`${run_id} seq ${seq}: ${model} was asked, and number ${at} was its turn`);
    if (model === "sim" && routing.privacy === "local-only") faults.push(`${run_id} seq ${seq}: ${model} is not local`);
  }
}

function money(sim: Sim, all: ReadonlyMap<string, StoredEvent[]>, faults: string[]): void {
  let spent = 0;
  let open = 0;
  for (const [run_id, events] of all) {
    const run = emptyRun(sim.tenant, run_id);
    for (const event of events) fold(run, event, event.at, sim.catalog);
    spent += run.totals.spent_micro;
    open += run.totals.reserved_micro;
    if (isTerminal(run.state) && run.totals.reserved_micro !== 0)
      faults.push(`${run_id}: ended with ${run.totals.reserved_micro} reserved`);
  }
  const rows = [...sim.store.budgets.values()];
  const kept = rows.reduce((sum, row) => sum + row.spent_micro_usd, 0);
  const reserved = rows.reduce((sum, row) => sum + row.reserved_micro_usd, 0);
  if (kept !== spent) faults.push(`the budget says ${kept} spent, the journal says ${spent}`);
  if (reserved !== open) faults.push(`the budget says ${reserved} reserved, the journal says ${open}`);
  if (kept + reserved > SHARED_LIMIT) faults.push(`the shared budget is overspent: ${kept} + ${reserved}`);
  if (sim.budgetPeaks.length > 0) faults.push(`the shared budget was overspent at ${sim.budgetPeaks[0]}`);
}

function shape(sim: Sim, run_id: string, events: readonly StoredEvent[], faults: string[]): void {
  const rows = sim.store.rows.filter((row) => row.run_id === run_id);
  const result = verifyRun(rows);
  if ("fault" in result) faults.push(`${run_id} seq ${result.seq}: ${result.fault}`);
  const ends = events.filter((e) =>
    /^run\.(succeeded|failed|cancelled|timed_out|budget_exceeded|policy_blocked)$/.test(e.type),
  );
  if (ends.length > 1) faults.push(`${run_id}: ${ends.length} ends`);
  const summary = sim.store.runs.get(run_id);
  if (ends.length === 1 && summary && `run.${summary.state}` !== ends[0]?.type)
    faults.push(`${run_id}: the summary says ${summary.state}, the journal ${ends[0]?.type}`);
  // Once faults stop and people answer, nothing may be left hanging.
  if (ends.length === 0)
    faults.push(`${run_id}: never ended (${summary?.state ?? "no summary"}, ${summary?.reason ?? ""})`);
}

/** Exact replay: each decision, taken again from the recording alone, is the recorded one. */
function replays(sim: Sim, run_id: string, faults: string[]): void {
  const rows = sim.store.rows.filter((row) => row.run_id === run_id);
  const { mismatch, drafts } = redecide({
    appends: rows.map((row) => decodeBody(row.body)),
    begin: () => emptyRun(sim.tenant, run_id),
    governed: () => [{ catalog: sim.catalog, policy: sim.policy }],
  });
  if (mismatch) faults.push(`${run_id} seq ${mismatch.seq}: replayed otherwise: ${mismatch.message}`);
  else if (drafts.length !== rows.at(-1)?.last_seq) faults.push(`${run_id}: replayed to ${drafts.length} events`);
}

/** Everything wrong with a finished simulation; empty when all holds. */
export function check(sim: Sim): string[] {
  const faults: string[] = [];
  const all = new Map<string, StoredEvent[]>();
  for (const row of sim.store.rows) all.set(row.run_id, [...(all.get(row.run_id) ?? []), ...decodeBody(row.body)]);
  for (const run_id of sim.acknowledged) if (!all.has(run_id)) faults.push(`${run_id}: acknowledged and lost`);
  const heads = new Map<number, number>();
  for (const { group, offset } of sim.store.rows) {
    const next = (heads.get(group) ?? 0) + 1;
    if (offset !== next) faults.push(`offset ${next} of group ${group} is missing or doubled`);
    heads.set(group, offset);
  }
  for (const [run_id, events] of all) {
    shape(sim, run_id, events, faults);
    effects(sim, run_id, events, faults);
    mediation(sim, run_id, events, faults);
    routes(sim, run_id, events, faults);
    replays(sim, run_id, faults);
  }
  if (sim.effects.denied.length > 0) faults.push(`${sim.effects.denied[0]}: a denied tool was executed`);
  if (faults.length === 0) money(sim, all, faults);
  return faults;
}
