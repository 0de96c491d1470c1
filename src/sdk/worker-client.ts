// The worker protocol over keep-alive HTTP. Apart from the client for people: it is called thousands of times a second, and
// the platform's fetch costs several times a plain request.
import { Agent, request } from "undici";
import { AppError, messageOf } from "../contract/errors.ts";
import { API_PREFIX } from "../contract/routes.ts";
import type {
  HeartbeatAnswer,
  HeartbeatRequest,
  LeasedJob,
  LeaseRequest,
  ResultsAnswer,
  ResultsRequest,
} from "../contract/workers.ts";
import { problemError } from "./client.ts";

export interface WorkerClientOptions {
  readonly url: string;
  readonly token: string;
}

/** Longer than the longest lease waits: only a connection that is dead, and does not say so, takes that long. */
const ANSWER_MS = 30_000;

export class WorkerClient {
  private readonly options: WorkerClientOptions;
  private readonly agent = new Agent({ keepAliveTimeout: 60_000, headersTimeout: ANSWER_MS, bodyTimeout: ANSWER_MS });

  constructor(options: WorkerClientOptions) {
    this.options = options;
  }

  lease(body: LeaseRequest, signal: AbortSignal): Promise<{ jobs: LeasedJob[]; drain: boolean }> {
    return this.post("/worker/lease", body, signal);
  }

  heartbeat(body: HeartbeatRequest): Promise<HeartbeatAnswer> {
    return this.post("/worker/heartbeat", body);
  }

  report(body: ResultsRequest): Promise<ResultsAnswer> {
    return this.post("/worker/results", body);
  }

  close(): Promise<void> {
    return this.agent.close();
  }

  /** Throws AppError: the server's own, or DEPENDENCY_UNAVAILABLE when it does not answer. */
  private async post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    const { url, token } = this.options;
    let status: number;
    let text: string;
    try {
      const response = await request(`${url}${API_PREFIX}${path}`, {
        dispatcher: this.agent,
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        body: JSON.stringify(body),
        ...(signal ? { signal } : {}),
      });
      status = response.statusCode;
      text = await response.body.text();
    } catch (cause) {
      throw new AppError("DEPENDENCY_UNAVAILABLE", `The control plane at ${url} does not answer: ${messageOf(cause)}`, {
        cause,
      });
    }
    if (status < 300) return JSON.parse(text) as T;
    throw problemError(text, status);
  }
}
