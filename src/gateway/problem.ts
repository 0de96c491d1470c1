// Errors to problem documents (RFC 9457). The one place where unknown errors are converted.
import { AppError, ERRORS, isAppError, messageOf } from "../contract/errors.ts";
import type { ErrorCode } from "../contract/errors.ts";
import { DbError } from "../contract/ports.ts";
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";

const RETRY_AFTER_S = 2;

/** Fastify's own refusals by their code; everything else unknown is INTERNAL_ERROR. */
const FOREIGN: Record<string, ErrorCode> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: "UNSUPPORTED_MEDIA_TYPE",
  FST_ERR_CTP_BODY_TOO_LARGE: "PAYLOAD_TOO_LARGE",
  FST_ERR_CTP_EMPTY_JSON_BODY: "VALIDATION_ERROR",
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: "VALIDATION_ERROR",
};

export function toAppError(error: unknown): AppError {
  if (isAppError(error)) return error;
  if (error instanceof DbError && error.connection)
    return new AppError("DATABASE_UNAVAILABLE", "The database does not answer", { cause: error });
  const foreign = isObject(error) && typeof error["code"] === "string" ? FOREIGN[error["code"]] : undefined;
  if (foreign) return new AppError(foreign, messageOf(error), { cause: error });
  return new AppError("INTERNAL_ERROR", "Something failed inside", { cause: error });
}

export interface Problem {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: JsonObject;
}

export function problemOf(error: AppError, request_id: string): Problem {
  const row = ERRORS[error.code];
  const body: JsonObject = {
    type: `urn:quarterdeck:error:${error.code.toLowerCase()}`,
    title: row.title,
    status: row.status,
    code: error.code,
    detail: error.message,
    remedy: row.remedy,
    request_id,
    retryable: row.retryable,
  };
  if (error.errors.length > 0) body["errors"] = error.errors.map((fault) => ({ ...fault }));
  if (Object.keys(error.details).length > 0) body["details"] = JSON.parse(JSON.stringify(error.details)) as JsonObject;
  return { status: row.status, headers: row.retryable ? { "retry-after": String(RETRY_AFTER_S) } : {}, body };
}
