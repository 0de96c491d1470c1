// OTLP/HTTP (opentelemetry-proto 1.x): where spans and log records are received, and what of them is read. Fields that are not
// here are ignored, as the protocol asks.
import type { Json } from "../kit/json.ts";

export const OTLP_TRACES_PATH = "/v1/traces";
export const OTLP_LOGS_PATH = "/v1/logs";
export const OTLP_JSON = "application/json";
export const OTLP_PROTOBUF = "application/x-protobuf";

export type Attributes = Readonly<Record<string, Json>>;

export interface SpanEvent {
  readonly name: string;
  readonly time_us: number;
  readonly attributes: Attributes;
}

/** A span as exported. Ids are lower-case hex; times are microseconds since the epoch. */
export interface ExportedSpan {
  readonly trace_id: string;
  readonly span_id: string;
  /** Empty: it is the root, as far as its exporter knows. */
  readonly parent_span_id: string;
  readonly name: string;
  readonly start_us: number;
  readonly end_us: number;
  readonly attributes: Attributes;
  readonly events: readonly SpanEvent[];
  readonly is_error: boolean;
  readonly status_message: string;
  readonly scope: string;
  readonly resource: Attributes;
}

export interface ExportedLog {
  readonly trace_id: string;
  readonly span_id: string;
  readonly name: string;
  readonly time_us: number;
  readonly severity: string;
  readonly body: Json;
  readonly attributes: Attributes;
  readonly scope: string;
  readonly resource: Attributes;
}

/** One export: what could be read, and why the rest could not. */
export interface Exported<T> {
  readonly items: readonly T[];
  readonly faults: readonly string[];
}

/** What became of an export: how many were refused, and why. */
export interface ExportResult {
  readonly rejected: number;
  readonly message: string;
}
