// SQL of events that wait for the ones before them: durable, since they were acknowledged. They leave when they are recorded.
import { encodeId, uuidBytes, uuidText } from "../kit/ids.ts";
import { idBytes } from "../contract/ids.ts";
import type { Db } from "../contract/ports.ts";

/** The numbers of one producer in one run. */
export interface StagedKey {
  readonly tenant_id: string;
  readonly run_id: string;
  readonly producer: string;
  readonly epoch: number;
}

export interface StagedEvent {
  readonly no: number;
  /** The event as it will be recorded, as JSON. */
  readonly event: string;
  readonly staged_at_us: number;
}

export interface StagedGroup extends StagedKey {
  readonly since_us: number;
  readonly count: number;
}

export interface StagedEvents {
  /** Done means durable. A number that waits already stays as it is; returns how many are new. */
  put(key: StagedKey, events: readonly StagedEvent[]): Promise<number>;
  /** In the order of their numbers. */
  read(key: StagedKey): Promise<StagedEvent[]>;
  /** Drops those up to a number. */
  drop(key: StagedKey, to: number): Promise<void>;
  groups(): Promise<StagedGroup[]>;
}

const WHERE = "run_id = $1 and producer = $2 and epoch = $3";
const keyValues = (key: StagedKey) => [uuidText(idBytes("run", key.run_id)), key.producer, key.epoch];

export class PostgresStagedEvents implements StagedEvents {
  private readonly db: Db;

  constructor(db: Db) {
    this.db = db;
  }

  async put(key: StagedKey, events: readonly StagedEvent[]): Promise<number> {
    const { count } = await this.db.transaction({ role: "qd_app", tenant_id: key.tenant_id }, (tx) =>
      tx.query({
        text: `insert into qd.staged_events (tenant_id, run_id, producer, epoch, sequence_no, event, staged_at_us)
          select qd.tenant(), $1, $2, $3, j.no, j.event, j.staged_at_us
          from json_to_recordset($4::json) as j(no bigint, event text, staged_at_us bigint)
          on conflict do nothing`,
        values: [...keyValues(key), JSON.stringify(events)],
      }),
    );
    return count;
  }

  async read(key: StagedKey): Promise<StagedEvent[]> {
    return this.db.transaction({ role: "qd_app", tenant_id: key.tenant_id }, async (tx) => {
      const { rows } = await tx.query<StagedEvent>({
        text: `select sequence_no as no, event, staged_at_us from qd.staged_events where ${WHERE} order by sequence_no`,
        values: keyValues(key),
      });
      return rows;
    });
  }

  async drop(key: StagedKey, to: number): Promise<void> {
    await this.db.transaction({ role: "qd_app", tenant_id: key.tenant_id }, (tx) =>
      tx.query({
        text: `delete from qd.staged_events where ${WHERE} and sequence_no <= $4`,
        values: [...keyValues(key), to],
      }),
    );
  }

  async groups(): Promise<StagedGroup[]> {
    return this.db.transaction({ role: "qd_system" }, async (tx) => {
      const { rows } = await tx.query<StagedGroup>({
        text: `select tenant_id, run_id, producer, epoch, min(staged_at_us) as since_us, count(*)::int as count
          from qd.staged_events group by tenant_id, run_id, producer, epoch`,
      });
      return rows.map((row) => ({
        ...row,
        tenant_id: encodeId("ten", uuidBytes(row.tenant_id)),
        run_id: encodeId("run", uuidBytes(row.run_id)),
      }));
    });
  }
}
