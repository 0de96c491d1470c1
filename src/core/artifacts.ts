// Payloads that stand beside the journal: an event names them by digest, as `NAME_ref` or as `artifact` of a content part.
import type { EventDraft } from "../contract/events.ts";
import type { Json, JsonObject } from "../kit/json.ts";

/** What others observed may have fields of these names that say something else. */
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Digests of artifacts that events refer to. */
export function artifactsOf(events: readonly Pick<EventDraft, "data">[]): Set<string> {
  const found = new Set<string>();
  const walk = (value: Json | undefined): void => {
    if (typeof value !== "object" || value === null) return;
    for (const [key, item] of Object.entries(value)) {
      const digest = key.endsWith("_ref") ? (item as JsonObject | null)?.["digest"] : item;
      if ((key === "artifact" || key.endsWith("_ref")) && typeof digest === "string" && DIGEST.test(digest))
        found.add(digest);
      walk(item);
    }
  };
  for (const event of events) walk(event.data);
  return found;
}

const PREVIEW_CHARS = 512;

/** What stands in an event of a text that is an artifact. */
export function preview(text: string): string {
  return `${text.slice(0, PREVIEW_CHARS).toWellFormed()}... (${Buffer.byteLength(text)} bytes; the whole is an artifact)`;
}
