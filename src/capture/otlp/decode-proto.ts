// Reads OTLP/protobuf by field numbers (opentelemetry-proto: trace/v1, logs/v1, common/v1) into the same form as JSON is read
// into, so that what follows knows one form. Unknown fields are skipped.
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { AppError } from "../../contract/errors.ts";
import { logsOfJson, spansOfJson } from "./decode-json.ts";
import type { Exported, ExportedLog, ExportedSpan } from "../../contract/otlp.ts";

type Fields = Record<string, unknown>;
type Read = (reader: BinaryReader) => unknown;
/** Field number -> name, how it is read, and whether it repeats. */
type Message = Readonly<Record<number, readonly [name: string, read: Read, repeated?: true]>>;

const string: Read = (reader) => reader.string();
const bool: Read = (reader) => reader.bool();
const int: Read = (reader) => reader.int32();
const fixed64: Read = (reader) => String(reader.fixed64());
const int64: Read = (reader) => String(reader.int64());
const double: Read = (reader) => reader.double();
const hexId: Read = (reader) => Buffer.from(reader.bytes()).toString("hex");
const base64: Read = (reader) => Buffer.from(reader.bytes()).toString("base64");

/** Reads one message of a length that stands before it. */
const message =
  (fields: () => Message): Read =>
  (reader) => {
    const end = reader.uint32() + reader.pos;
    if (end > reader.len) throw new RangeError("a message is longer than what holds it");
    return fieldsOf(reader, end, fields());
  };

function fieldsOf(reader: BinaryReader, end: number, fields: Message): Fields {
  const out: Fields = {};
  while (reader.pos < end) {
    const [number, wire] = reader.tag();
    const field = fields[number];
    if (!field || wire === WireType.StartGroup || wire === WireType.EndGroup) {
      reader.skip(wire, number);
      continue;
    }
    const [name, read, repeated] = field;
    if (repeated) ((out[name] ??= []) as unknown[]).push(read(reader));
    else out[name] = read(reader);
  }
  return out;
}

const ANY_VALUE: Message = {
  1: ["stringValue", string],
  2: ["boolValue", bool],
  3: ["intValue", int64],
  4: ["doubleValue", double],
  5: ["arrayValue", message(() => ARRAY)],
  6: ["kvlistValue", message(() => KEY_VALUES)],
  7: ["bytesValue", base64],
};
const ARRAY: Message = { 1: ["values", message(() => ANY_VALUE), true] };
const KEY_VALUE: Message = { 1: ["key", string], 2: ["value", message(() => ANY_VALUE)] };
const KEY_VALUES: Message = { 1: ["values", message(() => KEY_VALUE), true] };
const RESOURCE: Message = { 1: ["attributes", message(() => KEY_VALUE), true] };
const SCOPE: Message = { 1: ["name", string] };
const STATUS: Message = { 2: ["message", string], 3: ["code", int] };
const SPAN_EVENT: Message = {
  1: ["timeUnixNano", fixed64],
  2: ["name", string],
  3: ["attributes", message(() => KEY_VALUE), true],
};
const SPAN: Message = {
  1: ["traceId", hexId],
  2: ["spanId", hexId],
  4: ["parentSpanId", hexId],
  5: ["name", string],
  7: ["startTimeUnixNano", fixed64],
  8: ["endTimeUnixNano", fixed64],
  9: ["attributes", message(() => KEY_VALUE), true],
  11: ["events", message(() => SPAN_EVENT), true],
  15: ["status", message(() => STATUS)],
};
const SCOPE_SPANS: Message = { 1: ["scope", message(() => SCOPE)], 2: ["spans", message(() => SPAN), true] };
const RESOURCE_SPANS: Message = {
  1: ["resource", message(() => RESOURCE)],
  2: ["scopeSpans", message(() => SCOPE_SPANS), true],
};
const TRACES: Message = { 1: ["resourceSpans", message(() => RESOURCE_SPANS), true] };

const LOG_RECORD: Message = {
  1: ["timeUnixNano", fixed64],
  3: ["severityText", string],
  5: ["body", message(() => ANY_VALUE)],
  6: ["attributes", message(() => KEY_VALUE), true],
  9: ["traceId", hexId],
  10: ["spanId", hexId],
  11: ["observedTimeUnixNano", fixed64],
  12: ["eventName", string],
};
const SCOPE_LOGS: Message = { 1: ["scope", message(() => SCOPE)], 2: ["logRecords", message(() => LOG_RECORD), true] };
const RESOURCE_LOGS: Message = {
  1: ["resource", message(() => RESOURCE)],
  2: ["scopeLogs", message(() => SCOPE_LOGS), true],
};
const LOGS: Message = { 1: ["resourceLogs", message(() => RESOURCE_LOGS), true] };

function read(bytes: Uint8Array, fields: Message): Fields {
  try {
    const reader = new BinaryReader(bytes);
    return fieldsOf(reader, reader.len, fields);
  } catch (cause) {
    throw new AppError("VALIDATION_ERROR", "The body is no protobuf message of an OTLP export", { cause });
  }
}

/** Throws VALIDATION_ERROR when the bytes are no message at all. */
export function spansOfProto(bytes: Uint8Array): Exported<ExportedSpan> {
  return spansOfJson(read(bytes, TRACES));
}

/** Throws VALIDATION_ERROR when the bytes are no message at all. */
export function logsOfProto(bytes: Uint8Array): Exported<ExportedLog> {
  return logsOfJson(read(bytes, LOGS));
}
