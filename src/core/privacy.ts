// Runs with a payload that could not be looked at before it was to be recorded. It is in quarantine, and nobody knows what else of
// the run it would have touched: such a run is neither replayed nor exported, unless a person with the permission says so on
// record.
import type { Actor, EventDraft } from "../contract/events.ts";
import { isObject } from "../kit/json.ts";

/** A person takes on the risk of a payload that could not be looked at; also of a run that has ended. */
export interface OverrideCommand {
  readonly type: "override";
  readonly reason: string;
  readonly actor: Actor;
}

type Seen = Pick<EventDraft, "type" | "data" | "origin"> & { readonly seq: number };

/** True for an event's data of which something could not be looked at. */
export function isUnseen(data: Readonly<Record<string, unknown>> | undefined): boolean {
  const redaction = data?.["redaction"];
  return isObject(redaction) && redaction["status"] === "failed";
}

/** Numbers of the events that make a run a risk: they came after the last time that somebody took it on. */
export function privacyRisk(events: readonly Seen[]): number[] {
  const last = events.findLastIndex((event) => event.type === "privacy.overridden");
  return events
    .slice(last + 1)
    .filter(({ data, origin }) => isUnseen(data) || isUnseen(origin?.said))
    .map(({ seq }) => seq);
}
