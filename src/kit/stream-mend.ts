// Takes a secret out of an event stream that says it in pieces. Each text is put together from where it stands in the events, as its
// reader does, and what has to go is taken out of the pieces that it stands in; all other events stay as they are, byte for byte.
import { isObject } from "./json.ts";
import type { Json, JsonObject } from "./json.ts";
import { Place, sayEvent } from "./stream-texts.ts";
import type { Holder } from "./stream-texts.ts";

interface Piece {
  readonly text: string;
  readonly holder: Holder;
  readonly key: string | number;
  readonly event: StreamEvent;
}

/** An event whose data is an object in one line. */
interface StreamEvent {
  readonly line: number;
  readonly prefix: string;
  readonly value: JsonObject;
  isChanged: boolean;
}

/** Keeps the pieces, so that they can be changed. */
class PiecedPlace extends Place {
  readonly pieces: Piece[] = [];
  private readonly reading: { event: StreamEvent | null };

  constructor(reading: { event: StreamEvent | null }) {
    super();
    this.reading = reading;
  }

  protected override another(): this {
    return new PiecedPlace(this.reading) as this;
  }

  override say(text: string, holder: Holder, key: string | number): void {
    super.say(text, holder, key);
    const { event } = this.reading;
    if (event) this.pieces.push({ text, holder, key, event });
  }

  /** Has the pieces say another text: what both begin and end with stays where it is. */
  become(wanted: string): void {
    const { text } = this;
    const shorter = Math.min(text.length, wanted.length);
    let from = 0;
    while (from < shorter && text[from] === wanted[from]) from += 1;
    let behind = 0;
    while (behind < shorter - from && text[text.length - 1 - behind] === wanted[wanted.length - 1 - behind])
      behind += 1;
    const to = text.length - behind;
    const instead = wanted.slice(from, wanted.length - behind);
    let at = 0;
    let isSaid = false;
    for (const piece of this.pieces) {
      const [start, end] = [at, at + piece.text.length];
      at = end;
      const isIn = to > from ? start < to && end > from : !isSaid && start <= from && from <= end;
      if (!isIn) continue;
      const head = piece.text.slice(0, Math.max(0, from - start));
      const tail = piece.text.slice(Math.max(0, to - start));
      change(piece, head + (isSaid ? "" : instead) + tail);
      isSaid = true;
    }
  }
}

function change({ holder, key, event }: Piece, text: string): void {
  (holder as Record<string | number, Json>)[key] = text;
  event.isChanged = true;
}

const DATA = /^data: ?/;

/**
 * The stream with each text as `clean` makes it. Null where it says something otherwise than as an object in one line: what
 * is said in pieces there cannot be taken out of them.
 */
export function mendStream(stream: string, clean: (text: string) => string): string | null {
  const parts = stream.split(/(\r\n|\n|\r)/);
  const reading: { event: StreamEvent | null } = { event: null };
  const root = new PiecedPlace(reading);
  const events: StreamEvent[] = [];
  let others = "";
  for (let line = 0; line < parts.length; line += 2) {
    const text = parts[line] ?? "";
    const prefix = DATA.exec(text)?.[0];
    if (prefix === undefined) continue;
    // Data in several lines is one text, and this is not all of it.
    if (DATA.test(parts[line + 2] ?? "")) return null;
    const value = objectOf(text.slice(prefix.length));
    if (value === null) {
      others += text.slice(prefix.length);
      continue;
    }
    const event = { line, prefix, value, isChanged: false };
    events.push(event);
    reading.event = event;
    sayEvent(value, root);
  }
  if (clean(others) !== others) return null;
  for (const place of root.all()) {
    const wanted = place.text === "" ? "" : clean(place.text);
    if (wanted !== place.text) place.become(wanted);
  }
  for (const { line, prefix, value, isChanged } of events) if (isChanged) parts[line] = prefix + JSON.stringify(value);
  return parts.join("");
}

function objectOf(text: string): JsonObject | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? (value as JsonObject) : null;
  } catch {
    return null;
  }
}
