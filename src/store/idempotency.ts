// SQL of Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): the first answer to a key is every answer to it.
import type { DbTx } from "../contract/ports.ts";

export interface IdempotencyRow {
  readonly body_hash: string;
  readonly status: number | null;
  readonly response: string | null;
  readonly created_at_us: number;
}

export async function findKey(tx: DbTx, key_hash: string): Promise<IdempotencyRow | null> {
  const { rows } = await tx.query<IdempotencyRow>({
    text: "select body_hash, status, response, created_at_us from qd.idempotency where key_hash = $1",
    values: [key_hash],
  });
  return rows[0] ?? null;
}

/** Claims a key; false when somebody has it. */
export async function claimKey(tx: DbTx, key_hash: string, body_hash: string, now_us: number): Promise<boolean> {
  const { count } = await tx.query({
    text: `insert into qd.idempotency (tenant_id, key_hash, body_hash, created_at_us) values (qd.tenant(), $1, $2, $3)
      on conflict (tenant_id, key_hash) do nothing`,
    values: [key_hash, body_hash, now_us],
  });
  return count === 1;
}

export async function answerKey(tx: DbTx, key_hash: string, status: number, response: string): Promise<void> {
  await tx.query({
    text: "update qd.idempotency set status = $2, response = $3 where key_hash = $1",
    values: [key_hash, status, response],
  });
}

/** Frees a key whose request failed in a way that may pass: the same request may be sent again. */
export async function releaseKey(tx: DbTx, key_hash: string): Promise<void> {
  await tx.query({ text: "delete from qd.idempotency where key_hash = $1 and status is null", values: [key_hash] });
}

export async function expireKeys(tx: DbTx, before_us: number): Promise<number> {
  const { count } = await tx.query({
    text: "delete from qd.idempotency where created_at_us < $1",
    values: [before_us],
  });
  return count;
}
