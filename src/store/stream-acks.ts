// SQL of how far named readers of runs have come.
import { uuidText } from "../kit/ids.ts";
import { idBytes } from "../contract/ids.ts";
import type { DbTx } from "../contract/ports.ts";

/** A reader is its principal's own: nobody else moves it. */
export interface Reader {
  readonly run_id: string;
  readonly principal: string;
  readonly consumer: string;
}

/** 0 where it never said anything. */
export async function ackedSeq(tx: DbTx, { run_id, principal, consumer }: Reader): Promise<number> {
  const { rows } = await tx.query<{ seq: number }>({
    text: "select seq from qd.stream_acks where run_id = $1 and principal = $2 and consumer = $3",
    values: [uuidText(idBytes("run", run_id)), principal, consumer],
  });
  return rows[0]?.seq ?? 0;
}

/** Moves a reader on, never back; returns where it is. */
export async function keepAck(
  tx: DbTx,
  { run_id, principal, consumer }: Reader,
  seq: number,
  now_us: number,
): Promise<number> {
  const { rows } = await tx.query<{ seq: number }>({
    text: `insert into qd.stream_acks (tenant_id, run_id, principal, consumer, seq, at_us) values (qd.tenant(), $1, $2, $3, $4, $5)
      on conflict (tenant_id, run_id, principal, consumer)
      do update set seq = greatest(qd.stream_acks.seq, excluded.seq), at_us = excluded.at_us returning seq`,
    values: [uuidText(idBytes("run", run_id)), principal, consumer, seq, now_us],
  });
  return rows[0]?.seq ?? seq;
}

/** Forgets readers that were not heard of since a moment. */
export async function expireAcks(tx: DbTx, before_us: number): Promise<number> {
  const { count } = await tx.query({ text: "delete from qd.stream_acks where at_us < $1", values: [before_us] });
  return count;
}
