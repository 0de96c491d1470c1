// What an event stream says in pieces, put together again: no single event of it need hold what its reader is told. Of streams of
// server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) whose data is JSON, as all providers of
// models have them, each text is joined over all events by where it stands. Nothing here knows an API: what a provider calls its
// thoughts, its answer or its arguments makes no difference.
import type { Json } from "./json.ts";
import { isObject } from "./json.ts";

const DATA_LINE = /(?:^|[\r\n])data:/;
/** Deeper than anything that is read from outside. */
const DEPTH_MAX = 128;
/** What tells one of several things that are said at the same place: choices, blocks, items. */
const PLACES = ["index", "output_index", "content_index", "summary_index", "item_id"];

/** True for a text that may be an event stream. */
export function isEventStream(text: string): boolean {
  return DATA_LINE.test(text);
}

/** The texts of a stream, each whole. Throws RangeError for one that nests too deep to be looked at. */
export function streamTexts(stream: string): string[] {
  const texts = new Map<string, string>();
  const add = (place: string, text: string): void => void texts.set(place, (texts.get(place) ?? "") + text);
  const walk = (value: Json, place: string, depth: number): void => {
    if (depth > DEPTH_MAX) throw new RangeError(`an event nests deeper than ${DEPTH_MAX}`);
    if (typeof value === "string") return add(place, value);
    if (typeof value !== "object" || value === null) return;
    if (Array.isArray(value)) {
      for (const [i, item] of value.entries()) walk(item, isNumbered(item) ? place : `${place}/${i}`, depth + 1);
      return;
    }
    const here = PLACES.reduce((text, key) => (key in value ? `${text}/${key}=${String(value[key])}` : text), place);
    for (const key of Object.keys(value)) walk(value[key] as Json, `${here}/${key}`, depth + 1);
  };
  for (const data of dataOf(stream)) {
    const value = parsed(data);
    if (isObject(value)) walk(value as Json, typeof value["type"] === "string" ? value["type"] : "", 0);
    else add("data", data);
  }
  return [...texts.values()];
}

function isNumbered(item: Json): boolean {
  return isObject(item) && PLACES.some((key) => key in item);
}

/** The data of each event; of one in several lines they are joined. */
function* dataOf(stream: string): Iterable<string> {
  let lines: string[] = [];
  for (const line of stream.split(/\r\n|\n|\r/)) {
    if (line.startsWith("data:")) lines.push(line.slice(line[5] === " " ? 6 : 5));
    else if (line === "" && lines.length > 0) {
      yield lines.join("\n");
      lines = [];
    }
  }
  if (lines.length > 0) yield lines.join("\n");
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
