// Seals captured runs some time after their end, and any other run that ended when somebody asks for its seal. Looks now and
// then at what is left to seal, a few at a time: what is not done now is done at the next look.
import { messageOf } from "../contract/errors.ts";
import type { CommittedRow, JournalStore } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import { bodyLines } from "../core/chain.ts";
import { eventLeaf, sealText } from "../core/seal.ts";
import type { Seal, SealCommand } from "../core/seal.ts";
import { readWholeRun } from "../journal/audit.ts";
import type { Signer } from "../journal/checkpoint.ts";
import type { Clock } from "../kit/clock.ts";
import { merkleRoot } from "../kit/merkle.ts";
import type { Turn } from "../kit/turn.ts";
import type { Place } from "./quarantine.ts";

/** A run that is yet to be sealed, with when it ended. */
export interface Unsealed extends Place {
  readonly updated_at_us: number;
}

export interface SealingOptions {
  readonly owner: () => { ingest(tenant_id: string, run_id: string, command: SealCommand): Promise<unknown> };
  readonly store: Pick<JournalStore, "readRun">;
  readonly signer: Pick<Signer, "key_id" | "sign">;
  /** Captured runs of these groups that ended before a moment and are not sealed: those after the given one, in order. */
  readonly unsealed: (wanted: {
    groups: readonly number[];
    before_us: number;
    after: Unsealed | null;
    limit: number;
  }) => Promise<Unsealed[]>;
  readonly seal_after_ms: number;
  readonly clock: Clock;
  readonly turn: Turn;
  readonly log: Log;
}

/** So many in a row, and it is not about the runs. */
const FAILURES_MAX = 50;

export class Sealing {
  private readonly options: SealingOptions;
  /** Where the last look gave up: the next one begins behind it, so that those before hold up none of those behind. */
  private gaveUp: Unsealed | null = null;

  constructor(options: SealingOptions) {
    this.options = options;
  }

  /** Seals what is due in these groups. Returns how many runs. Those that cannot be sealed hold up no others. */
  async look(groups: readonly number[]): Promise<number> {
    const { clock, log, seal_after_ms, unsealed } = this.options;
    const before_us = clock.now_us() - seal_after_ms * 1000;
    const limit = LIMITS.seals_at_once_max;
    let sealed = 0;
    let failed = 0;
    let after = this.gaveUp;
    this.gaveUp = null;
    for (;;) {
      const due: Unsealed[] = await unsealed({ groups, before_us, after, limit });
      for (const place of due) {
        try {
          await this.seal(place);
          sealed += 1;
          failed = 0;
        } catch (error) {
          // Something was said of it meanwhile, or it is another node's now: the next look knows.
          log.warn("run.not_sealed", { run_id: place.run_id, error: messageOf(error) });
          failed += 1;
          if (failed < FAILURES_MAX) continue;
          this.gaveUp = place;
          return sealed;
        }
      }
      after = due.at(-1) ?? null;
      if (due.length < limit) return sealed;
    }
  }

  /** Seals a run as it is now. Throws CONFLICT where it may still be added to. */
  async seal({ tenant_id, run_id }: Place): Promise<void> {
    const { owner, signer, store, turn } = this.options;
    const rows = await readWholeRun(store, tenant_id, run_id);
    const leaves = await turn.pieces(leavesOf(rows));
    const { key_id } = signer;
    const unsigned = { key_id, last_seq: rows.at(-1)?.last_seq ?? 0, root: merkleRoot(leaves).toString("hex") };
    const signature = signer.sign(sealText({ tenant_id, run_id }, unsigned)).toString("hex");
    const seal: Seal = { ...unsigned, signature };
    await owner().ingest(tenant_id, run_id, { type: "seal", seal });
  }
}

function* leavesOf(rows: readonly CommittedRow[]): Iterator<void, Buffer[]> {
  const leaves: Buffer[] = [];
  for (const row of rows) {
    for (const line of bodyLines(row.body)) leaves.push(eventLeaf(line));
    yield;
  }
  return leaves;
}
