// Spans as exporters write them in OTLP/JSON.
import type { Json, JsonObject } from "../../src/kit/json.ts";

export const TRACE = "0af7651916cd43dd8448eb211c80319c";
export const id = (n: number) => n.toString(16).padStart(16, "0");

export function anyValue(value: Json): object {
  if (typeof value === "string") return { stringValue: value };
  if (typeof value === "boolean") return { boolValue: value };
  if (typeof value === "number") return Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value };
  if (Array.isArray(value)) return { arrayValue: { values: value.map(anyValue) } };
  return {
    kvlistValue: { values: Object.entries(value ?? {}).map(([key, item]) => ({ key, value: anyValue(item) })) },
  };
}
export const attributes = (given: JsonObject) =>
  Object.entries(given).map(([key, value]) => ({ key, value: anyValue(value) }));

export interface SpanOf {
  n: number;
  parent?: number;
  name?: string;
  at?: number;
  for?: number;
  error?: string;
  attributes?: JsonObject;
  events?: { name: string; attributes: JsonObject }[];
  trace?: string;
}

export function span(of: SpanOf): object {
  const start = BigInt(1_790_000_000_000 + (of.at ?? of.n * 10)) * 1_000_000n;
  return {
    traceId: of.trace ?? TRACE,
    spanId: id(of.n),
    ...(of.parent === undefined ? {} : { parentSpanId: id(of.parent) }),
    name: of.name ?? `span ${of.n}`,
    startTimeUnixNano: String(start),
    endTimeUnixNano: String(start + BigInt(of.for ?? 5) * 1_000_000n),
    attributes: attributes(of.attributes ?? {}),
    events: (of.events ?? []).map((event) => ({
      name: event.name,
      timeUnixNano: String(start),
      attributes: attributes(event.attributes),
    })),
    status: of.error === undefined ? {} : { code: 2, message: of.error },
  };
}
