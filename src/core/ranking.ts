// Lists of retrieved documents: known by their ids, compared by rank.
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";

const LISTS = ["documents", "docs", "results", "chunks", "candidates"] as const;
const IDS = ["chunk_id", "doc_id", "document_id", "id"] as const;

function idOf(document: Json): string | null {
  if (!isObject(document)) return null;
  const key = IDS.find((name) => typeof document[name] === "string" || typeof document[name] === "number");
  return key === undefined ? null : String(document[key]);
}

/** Ids of retrieved documents by rank; null when a result is no such list. */
export function documentsOf(result: Json): string[] | null {
  const list = Array.isArray(result)
    ? result
    : isObject(result)
      ? LISTS.map((name) => result[name]).find(Array.isArray)
      : null;
  if (!Array.isArray(list) || list.length === 0) return null;
  const ids = (list as Json[]).map(idOf);
  // A list of records with ids may be anything; documents come with a score or a text as well.
  const [first] = list as Json[];
  const ranked =
    isObject(first) && ["score", "text", "content", "content_ref", "source_uri"].some((key) => key in first);
  return ranked && ids.every((id) => id !== null) ? ids : null;
}

/** What came, went and moved. */
export function rankedChange(
  before: readonly string[],
  after: readonly string[],
): { paths: string[]; before: JsonObject; after: JsonObject } {
  const rankBefore = new Map(before.map((id, rank) => [id, rank + 1]));
  const rankAfter = new Map(after.map((id, rank) => [id, rank + 1]));
  const gone = before.filter((id) => !rankAfter.has(id));
  const come = after.filter((id) => !rankBefore.has(id));
  const moved = before.filter((id) => rankAfter.has(id) && rankAfter.get(id) !== rankBefore.get(id));
  const ranks = (ids: readonly string[], of: Map<string, number>) =>
    Object.fromEntries(ids.map((id) => [id, of.get(id) ?? 0]));
  return {
    paths: [...gone, ...come, ...moved].map((id) => `/documents/${id}`),
    before: { moved: ranks(moved, rankBefore), removed: ranks(gone, rankBefore) },
    after: { inserted: ranks(come, rankAfter), moved: ranks(moved, rankAfter) },
  };
}
