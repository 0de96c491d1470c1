// Arguments of foreign agents' calls that held what may not be recorded: the journal has them redacted, and says where they are,
// encrypted. A run that is read back gets them again. Invariant: a call whose arguments cannot be opened is never made with
// those that are shown.
import { messageOf } from "../contract/errors.ts";
import type { Log } from "../contract/ports.ts";
import type { RunState } from "../core/run-state.ts";
import type { JsonObject } from "../kit/json.ts";

export interface OpenedArgsOptions {
  /** Opens a box of a run. */
  readonly openArgs?: (place: { tenant_id: string; run_id: string }, digest: string) => Promise<JsonObject>;
  readonly log: Log;
}

export async function openArgs(run: RunState, { openArgs: opened, log }: OpenedArgsOptions): Promise<void> {
  if (run.program || !opened) return;
  const { tenant_id, run_id } = run;
  for (const step of run.steps.values()) {
    if (!step.args_boxed || !step.shown) continue;
    try {
      step.args = await opened({ tenant_id, run_id }, String(step.shown.args_box["digest"]));
      step.args_boxed = false;
    } catch (error) {
      log.warn("args.lost", { run_id, step: step.n, error: messageOf(error) });
    }
  }
}
