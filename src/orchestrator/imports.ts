// Commits the rows of a run as they are (an import). Their chain was verified before; the run must be new here.
import { AppError } from "../contract/errors.ts";
import { isTerminal } from "../contract/events.ts";
import type { AppendRow, ApprovalRow, BudgetDelta, JournalStore, RunSummary } from "../contract/journal.ts";
import type { GroupWriter } from "../journal/writer.ts";
import type { Ledger } from "./ledger.ts";
import type { RunLoader } from "./run-loader.ts";

export interface RunImport {
  readonly rows: readonly AppendRow[];
  readonly summary: RunSummary;
  readonly approvals: readonly ApprovalRow[];
  readonly budgets: readonly BudgetDelta[];
}

/** Returns when all is committed; true for a run that has to be taken over then, as after a crash. Throws RUN_EXISTS. */
export async function importRows(
  { rows, summary, approvals, budgets: given }: RunImport,
  parts: { store: JournalStore; writer: GroupWriter; ledger: Ledger; loader: RunLoader },
): Promise<boolean> {
  const { tenant_id, run_id } = summary;
  if ((await parts.store.readRun(null, run_id, 1, 1)).length > 0)
    throw new AppError("RUN_EXISTS", `Run ${run_id} is in the journal already`, { details: { run_id } });
  const isOpen = !isTerminal(summary.state);
  const held = isOpen ? parts.ledger.heldBy(parts.loader.fold(tenant_id, run_id, rows)) : [];
  const budgets = [...given, ...held];
  // All at once: they go out in order, in as few commits as they fit in.
  const last = rows.length - 1;
  const none = { run: null, approvals: [], budgets: [] };
  const end = { run: summary, approvals, budgets };
  await Promise.all(rows.map((row, index) => parts.writer.append({ row, ...(index === last ? end : none) })));
  parts.ledger.absorb(budgets);
  return isOpen;
}
