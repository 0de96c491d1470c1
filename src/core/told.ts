// What may be said of a run that has ended, too: what others observed, its seal, what people take on or put right. Facts are never
// changed: what is put right is said after them, by somebody, on record.
import { AppError } from "../contract/errors.ts";
import { isTerminal } from "../contract/events.ts";
import type { Actor } from "../contract/events.ts";
import type { Decision } from "./decide-context.ts";
import { onIngest } from "./ingest.ts";
import type { IngestCommand } from "./ingest.ts";
import type { OverrideCommand } from "./privacy.ts";
import { onSeal } from "./seal.ts";
import type { SealCommand } from "./seal.ts";

/** A person puts something right in a run that is over, sealed or not. */
export interface AmendCommand {
  readonly type: "amend";
  readonly note: string;
  /** The event that it is about; null: the run as a whole. */
  readonly about: number | null;
  readonly actor: Actor;
}

export type TellCommand = IngestCommand | OverrideCommand | SealCommand | AmendCommand;

export function onTold(decision: Decision, command: TellCommand): void {
  switch (command.type) {
    case "ingest":
      return onIngest(decision, command);
    case "seal":
      return onSeal(decision, command);
    case "amend":
      return onAmend(decision, command);
    case "override":
      return decision.push({ type: "privacy.overridden", actor: command.actor, data: { reason: command.reason } });
  }
}

/** Throws CONFLICT for a run that goes on, NOT_FOUND for an event that is none. */
function onAmend(decision: Decision, { note, about, actor }: AmendCommand): void {
  const { run_id, seq, state } = decision.run;
  if (!isTerminal(state)) throw new AppError("CONFLICT", `Run ${run_id} is ${state}; only what is over can be amended`);
  if (about !== null && about > seq)
    throw new AppError("NOT_FOUND", `Run ${run_id} has no event ${about}; its last is ${seq}`);
  decision.push({ type: "journal.amended", actor, data: { ...(about === null ? {} : { about }), note } });
}
