// What an event stream says in pieces, put together again: no single event of it need hold what its reader is told. Of streams of
// server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) whose data is JSON, as all providers of
// models have them, each text is joined over all events by where it stands. Nothing here knows an API: what a provider calls its
// thoughts, its answer or its arguments makes no difference.
import type { Json, JsonObject } from "./json.ts";
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

/** One place in the events of a stream, and what was said there so far. */
export class Place {
  text = "";
  private readonly below = new Map<string, this>();

  /** A place of the same kind. */
  protected another(): this {
    return new Place() as this;
  }

  at(key: string): this {
    let place = this.below.get(key);
    if (!place) this.below.set(key, (place = this.another()));
    return place;
  }

  /** `key`: where it stands in its object or list. */
  say(text: string, _holder: Holder, _key: string | number): void {
    this.text += text;
  }

  /** This place and those below. */
  *all(): Iterable<this> {
    yield this;
    for (const place of this.below.values()) yield* place.all();
  }

  /** What was said at this place and below. */
  collect(texts: string[]): string[] {
    if (this.text !== "") texts.push(this.text);
    for (const place of this.below.values()) place.collect(texts);
    return texts;
  }
}

export type Holder = Json[] | JsonObject;

/** Says all texts of an event where they stand. */
export function sayEvent(event: JsonObject, root: Place): void {
  walk(event, root.at(typeof event["type"] === "string" ? event["type"] : ""), 0);
}

/** The texts of a stream, each whole. Throws RangeError for one that nests too deep to be looked at. */
export function streamTexts(stream: string): string[] {
  const root = new Place();
  const others = new Place();
  for (const value of valuesOf(dataOf(stream))) {
    if (!isObject(value)) others.text += String(value);
    else sayEvent(value as JsonObject, root);
  }
  return others.collect(root.collect([]));
}

function walk(value: Holder, place: Place, depth: number): void {
  if (depth > DEPTH_MAX) throw new RangeError(`an event nests deeper than ${DEPTH_MAX}`);
  if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) {
      const at = isNumbered(item) ? place : place.at(String(i));
      if (typeof item === "string") at.say(item, value, i);
      else if (typeof item === "object" && item !== null) walk(item, at, depth + 1);
    }
    return;
  }
  let here = place;
  for (const key of PLACES) if (key in value) here = here.at(key).at(String(value[key]));
  for (const key of Object.keys(value)) {
    const item = value[key] as Json;
    if (typeof item === "string") here.at(key).say(item, value, key);
    else if (typeof item === "object" && item !== null) walk(item, here.at(key), depth + 1);
  }
}

function isNumbered(item: Json): boolean {
  return isObject(item) && PLACES.some((key) => key in item);
}

/** The data of each event; of one in several lines they are joined. */
function dataOf(stream: string): string[] {
  const events: string[] = [];
  let lines: string[] = [];
  for (const line of stream.split(/\r\n|\n|\r/)) {
    if (line.startsWith("data:")) lines.push(line.slice(line[5] === " " ? 6 : 5));
    else if (line === "" && lines.length > 0) {
      events.push(lines.join("\n"));
      lines = [];
    }
  }
  if (lines.length > 0) events.push(lines.join("\n"));
  return events;
}

const isBraced = (data: string): boolean => /^\s*\{/.test(data);

/** What events say: an object where it is one, else the text that it is. */
function valuesOf(events: readonly string[]): readonly unknown[] {
  const braced = events.filter(isBraced);
  // Read together they take half the time that they take one by one.
  const together = parsed(`[${braced.join(",")}]`);
  if (Array.isArray(together) && together.length === braced.length)
    return [...(together as unknown[]), ...events.filter((data) => !isBraced(data))];
  return events.map((data) => {
    const value = parsed(data);
    return isObject(value) ? value : data;
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
