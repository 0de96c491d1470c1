// The worker protocol over keep-alive HTTP. Apart from the client for people: it is called thousands of times a second, and
// the platform's fetch costs several times a plain request.
import { Agent, request } from "undici";
import { AppError, isAppError, messageOf, problemError } from "../contract/errors.ts";
import { API_PREFIX } from "../contract/paths.ts";
import type {
  HeartbeatAnswer,
  HeartbeatRequest,
  LeasedJob,
  LeaseRequest,
  ProgressRequest,
  ResultsAnswer,
  ResultsRequest,
} from "../contract/workers.ts";
import { isObject } from "../kit/json.ts";

export interface WorkerClientOptions {
  /** Addresses of control nodes; the next one is asked when one does not answer. */
  readonly urls: readonly string[];
  readonly token: string;
}

/** Longer than the longest lease waits: only a connection that is dead, and does not say so, takes that long. */
const ANSWER_MS = 30_000;

export class WorkerClient {
  private readonly options: WorkerClientOptions;
  /** Counts up; which address is asked. */
  private turn = 0;
  private readonly agent: Agent;

  constructor(options: WorkerClientOptions, agent?: Agent) {
    this.options = options;
    const timeouts = { headersTimeout: ANSWER_MS, bodyTimeout: ANSWER_MS };
    this.agent = agent ?? new Agent({ keepAliveTimeout: 60_000, ...timeouts });
  }

  /** Reaches one node, over the same connections. */
  at(url: string): WorkerClient {
    return new WorkerClient({ ...this.options, urls: [url] }, this.agent);
  }

  lease(body: LeaseRequest, signal: AbortSignal): Promise<{ jobs: LeasedJob[]; drain: boolean }> {
    return this.post("/worker/lease", body, signal);
  }

  heartbeat(body: HeartbeatRequest): Promise<HeartbeatAnswer> {
    return this.post("/worker/heartbeat", body);
  }

  report(body: ResultsRequest, signal?: AbortSignal): Promise<ResultsAnswer> {
    return this.post("/worker/results", body, signal);
  }

  progress(body: ProgressRequest): Promise<unknown> {
    return this.post("/worker/progress", body);
  }

  async putArtifact(tenant_id: string, bytes: Uint8Array): Promise<string> {
    const path = `/worker/artifacts/${encodeURIComponent(tenant_id)}`;
    const answer = await this.send(path, { method: "POST", body: bytes, type: "application/octet-stream" });
    return (JSON.parse(answer.toString("utf8")) as { digest: string }).digest;
  }

  getArtifact(tenant_id: string, digest: string): Promise<Buffer> {
    return this.send(`/worker/artifacts/${encodeURIComponent(tenant_id)}/${encodeURIComponent(digest)}`, {
      method: "GET",
    });
  }

  close(): Promise<void> {
    return this.agent.close();
  }

  private async post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    const sent = { method: "POST", body: JSON.stringify(body), type: "application/json" } as const;
    return JSON.parse((await this.send(path, signal ? { ...sent, signal } : sent)).toString("utf8")) as T;
  }

  /** Throws AppError: the server's own, or DEPENDENCY_UNAVAILABLE when no node answers. */
  private async send(
    path: string,
    sent: { method: "GET" | "POST"; body?: string | Uint8Array; type?: string; signal?: AbortSignal },
  ): Promise<Buffer> {
    const { urls, token } = this.options;
    const { type, ...rest } = sent;
    const headers = { authorization: `Bearer ${token}`, ...(type === undefined ? {} : { "content-type": type }) };
    for (let tries = 1; ; tries++) {
      const url = urls[this.turn % urls.length] ?? "";
      try {
        const response = await request(`${url}${API_PREFIX}${path}`, { dispatcher: this.agent, headers, ...rest });
        const bytes = Buffer.from(await response.body.arrayBuffer());
        if (response.statusCode < 300) return bytes;
        throw problemError(bytes.toString("utf8"), response.statusCode);
      } catch (cause) {
        if (isAppError(cause)) throw cause;
        // The next request goes to another node; this one too, when nobody can have received it.
        this.turn += 1;
        const unsent = isObject(cause) && cause["code"] === "ECONNREFUSED";
        if (unsent && tries < urls.length) continue;
        throw new AppError(
          "DEPENDENCY_UNAVAILABLE",
          `The control plane at ${url} does not answer: ${messageOf(cause)}`,
          {
            cause,
          },
        );
      }
    }
  }
}
