// Idempotency-Key: the first answer to (tenant, route, principal, key) is the answer to every repetition. A key whose
// request died half way is taken up again with the same seed, so it cannot create a second run.
import { sha256 } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Json } from "../kit/json.ts";
import type { Clock } from "../kit/clock.ts";
import { AppError, isAppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Db } from "../contract/ports.ts";
import { answerKey, claimKey, findKey, releaseKey } from "../store/idempotency.ts";
import type { IdSeed } from "../contract/ids.ts";

export interface KeyedRequest {
  readonly tenant_id: string;
  readonly principal: string;
  readonly route: string;
  readonly key: string;
  readonly body: Json;
}

export interface KeyedAnswer {
  readonly status: number;
  readonly body: unknown;
  readonly replayed: boolean;
}

/** What the ids that a request makes are made of: the same request makes the same ones. */
export function seedBytes({ route, principal, key }: Pick<KeyedRequest, "route" | "principal" | "key">): Buffer {
  return sha256(canonicalJson([route, principal, key]));
}

export class Idempotency {
  private readonly db: Db;
  private readonly clock: Clock;
  private readonly busy = new Set<string>();

  constructor(db: Db, clock: Clock) {
    this.db = db;
    this.clock = clock;
  }

  async run(request: KeyedRequest, status: number, work: (seed: IdSeed) => Promise<unknown>): Promise<KeyedAnswer> {
    const { tenant_id, key } = request;
    if (key.length === 0 || key.length > LIMITS.idempotency_key_chars_max) {
      throw new AppError(
        "VALIDATION_ERROR",
        `Idempotency-Key has 1 to ${LIMITS.idempotency_key_chars_max} characters`,
        {
          errors: [{ pointer: "", message: "Idempotency-Key" }],
        },
      );
    }
    const bytes = seedBytes(request);
    const key_hash = bytes.toString("hex");
    const body_hash = sha256(canonicalJson(request.body)).toString("hex");
    const lock = `${tenant_id}/${key_hash}`;
    if (this.busy.has(lock)) throw new AppError("CONFLICT", "A request with this Idempotency-Key is being handled");
    this.busy.add(lock);
    try {
      const scope = { role: "qd_app" as const, tenant_id };
      const created_us = this.clock.now_us();
      const claimed = await this.db.transaction(scope, (tx) => claimKey(tx, key_hash, body_hash, created_us));
      const known = claimed ? null : await this.db.transaction(scope, (tx) => findKey(tx, key_hash));
      if (known && known.body_hash !== body_hash) {
        throw new AppError(
          "IDEMPOTENCY_MISMATCH",
          `The Idempotency-Key ${JSON.stringify(key)} was used with another body`,
        );
      }
      if (known && known.status !== null)
        return { status: known.status, body: JSON.parse(known.response ?? "null") as unknown, replayed: true };
      const seed = { created_us: known?.created_at_us ?? created_us, bytes };
      const body = await this.answered(scope, key_hash, status, () => work(seed));
      return { status, body, replayed: false };
    } finally {
      this.busy.delete(lock);
    }
  }

  private async answered(
    scope: { role: "qd_app"; tenant_id: string },
    key_hash: string,
    status: number,
    work: () => Promise<unknown>,
  ): Promise<unknown> {
    try {
      const body = await work();
      await this.db.transaction(scope, (tx) => answerKey(tx, key_hash, status, JSON.stringify(body)));
      return body;
    } catch (error) {
      if (isAppError(error)) await this.db.transaction(scope, (tx) => releaseKey(tx, key_hash));
      throw error;
    }
  }
}
