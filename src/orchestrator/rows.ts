// The rows that commit with an append: the run's summary, and approvals that were asked or answered. Derived from the
// state and the events alone, so they can be rebuilt from the journal.
import { derivedId } from "../kit/ids.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { EventDraft } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import { PREFIXES } from "../contract/ids.ts";
import type { ApprovalRow, RunSummary } from "../contract/journal.ts";
import type { RunState, StepState } from "../core/run-state.ts";

export function summaryOf(run: RunState): RunSummary {
  return {
    tenant_id: run.tenant_id,
    project_id: run.project,
    run_id: run.run_id,
    kind: run.kind,
    target: run.target,
    env: run.env,
    state: run.state,
    reason: run.reason,
    requester: run.requester,
    created_at_us: run.created_us,
    updated_at_us: run.updated_us,
    steps: run.step_count,
    cost_micro_usd: run.totals.spent_micro,
    tokens: run.totals.spent_tokens,
    retry_of: run.retry_of,
    source_run_id: run.source_run_id,
    external_id: run.external_id,
    sealed: run.sealed,
  };
}

/** Events of a run as a whole that do not change its state. */
const STATELESS: readonly string[] = ["run.stopping", "run.input", "run.output"];

export function changesSummary(drafts: readonly EventDraft[]): boolean {
  return drafts.some(({ type }) => type.startsWith("run.") && !STATELESS.includes(type));
}

/** What an approver is shown: rendered from the arguments that will run, never from an agent's words about them. */
function asked(run: RunState, run_bytes: Uint8Array, step: StepState, draft: EventDraft, now_us: number): ApprovalRow {
  const { data } = draft;
  const shown = {
    agent: run.target,
    args: step.shown?.args ?? step.args,
    definition: String(data["definition"]),
    reason: String(data["reason"]),
    [step.kind]: step.target,
  };
  return {
    tenant_id: run.tenant_id,
    approval_id: derivedId(PREFIXES.approval, run_bytes, Number(data["number"])),
    run_id: run.run_id,
    step: step.n,
    state: "pending",
    tool: step.target,
    shown: canonicalJson(shown),
    binding: String(data["binding"]),
    requester: run.requester,
    approvers_min: Number(data["approvals_min"]),
    created_at_us: now_us,
    expires_at_us: Number(data["expires"]),
    resolved_by: null,
    resolved_at_us: null,
    note: null,
  };
}

/** Approval rows that these events change. `pending` is the run's open approvals and is kept up to date. */
export function approvalRows(options: {
  run: RunState;
  run_bytes: Uint8Array;
  drafts: readonly EventDraft[];
  pending: Map<number, ApprovalRow>;
  now_us: number;
}): ApprovalRow[] {
  const { run, pending, now_us } = options;
  const changed: ApprovalRow[] = [];
  for (const draft of options.drafts) {
    if (draft.type === "human.approval_requested") {
      const step = run.steps.get(draft.step ?? 0);
      if (!step) continue;
      const row = asked(run, options.run_bytes, step, draft, now_us);
      pending.set(Number(draft.data["number"]), row);
      changed.push(row);
    } else if (draft.type === "human.approval_resolved" && draft.data["final"] === true) {
      const number = Number(draft.data["number"]);
      const row = pending.get(number);
      pending.delete(number);
      if (row)
        changed.push(
          resolved(
            row,
            String(draft.data["decision"]),
            String(draft.data["by"]),
            String(draft.data["note"] ?? ""),
            now_us,
          ),
        );
    }
  }
  if (!isTerminal(run.state)) return changed;
  for (const row of pending.values()) changed.push(resolved(row, "expired", "quarterdeck", "the run ended", now_us));
  pending.clear();
  return changed;
}

function resolved(row: ApprovalRow, decision: string, by: string, note: string, now_us: number): ApprovalRow {
  const state = decision === "approved" || decision === "rejected" ? decision : "expired";
  return { ...row, state, resolved_by: by, resolved_at_us: now_us, note: note === "" ? null : note };
}
