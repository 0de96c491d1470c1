// Sends batches of events to the server and says in one word what came of it.
import type { IngestAnswer } from "../../contract/ingest.ts";
import { API_PREFIX } from "../../contract/paths.ts";
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import type { Host } from "./host.ts";
import type { Settings } from "./settings.ts";

/** Events of one run and one producer, as they are sent and as they are spilled. */
export interface Batch {
  readonly run_id: string;
  readonly producer_id: string;
  readonly producer_epoch: number;
  readonly events: readonly JsonObject[];
}

export type Sent =
  | { readonly kind: "taken"; readonly answer: IngestAnswer }
  /** The same batch may be taken later. */
  | { readonly kind: "later"; readonly why: string }
  /** It will never be. */
  | { readonly kind: "refused"; readonly why: string };

const TIMEOUT_MS = 10_000;
const RETRYABLE = [408, 425, 429, 502, 503, 504];
/** A wrong credential is mended outside; the events are worth keeping until then. */
const MENDABLE = [401, 403];

export class Transport {
  private readonly host: Host;
  private readonly settings: Settings;

  constructor(host: Host, settings: Settings) {
    this.host = host;
    this.settings = settings;
  }

  async send({ run_id, ...body }: Batch): Promise<Sent> {
    let response: Response;
    try {
      response = await this.post(`/runs/${run_id}/events`, body as unknown as Json);
    } catch (error) {
      return { kind: "later", why: `${this.settings.url} does not answer: ${messageOf(error)}` };
    }
    try {
      const text = await response.text();
      if (response.ok) return { kind: "taken", answer: JSON.parse(text) as IngestAnswer };
      const why = `the server answered ${response.status}: ${detailOf(text)}`;
      const later = response.status >= 500 || RETRYABLE.includes(response.status) || MENDABLE.includes(response.status);
      return { kind: later ? "later" : "refused", why };
    } catch (error) {
      return { kind: "later", why: `the answer was cut off: ${messageOf(error)}` };
    }
  }

  /** A recorded call's outcome, from the run that is replayed. Throws when there is none: a replay does not guess. */
  async replayed(run_id: string, call: JsonObject): Promise<{ ended: string; data: JsonObject }> {
    const response = await this.post(`/captures/${run_id}/calls`, call);
    const text = await response.text();
    if (!response.ok) throw new Error(detailOf(text));
    return JSON.parse(text) as { ended: string; data: JsonObject };
  }

  private post(path: string, body: Json): Promise<Response> {
    const { url, token } = this.settings;
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    return this.host.fetch(`${url}${API_PREFIX}${path}`, {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      signal,
    });
  }
}

function detailOf(text: string): string {
  try {
    const problem: unknown = JSON.parse(text);
    if (isObject(problem) && typeof problem["detail"] === "string") return problem["detail"];
  } catch {
    // It is no problem document; what it says is said as it is.
  }
  return text.slice(0, 300);
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
