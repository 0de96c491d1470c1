// What log records said of spans that have not come yet: exporters send what a model was asked and answered apart, and mostly
// before the span, which ends later. The records are recorded as they come; here is only what the span's own events are filled
// with, so what does not fit, or is forgotten at a restart, still stands beside its span.
import type { ExportedLog, SpanEvent } from "../../contract/otlp.ts";
import { isObject } from "../../kit/json.ts";

const CHARS_MAX = 16 * 1024 * 1024;
/** What a record takes up besides its text, however short that is. */
const RECORD_CHARS = 500;
const MESSAGES = "gen_ai.";

interface Told {
  readonly events: SpanEvent[];
  chars: number;
}

export class ToldContent {
  /** By span, who was told of longest ago first. */
  private readonly bySpan = new Map<string, Told>();
  private readonly chars_max: number;
  private chars = 0;

  /** Characters that are kept in all. */
  constructor(chars_max = CHARS_MAX) {
    this.chars_max = chars_max;
  }

  /** `scope`: whose traces these are. */
  keep(scope: string, records: readonly ExportedLog[]): void {
    for (const record of records) {
      if (record.span_id === "" || !record.name.startsWith(MESSAGES)) continue;
      const event = eventOf(record);
      const chars = RECORD_CHARS + JSON.stringify(event.attributes).length;
      const key = keyOf(scope, record);
      const told = this.bySpan.get(key) ?? { events: [], chars: 0 };
      this.bySpan.delete(key);
      this.bySpan.set(key, told);
      told.events.push(event);
      told.chars += chars;
      this.chars += chars;
      while (this.chars > this.chars_max) this.forget(this.bySpan.keys().next().value ?? "");
    }
  }

  /** What was told of a span, once. */
  take(scope: string, span: { readonly trace_id: string; readonly span_id: string }): readonly SpanEvent[] {
    const key = keyOf(scope, span);
    const events = this.bySpan.get(key)?.events ?? [];
    this.forget(key);
    return events.toSorted((a, b) => a.time_us - b.time_us);
  }

  private forget(key: string): void {
    this.chars -= this.bySpan.get(key)?.chars ?? 0;
    this.bySpan.delete(key);
  }
}

const keyOf = (scope: string, { trace_id, span_id }: { trace_id: string; span_id: string }): string =>
  `${scope}/${trace_id}/${span_id}`;

/** A record of OTel GenAI says in its body, or its attributes, what an event of a span says in its attributes. */
function eventOf({ name, time_us, attributes, body }: ExportedLog): SpanEvent {
  const said = isObject(body) ? body : body === null || body === "" ? {} : { content: body };
  return { name, time_us, attributes: { ...said, ...attributes } };
}
