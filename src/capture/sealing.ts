// Seals captured runs some time after their end, and any other run that ended when somebody asks for its seal. Looks now and
// then at what is left to seal, a few at a time: what is not done now is done at the next look.
import { isAppError, messageOf } from "../contract/errors.ts";
import type { JournalStore } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import { bodyLines } from "../core/chain.ts";
import { eventLeaf, sealText } from "../core/seal.ts";
import type { Seal, SealCommand } from "../core/seal.ts";
import { readWholeRun } from "../journal/audit.ts";
import type { Signer } from "../journal/checkpoint.ts";
import type { Clock } from "../kit/clock.ts";
import { merkleRoot } from "../kit/merkle.ts";
import type { Place } from "./quarantine.ts";

export interface SealingOptions {
  readonly owner: () => { ingest(tenant_id: string, run_id: string, command: SealCommand): Promise<unknown> };
  readonly store: Pick<JournalStore, "readRun">;
  readonly signer: Pick<Signer, "key_id" | "sign">;
  /** Captured runs of these groups that ended before a moment and are not sealed. */
  readonly unsealed: (wanted: { groups: readonly number[]; before_us: number; limit: number }) => Promise<Place[]>;
  readonly seal_after_ms: number;
  readonly clock: Clock;
  readonly log: Log;
}

export class Sealing {
  private readonly options: SealingOptions;

  constructor(options: SealingOptions) {
    this.options = options;
  }

  /** Seals what is due in these groups. Returns how many runs. */
  async look(groups: readonly number[]): Promise<number> {
    const { clock, log, seal_after_ms, unsealed } = this.options;
    const limit = LIMITS.seals_at_once_max;
    let sealed = 0;
    for (;;) {
      const due = await unsealed({ groups, before_us: clock.now_us() - seal_after_ms * 1000, limit });
      let done = 0;
      for (const place of due) {
        try {
          await this.seal(place);
          done += 1;
        } catch (error) {
          // Something was said of it meanwhile, or it is another node's now: the next look knows.
          log.warn("run.not_sealed", { run_id: place.run_id, error: messageOf(error) });
          if (!isAppError(error, "CONFLICT")) return sealed + done;
        }
      }
      sealed += done;
      if (due.length < limit || done === 0) return sealed;
    }
  }

  /** Seals a run as it is now. Throws CONFLICT where it may still be added to. */
  async seal({ tenant_id, run_id }: Place): Promise<void> {
    const { owner, signer, store } = this.options;
    const rows = await readWholeRun(store, tenant_id, run_id);
    const leaves = rows.flatMap((row) => bodyLines(row.body).map(eventLeaf));
    const { key_id } = signer;
    const unsigned = { key_id, last_seq: rows.at(-1)?.last_seq ?? 0, root: merkleRoot(leaves).toString("hex") };
    const signature = signer.sign(sealText({ tenant_id, run_id }, unsigned)).toString("hex");
    const seal: Seal = { ...unsigned, signature };
    await owner().ingest(tenant_id, run_id, { type: "seal", seal });
  }
}
