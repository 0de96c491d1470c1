// Reads OTLP/JSON: lower camel case, ids as hex, 64-bit numbers as decimal strings or numbers, unknown fields ignored. A span
// that cannot be read is a fault of its own; the others of its export are taken.
import { isObject } from "../../kit/json.ts";
import type { Json } from "../../kit/json.ts";
import type { Attributes, Exported, ExportedLog, ExportedSpan, SpanEvent } from "../../contract/otlp.ts";

type Fields = Record<string, unknown>;
const list = (value: unknown): Fields[] => (Array.isArray(value) ? value.filter(isObject) : []);
/** Text that can be stored: what is no Unicode is replaced, as the protocol's own encoding would have it. */
const clean = (value: string): string =>
  (value.isWellFormed() ? value : value.toWellFormed()).replaceAll("\u0000", "\ufffd");
const text = (value: unknown): string => (typeof value === "string" ? clean(value) : "");
const VALUE_DEPTH_MAX = 32;

/** JSON has no other numbers; what cannot be one is kept as text. */
function finite(value: unknown): Json {
  const number = Number(value);
  return Number.isFinite(number) ? number : text(String(value));
}

/** The value of an AnyValue. */
function anyValue(value: unknown, depth = 0): Json {
  if (!isObject(value) || depth > VALUE_DEPTH_MAX) return null;
  if (typeof value["stringValue"] === "string") return clean(value["stringValue"]);
  if (typeof value["boolValue"] === "boolean") return value["boolValue"];
  if (value["intValue"] !== undefined) return finite(value["intValue"]);
  if (value["doubleValue"] !== undefined) return finite(value["doubleValue"]);
  if (typeof value["bytesValue"] === "string") return value["bytesValue"];
  if (isObject(value["arrayValue"]))
    return list((value["arrayValue"] as Fields)["values"]).map((item) => anyValue(item, depth + 1));
  if (isObject(value["kvlistValue"])) return attributes((value["kvlistValue"] as Fields)["values"], depth + 1);
  return null;
}

function attributes(value: unknown, depth = 0): Record<string, Json> {
  const out: Record<string, Json> = {};
  for (const { key, value: given } of list(value))
    if (typeof key === "string" && key !== "__proto__") out[clean(key)] = anyValue(given, depth);
  return out;
}

/** Nanoseconds to microseconds; 0 when there are none. */
function micros(value: unknown): number {
  if (typeof value === "number") return value > 0 ? Math.floor(value / 1_000) : 0;
  return typeof value === "string" && /^\d{1,20}$/.test(value) ? Number(BigInt(value) / 1_000n) : 0;
}

/** Hex of an id; some exporters send its bytes as a list. Empty when it is none. */
function id(value: unknown, bytes: number): string {
  if (typeof value === "string") {
    const hex = value.toLowerCase();
    return hex.length === bytes * 2 && /^[0-9a-f]+$/.test(hex) && !/^0+$/.test(hex) ? hex : "";
  }
  const given = isObject(value) ? value["data"] : value;
  const isBytes =
    Array.isArray(given) && given.length === bytes && given.every((n) => Number.isInteger(n) && n >= 0 && n < 256);
  return isBytes ? Buffer.from(given as number[]).toString("hex") : "";
}

function spanEvents(value: unknown): SpanEvent[] {
  return list(value).map((event) => ({
    name: text(event["name"]),
    time_us: micros(event["timeUnixNano"]),
    attributes: attributes(event["attributes"]),
  }));
}

/** Each group of spans or log records with where it comes from. */
function* groups(
  body: unknown,
  names: { resources: string; scopes: string; items: string },
): Iterable<{ resource: Attributes; scope: string; items: unknown[] }> {
  const top = isObject(body) ? body : {};
  for (const of of list(top[names.resources])) {
    const resource = attributes(isObject(of["resource"]) ? of["resource"]["attributes"] : null);
    for (const scoped of list(of[names.scopes])) {
      const scope = isObject(scoped["scope"]) ? text(scoped["scope"]["name"]) : "";
      const items = Array.isArray(scoped[names.items]) ? (scoped[names.items] as unknown[]) : [];
      yield { resource, scope, items };
    }
  }
}

export function spansOfJson(body: unknown): Exported<ExportedSpan> {
  const items: ExportedSpan[] = [];
  const faults: string[] = [];
  const names = { resources: "resourceSpans", scopes: "scopeSpans", items: "spans" };
  for (const group of groups(body, names)) {
    for (const sent of group.items) {
      const span: Fields = isObject(sent) ? sent : {};
      const [trace_id, span_id] = [id(span["traceId"], 16), id(span["spanId"], 8)];
      if (trace_id === "" || span_id === "") {
        faults.push(
          `span ${JSON.stringify(text(span["name"]))}: traceId must be 32 and spanId 16 hex digits, not all zero`,
        );
        continue;
      }
      const status: Fields = isObject(span["status"]) ? span["status"] : {};
      const start_us = micros(span["startTimeUnixNano"]);
      items.push({
        trace_id,
        span_id,
        parent_span_id: id(span["parentSpanId"], 8),
        name: text(span["name"]),
        start_us,
        end_us: Math.max(start_us, micros(span["endTimeUnixNano"])),
        attributes: attributes(span["attributes"]),
        events: spanEvents(span["events"]),
        is_error: status["code"] === 2 || status["code"] === "STATUS_CODE_ERROR",
        status_message: text(status["message"]),
        scope: group.scope,
        resource: group.resource,
      });
    }
  }
  return { items, faults };
}

export function logsOfJson(body: unknown): Exported<ExportedLog> {
  const items: ExportedLog[] = [];
  const faults: string[] = [];
  for (const group of groups(body, { resources: "resourceLogs", scopes: "scopeLogs", items: "logRecords" })) {
    for (const sent of group.items) {
      const record: Fields = isObject(sent) ? sent : {};
      const given = attributes(record["attributes"]);
      const name = text(record["eventName"]) || text(given["event.name"]);
      const trace_id = id(record["traceId"], 16);
      if (trace_id === "") {
        faults.push(`log record ${JSON.stringify(name)}: it belongs to no trace; only records of traces are kept`);
        continue;
      }
      items.push({
        trace_id,
        span_id: id(record["spanId"], 8),
        name,
        time_us: micros(record["timeUnixNano"]) || micros(record["observedTimeUnixNano"]),
        severity: text(record["severityText"]),
        body: anyValue(record["body"]),
        attributes: given,
        scope: group.scope,
        resource: group.resource,
      });
    }
  }
  return { items, faults };
}
