// Plain HTTP tools. The destination is fixed by the manifest: arguments fill path segments, query and body, never the
// origin, and each is encoded. Secrets come from references at the moment of the call and are never in a result.
import { LIMITS } from "../contract/limits.ts";
import { NetRefused } from "../contract/ports.ts";
import type { Net, Secrets } from "../contract/ports.ts";
import type { JobFailure, JobOutcome, ToolJob } from "../contract/jobs.ts";
import { messageOf } from "../contract/errors.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject, parseJson } from "../kit/json.ts";
import { scrubText } from "../kit/scrub.ts";
import { JobError } from "./pool.ts";

export interface HttpToolDeps {
  readonly net: Pick<Net, "fetch">;
  readonly secrets: Secrets;
  readonly private_origins: readonly string[];
}

/** Replaces {name} in the path by the encoded argument; what is used there does not go into query or body. */
function fillPath(template: string, args: JsonObject): { path: string; rest: JsonObject } {
  const rest = { ...args };
  const path = template.replaceAll(/\{([a-zA-Z0-9_]+)\}/g, (_match, name: string) => {
    const value = args[name];
    delete rest[name];
    const text = typeof value === "string" ? value : JSON.stringify(value ?? "");
    // A segment of dots would climb out of the path.
    if (/^\.{1,2}$/.test(text))
      throw new JobError({ class: "permanent", code: "invalid_arguments", message: `${name} may not be ${text}` });
    return encodeURIComponent(text);
  });
  return { path, rest };
}

function requestOf(job: ToolJob): { url: URL; method: string; body: string | null } {
  const method = String(job.tool.config["method"] ?? "GET");
  const base = new URL(String(job.tool.config["url"]));
  const { path, rest } = fillPath(decodeURI(base.pathname), job.args);
  const url = new URL(base);
  url.pathname = path;
  if (method === "GET" || method === "DELETE") {
    for (const [key, value] of Object.entries(rest)) {
      url.searchParams.set(key, typeof value === "string" ? value : JSON.stringify(value));
    }
    return { url, method, body: null };
  }
  return { url, method, body: JSON.stringify(rest) };
}

/** Headers with their secrets filled in, and those secrets, so that they can be kept out of what is recorded. */
async function headersOf(job: ToolJob, secrets: Secrets): Promise<{ headers: Headers; used: string[] }> {
  const headers = new Headers({ accept: "application/json", "idempotency-key": job.idempotency_key });
  const used: string[] = [];
  const declared = isObject(job.tool.config["headers"]) ? job.tool.config["headers"] : {};
  for (const [name, value] of Object.entries(declared)) {
    const text = String(value);
    const reference = /^(.*?)\{\{((?:env|file):[^}]+)\}\}$/.exec(text);
    if (!reference) {
      headers.set(name, text);
      continue;
    }
    const secret = await secrets.resolve(reference[2] ?? "");
    used.push(secret);
    headers.set(name, `${reference[1]}${secret}`);
  }
  return { headers, used };
}

function statusFailure(status: number, response: Response, text: string): JobFailure {
  const message = `HTTP ${status}: ${text.slice(0, 500)}`;
  if (status === 429) {
    const after = Number(response.headers.get("retry-after"));
    return {
      class: "rate_limited",
      code: "http_429",
      message,
      ...(Number.isFinite(after) && after > 0 ? { retry_after_ms: after * 1000 } : {}),
    };
  }
  // 502 and 504 come from a hop between: the server may have acted. 503 says that it did not.
  if (status === 503) return { class: "transient", code: "http_503", message };
  return { class: status >= 500 ? "unknown_outcome" : "permanent", code: `http_${status}`, message };
}

/** Before a byte was sent nothing happened; after it nobody knows. */
function networkFailure(error: unknown): JobFailure {
  if (error instanceof NetRefused) return { class: "permanent", code: "egress_refused", message: error.message };
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = isObject(cause) && typeof cause["code"] === "string" ? cause["code"] : "network";
  const unsent = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"].includes(code);
  const timeout = error instanceof Error && error.name === "TimeoutError";
  return {
    class: unsent ? "transient" : "unknown_outcome",
    code: timeout ? "timeout" : code.toLowerCase(),
    message: messageOf(cause),
  };
}

function resultOf(text: string, type: string): Json {
  if (!type.includes("json")) return text;
  try {
    return parseJson(text, LIMITS.json_depth_max);
  } catch {
    return text;
  }
}

export async function executeHttp(job: ToolJob, deps: HttpToolDeps, signal: AbortSignal): Promise<JobOutcome> {
  const { url, method, body } = requestOf(job);
  const { headers, used } = await headersOf(job, deps.secrets);
  if (body !== null) headers.set("content-type", "application/json");
  const policy = { private_origins: deps.private_origins, response_bytes_max: LIMITS.tool_result_bytes_max };
  const timeout = AbortSignal.any([signal, AbortSignal.timeout(job.tool.timeout_ms)]);
  let response: Response;
  let text: string;
  try {
    response = await deps.net.fetch(
      url.href,
      { method, headers, signal: timeout, ...(body === null ? {} : { body }) },
      policy,
    );
    text = scrubText(await response.text(), used);
  } catch (error) {
    if (signal.aborted)
      throw new JobError({ class: "unknown_outcome", code: "cancelled", message: "The call was cut off." }, error);
    const failure = networkFailure(error);
    throw new JobError({ ...failure, message: scrubText(failure.message, used) }, error);
  }
  if (!response.ok) throw new JobError(statusFailure(response.status, response, text));
  return { ok: true, kind: "tool", result: resultOf(text, response.headers.get("content-type") ?? "") };
}
