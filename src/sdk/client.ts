// Client of the HTTP API. Errors come back as AppError with the server's code.
import { AppError, problemError } from "../contract/errors.ts";
import type { Event, EventOrder } from "../contract/events.ts";
import type { Progress } from "../contract/progress.ts";
import { API_PREFIX } from "../contract/paths.ts";
import type { Approval, Explanation, Run, StartRun } from "../contract/runs.ts";

export interface ClientOptions {
  readonly url: string;
  readonly token?: string;
  /** Who acts, on a server without credentials. */
  readonly principal?: string;
}

interface Sent {
  readonly method?: "GET" | "POST";
  readonly body?: unknown;
  readonly raw?: { type: string; bytes: string | Uint8Array };
  readonly headers?: Record<string, string>;
}

/** What may be done to a run, as its path says it. */
export type RunVerb = "cancel" | "pause" | "resume" | "retry" | "input" | "privacy-override" | "amendments";

export class Client {
  private readonly options: ClientOptions;

  constructor(options: ClientOptions) {
    this.options = options;
  }

  get url(): string {
    return this.options.url;
  }

  /** The raw answer; throws AppError for anything but success. */
  async fetch(path: string, sent: Sent = {}): Promise<Response> {
    const { url, token, principal } = this.options;
    const headers: Record<string, string> = { ...sent.headers };
    if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
    if (principal !== undefined) headers["quarterdeck-principal"] = principal;
    let body: string | Uint8Array | undefined;
    if (sent.raw) {
      headers["content-type"] = sent.raw.type;
      body = sent.raw.bytes;
    } else if (sent.body !== undefined) {
      headers["content-type"] = "application/json";
      body = JSON.stringify(sent.body);
    }
    let response: Response;
    try {
      response = await fetch(`${url}${API_PREFIX}${path}`, {
        method: sent.method ?? "GET",
        headers,
        ...(body === undefined ? {} : { body: body as string }),
      });
    } catch (cause) {
      throw new AppError("DEPENDENCY_UNAVAILABLE", `No server answers at ${url}. Start one with: quarterdeck up`, {
        cause,
      });
    }
    if (response.ok) return response;
    throw problemError(await response.text(), response.status);
  }

  async json<T>(path: string, sent: Sent = {}): Promise<T> {
    return (await (await this.fetch(path, sent)).json()) as T;
  }

  startRun(request: StartRun, idempotency_key?: string): Promise<Run> {
    const headers = idempotency_key === undefined ? {} : { "idempotency-key": idempotency_key };
    return this.json("/runs", { method: "POST", body: request, headers });
  }

  getRun(run_id: string): Promise<Run> {
    return this.json(`/runs/${encodeURIComponent(run_id)}`);
  }

  events(
    run_id: string,
    after_seq = 0,
    order: EventOrder = "commit",
  ): Promise<{ items: Event[]; next_cursor: string | null }> {
    // A server of the version before knows of no order.
    const how = order === "commit" ? "" : `&order=${order}`;
    return this.json(`/runs/${encodeURIComponent(run_id)}/events?after_seq=${after_seq}${how}`);
  }

  act(run_id: string, verb: RunVerb, body: unknown = {}): Promise<Run> {
    return this.json(`/runs/${encodeURIComponent(run_id)}/${verb}`, { method: "POST", body });
  }

  /** Says that a named reader has done with all events up to a seq. */
  ack(run_id: string, consumer: string, seq: number): Promise<{ consumer: string; acked_seq: number }> {
    return this.json(`/runs/${encodeURIComponent(run_id)}/stream/ack`, { method: "POST", body: { consumer, seq } });
  }

  approvals(state?: string): Promise<{ items: Approval[]; next_cursor: string | null }> {
    return this.json(`/approvals${state === undefined ? "" : `?state=${encodeURIComponent(state)}`}`);
  }

  decide(approval_id: string, verb: "approve" | "reject", note?: string): Promise<Approval> {
    return this.json(`/approvals/${encodeURIComponent(approval_id)}/${verb}`, {
      method: "POST",
      body: note === undefined ? {} : { note },
    });
  }

  explain(run_id: string, step: string): Promise<Explanation> {
    return this.json(`/runs/${encodeURIComponent(run_id)}/steps/${encodeURIComponent(step)}/explain`);
  }

  apply<T>(yaml: string): Promise<T> {
    return this.json("/registry/apply", { method: "POST", raw: { type: "application/yaml", bytes: yaml } });
  }

  /**
   * Events as they are committed, from after a seq until the run ends. With `onProgress`, what running calls say comes
   * between them: tokens of models, notes of tools. With a `consumer` it begins behind what that has acknowledged instead.
   */
  async *watch(
    run_id: string,
    after_seq = 0,
    onProgress?: (said: Progress) => void,
    consumer?: string,
  ): AsyncIterable<Event> {
    const query = new URLSearchParams({
      ...(onProgress ? { progress: "true" } : {}),
      ...(consumer === undefined ? {} : { consumer }),
    });
    const path = `/runs/${encodeURIComponent(run_id)}/stream?${query.toString()}`;
    const headers: Record<string, string> = consumer === undefined ? { "last-event-id": String(after_seq) } : {};
    const response = await this.fetch(path, { headers });
    if (!response.body) return;
    let buffer = "";
    const decoder = new TextDecoder();
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      buffer += decoder.decode(chunk, { stream: true });
      for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
        const lines = buffer.slice(0, end).split("\n");
        const data = lines.find((line) => line.startsWith("data: "))?.slice("data: ".length);
        buffer = buffer.slice(end + 2);
        if (data === undefined) continue;
        if (lines.includes("event: progress")) onProgress?.(JSON.parse(data) as Progress);
        else yield JSON.parse(data) as Event;
      }
    }
  }
}
