// Payloads that could not be looked at. They are in no event and no plain artifact: each is kept encrypted, under a key of the
// tenant and for its run alone, and is read only where somebody with the permission has taken the risk on, on record.
// Invariant: what was kept for one run cannot be opened in the name of another.
import { AppError } from "../contract/errors.ts";
import type { BlobStore } from "../contract/ports.ts";
import type { Quarantined } from "../contract/redaction.ts";
import { boxed, unboxed } from "../kit/box.ts";
import { hmacHex } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Random } from "../kit/random.ts";
import type { RedactedPayload } from "./redact.ts";

export interface QuarantineOptions {
  readonly blobs: Pick<BlobStore, "put" | "get">;
  readonly tenantKey: (tenant_id: string) => Uint8Array;
  readonly random: Random;
}

/** Whose payload it is. */
export interface Place {
  readonly tenant_id: string;
  readonly run_id: string;
}

/** What was put away, and where in the event's data it belongs. */
export interface OpenedPayload {
  readonly at: string;
  readonly value: Json;
}

export class Quarantine {
  private readonly options: QuarantineOptions;

  constructor(options: QuarantineOptions) {
    this.options = options;
  }

  /** Puts away what could not be looked at; its mark says where. Done means durable. */
  async keep<T extends Json>(place: Place, payload: RedactedPayload<T>): Promise<RedactedPayload<T>> {
    const { mark, withheld } = payload;
    if (mark?.status !== "failed" || withheld === undefined) return payload;
    return { value: null, mark: { ...mark, quarantined: [await this.put(place, mark.paths[0] ?? "", withheld)] } };
  }

  /** The same mark for another run, which has what was opened for itself. */
  async putAway(place: Place, mark: Json | undefined, opened: readonly OpenedPayload[]): Promise<JsonObject> {
    const quarantined: JsonObject[] = [];
    for (const { at, value } of opened) quarantined.push({ ...(await this.put(place, at, value)) });
    return { ...(isObject(mark) ? mark : {}), quarantined };
  }

  /** Puts a value away, which stands at `at` in its event's data. */
  async put(place: Place, at: string, value: Json): Promise<Quarantined> {
    const box = boxed(this.key(place), this.options.random, Buffer.from(canonicalJson(value)));
    return { at, bytes: box.length, digest: await this.options.blobs.put(place.tenant_id, box) };
  }

  /**
   * What an event's mark says was put away. Throws NOT_FOUND where it is not here (it does not travel with exports), and
   * ARTIFACT_CORRUPT where it was changed or is another run's.
   */
  async open(place: Place, mark: Json | undefined): Promise<OpenedPayload[]> {
    const opened: OpenedPayload[] = [];
    for (const { at, digest } of quarantinedIn(mark)) opened.push({ at, value: await this.get(place, digest) });
    return opened;
  }

  /** One value that was put away. Throws NOT_FOUND and ARTIFACT_CORRUPT, as above. */
  async get(place: Place, digest: string): Promise<Json> {
    return this.decrypted(place, digest, await this.options.blobs.get(place.tenant_id, digest));
  }

  private decrypted(place: Place, digest: string, box: Buffer): Json {
    try {
      return parseJson(unboxed(this.key(place), box).toString("utf8"));
    } catch (cause) {
      const message = `The quarantined payload ${digest} cannot be opened for run ${place.run_id}`;
      throw new AppError("ARTIFACT_CORRUPT", message, { cause, details: { digest, run_id: place.run_id } });
    }
  }

  private key({ tenant_id, run_id }: Place): Buffer {
    return Buffer.from(hmacHex(this.options.tenantKey(tenant_id), `quarantine\n${run_id}`), "hex");
  }
}

/** What a mark says of payloads that were put away. */
export function quarantinedIn(mark: Json | undefined): Quarantined[] {
  const items = isObject(mark) && Array.isArray(mark["quarantined"]) ? mark["quarantined"] : [];
  return items.flatMap((item) => {
    if (!isObject(item) || typeof item["at"] !== "string" || typeof item["digest"] !== "string") return [];
    return [{ at: item["at"], digest: item["digest"], bytes: Number(item["bytes"] ?? 0) }];
  });
}

/** An event's data with what was put away back in its place: as a whole, or in one of its fields. */
export function restored(data: JsonObject, opened: readonly OpenedPayload[]): JsonObject {
  let out = data;
  for (const { at, value } of opened) {
    if (at !== "") out = { ...out, [at.slice(1)]: value };
    else if (isObject(value)) out = { ...out, ...value };
  }
  return out;
}
