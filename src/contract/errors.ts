// The one table of errors a caller can see. HTTP status, problem documents (RFC 9457), exit codes of the CLI and
// docs/errors.md all derive from it; a test keeps the document equal to the table.
import { isObject } from "../kit/json.ts";

/** Exit codes of the CLI: 0 ok, 1 error, 2 bad input, 3 auth, 4 not found, 5 strict replay, 6 dependency or timeout. */
export interface ErrorRow {
  readonly status: number;
  readonly exit: 1 | 2 | 3 | 4 | 5 | 6;
  /** True when the same request may succeed later without being changed. */
  readonly retryable: boolean;
  readonly title: string;
  readonly remedy: string;
}

const row = (status: number, exit: ErrorRow["exit"], retryable: boolean, title: string, remedy: string): ErrorRow => ({
  status,
  exit,
  retryable,
  title,
  remedy,
});

export const ERRORS = {
  VALIDATION_ERROR: row(400, 2, false, "The request does not fit its schema", "Correct the field that `errors` names."),
  MANIFEST_INVALID: row(400, 2, false, "A manifest is not valid", "Correct the line and pointer that `errors` names."),
  EXPRESSION_INVALID: row(400, 2, false, "A condition does not compile", "Correct the CEL expression."),
  CONFIG_INVALID: row(400, 2, false, "The configuration is not valid", "Correct the setting that the message names."),
  IMPORT_INVALID: row(
    400,
    2,
    false,
    "The file to import is not valid",
    "Check the format; the message names the line.",
  ),
  AUTH_REQUIRED: row(401, 3, false, "A credential is needed", "Send `Authorization: Bearer TOKEN`."),
  AUTH_FORBIDDEN: row(403, 3, false, "The credential does not permit this", "Ask for the permission in `details`."),
  ORIGIN_FORBIDDEN: row(403, 3, false, "The Host or Origin header is not allowed", "Call the server by its own name."),
  SELF_APPROVAL: row(403, 3, false, "A requester may not decide on their own request", "Let another principal decide."),
  NOT_FOUND: row(404, 4, false, "There is no such resource", "Check the id, and that it belongs to your tenant."),
  RUN_TERMINAL: row(409, 1, false, "The run has ended", "Start a new run, or retry it with `runs retry`."),
  RUN_NOT_WAITING: row(409, 1, false, "The run does not wait for this", "Look at the run's state and reason."),
  RUN_EXISTS: row(409, 1, false, "A run with this id exists", "Read the existing run, or leave the id out."),
  APPROVAL_RESOLVED: row(
    409,
    1,
    false,
    "The approval was decided before",
    "An approval is used once; read its outcome.",
  ),
  RUN_NOT_STARTED: row(409, 1, false, "The run has not started", "Send run.started first."),
  RUN_ALREADY_STARTED: row(409, 1, false, "The run has started before", "Leave run.started out, or use a new run id."),
  RUN_SEALED: row(409, 1, false, "The run is sealed", "Drop the event: nothing can be added to this run any more."),
  CALL_OPEN: row(409, 1, false, "The step has an open call", "End the call first, or use another step id."),
  CALL_NOT_OPEN: row(409, 1, false, "There is no open call", "Send the request of the call before its outcome."),
  PARENT_UNKNOWN: row(409, 1, false, "The parent step is not known", "Send the first event of the parent step before."),
  EVENT_CONFLICT: row(
    409,
    1,
    false,
    "This sequence number came before with other content",
    "Drop the event: the first one is on record. Number each event of a producer once.",
  ),
  ID_REUSED: row(
    409,
    1,
    false,
    "Another event of the run has this id",
    "Drop the event if it is the same one again; else give it an id of its own, or none.",
  ),
  EVENTS_MISSING: row(
    409,
    1,
    true,
    "Events are missing that others wait for",
    "Send what `details.missing` names, or finalize with `force`.",
  ),
  EVENT_TYPE_RESERVED: row(400, 2, false, "Only the server may say this", "Leave the event out."),
  VERSION_UNSUPPORTED: row(400, 2, false, "This version is not read", "Send envelope version 1.0 (or 0.x)."),
  TENANT_MISMATCH: row(403, 3, false, "The event is of another tenant", "Use a credential of that tenant."),
  STALE_RESULT: row(
    409,
    1,
    false,
    "The result belongs to no attempt in flight",
    "Drop it: another attempt owns the step.",
  ),
  DUPLICATE_RESULT: row(409, 1, false, "The result of this attempt was taken before", "Drop it: it is on record."),
  FOREIGN_RESULT: row(
    409,
    1,
    false,
    "The result does not come from the holder of its lease",
    "Send each result with the token of its job, from the process that got it.",
  ),
  WORKER_EXISTS: row(409, 1, false, "A worker with this name exists", "Choose another name, or revoke it first."),
  CONFLICT: row(409, 1, false, "The resource is in another state", "Read it again, then repeat."),
  IDEMPOTENCY_MISMATCH: row(409, 2, false, "This Idempotency-Key was used with another body", "Use a new key."),
  PAYLOAD_TOO_LARGE: row(413, 2, false, "The payload is over its limit", "Send less; `details` names the limit."),
  UNSUPPORTED_MEDIA_TYPE: row(415, 2, false, "The content type is not accepted here", "Send application/json."),
  RUN_REFUSED: row(422, 2, false, "The run cannot be started", "Correct the agent, workflow or input in `details`."),
  REPLAY_REFUSED: row(
    409,
    2,
    false,
    "The run cannot be replayed or forked like this",
    "The message and `details.reason` say why; the source is unchanged.",
  ),
  ARTIFACT_MISSING: row(
    409,
    1,
    false,
    "An artifact that an event names is not here",
    "Upload what `details.missing` names (POST /artifacts), or leave artifacts out (`--profile minimal`).",
  ),
  PRIVACY_RISK: row(
    409,
    1,
    false,
    "A payload of the run could not be redacted",
    "Look at the events that `details.seqs` names; who may can take the risk on (`runs override-privacy RUN --reason TEXT`).",
  ),
  ARTIFACT_CORRUPT: row(500, 1, false, "An artifact does not have its digest", "Restore the file from a backup."),
  INTERNAL_ERROR: row(500, 1, true, "Something failed inside", "Report the request id; the log has the cause."),
  DATABASE_UNAVAILABLE: row(
    503,
    6,
    true,
    "The database does not answer",
    "Start it, or check DATABASE_URL; then repeat.",
  ),
  DATA_FOLDER_IN_USE: row(503, 6, true, "Another process owns the data folder", "Stop it, or choose another folder."),
  FENCED: row(503, 6, true, "Another node owns this shard group now", "Repeat; the request will reach the owner."),
  SHUTTING_DOWN: row(503, 6, true, "The server is stopping", "Repeat when it is up again."),
  OVERLOADED: row(503, 6, true, "The server is at its limit of open runs", "Wait for the seconds in Retry-After."),
  DEPENDENCY_UNAVAILABLE: row(503, 6, true, "A service this needs does not answer", "See `details`; then repeat."),
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

/** What every route that is not public may answer. */
export const COMMON_ERRORS: readonly ErrorCode[] = [
  "VALIDATION_ERROR",
  "AUTH_REQUIRED",
  "AUTH_FORBIDDEN",
  "INTERNAL_ERROR",
  "DATABASE_UNAVAILABLE",
];

/** One fault of an input: where it is, what was found and what to do. */
export interface FieldError {
  /** JSON pointer (RFC 6901) into the input. */
  readonly pointer: string;
  readonly message: string;
  readonly line?: number;
}

/** The only error class that crosses module borders. */
export class AppError extends Error {
  override readonly name = "AppError";
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;
  readonly errors: readonly FieldError[];

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: Record<string, unknown>; errors?: readonly FieldError[]; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
    this.errors = options.errors ?? [];
  }
}

export function isAppError(error: unknown, code?: ErrorCode): error is AppError {
  return error instanceof AppError && (code === undefined || error.code === code);
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The message and what it came from, for logs: `outer: inner`. Clients get the outer one only. */
export function reasonOf(error: unknown): string {
  const reasons = [messageOf(error)];
  for (let at = error; at instanceof Error && at.cause !== undefined && reasons.length < 5; at = at.cause)
    reasons.push(messageOf(at.cause));
  return [...new Set(reasons)].join(": ");
}

/** What a problem document (RFC 9457) of ours says; for anything else that it was no such document. */
export function problemError(text: string, status: number): AppError {
  let problem: unknown;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = null;
  }
  if (!isObject(problem) || typeof problem["code"] !== "string" || !(problem["code"] in ERRORS)) {
    return new AppError("INTERNAL_ERROR", `The server answered ${status} without a problem document`);
  }
  return new AppError(problem["code"] as ErrorCode, String(problem["detail"]), {
    details: isObject(problem["details"]) ? problem["details"] : {},
    errors: (problem["errors"] ?? []) as FieldError[],
  });
}
