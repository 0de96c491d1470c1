// Outcomes of calls that were made in this process for runs that another node owns by now. They go there, so that moving a
// group to another node leaves no call in doubt whose outcome is known.
import type { Clock } from "../kit/clock.ts";
import { hmacHex } from "../kit/hash.ts";
import { AppError, isAppError, messageOf } from "../contract/errors.ts";
import type { JobResult } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import { WORKER_TOKEN_PREFIX } from "../contract/workers.ts";
import type { LeasedResult } from "../contract/workers.ts";
import { WorkerClient } from "../sdk/worker-client.ts";

export interface LateResultsOptions {
  readonly node: string;
  /** Credential of control nodes among themselves. */
  readonly token: string;
  /** Where the owner of a run answers; null while there is none, or it is this node. */
  readonly ownerOf: (run_id: string) => string | null;
  /** Takes it where the run has come back to this node; false when it has not. */
  readonly takeOwn: (result: JobResult) => Promise<boolean>;
  /** Proves that the outcome comes from a control node. */
  readonly proof: (result: JobResult) => string;
  readonly clock: Clock;
  readonly log: Log;
}

const PAUSE_MS = 200;
/** An owner that is gone is replaced within its lease; then it is tried some more. */
const GIVE_UP_MS = 4 * LIMITS.node_lease_ms;

/** Control nodes share their keys, and nobody else has them. */
export function nodeToken(key: Uint8Array): string {
  return `${WORKER_TOKEN_PREFIX}node_${hmacHex(key, "control node")}`;
}

export class LateResults {
  private readonly options: LateResultsOptions;
  private readonly client: WorkerClient;

  constructor(options: LateResultsOptions) {
    this.options = options;
    this.client = new WorkerClient({ urls: [], token: options.token });
  }

  /** Returns when the owner has answered. Throws STALE_RESULT, or FENCED when none was found. */
  async send(result: JobResult): Promise<void> {
    const { ownerOf, takeOwn, proof, node, clock, log } = this.options;
    const { run_id, step, attempt } = result;
    const late: LeasedResult = { ...result, attempt_epoch: 0, token: proof(result) };
    for (const end = clock.monotonic_ms() + GIVE_UP_MS; clock.monotonic_ms() < end;) {
      const url = ownerOf(run_id);
      try {
        if (await takeOwn(result)) return;
        if (url !== null) {
          const asked = { instance: node, labels: [], max: 0, results: [late] };
          const { items } = await this.client.at(url).report(asked);
          log.info("result.handed_over", { run_id, step, attempt, accepted: items[0]?.accepted });
          if (items[0]?.accepted) return;
          throw new AppError("STALE_RESULT", `Run ${run_id} has no open attempt`, {
            details: { run_id, step, attempt },
          });
        }
      } catch (error) {
        if (isAppError(error, "STALE_RESULT")) throw error;
        log.warn("result.not_handed_over", { run_id, step, attempt, error: messageOf(error) });
      }
      await clock.sleep(PAUSE_MS);
    }
    throw new AppError("FENCED", `Nobody took the outcome of step ${step} of run ${run_id}`);
  }

  close(): Promise<void> {
    return this.client.close();
  }
}
