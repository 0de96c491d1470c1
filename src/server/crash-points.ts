// Named points at which a test may kill this process with SIGKILL: before and after every durable step. Wrapped around
// the ports here, at the composition root, so the code that runs is the code that ships. Off unless the variable
// QUARTERDECK_CRASH_AT=label:n is set (the n-th time the point is passed).
import type { JournalStore } from "../contract/journal.ts";
import type { Signer, Witness } from "../journal/checkpoint.ts";
import type { Execute } from "../worker/pool.ts";

export const CRASH_POINTS = [
  "flush.before",
  "flush.after",
  "effect.before",
  "effect.after",
  "acquire.after",
  "checkpoint.signed",
  "witness.after",
] as const;
type CrashPoint = (typeof CRASH_POINTS)[number];

export class CrashPoints {
  private readonly label: string | undefined;
  private left: number;

  constructor(setting: string | undefined) {
    const [label, n] = (setting ?? "").split(":");
    this.label = label === "" ? undefined : label;
    this.left = Number(n ?? 1);
  }

  private pass(point: CrashPoint): void {
    if (this.label !== point) return;
    this.left -= 1;
    if (this.left <= 0) process.kill(process.pid, "SIGKILL");
  }

  store<S extends JournalStore>(store: S): S {
    if (this.label === undefined) return store;
    const flush = store.flush.bind(store);
    const acquire = store.acquireGroup.bind(store);
    store.flush = async (lease, batch) => {
      this.pass("flush.before");
      const result = await flush(lease, batch);
      this.pass("flush.after");
      return result;
    };
    store.acquireGroup = async (group, owner) => {
      const lease = await acquire(group, owner);
      this.pass("acquire.after");
      return lease;
    };
    return store;
  }

  execute(execute: Execute): Execute {
    if (this.label === undefined) return execute;
    return async (job, context) => {
      this.pass("effect.before");
      const outcome = await execute(job, context);
      this.pass("effect.after");
      return outcome;
    };
  }

  signer(signer: Signer): Signer {
    if (this.label === undefined) return signer;
    return {
      ...signer,
      sign: (bytes) => {
        const signature = signer.sign(bytes);
        this.pass("checkpoint.signed");
        return signature;
      },
    };
  }

  witness(witness: Witness): Witness {
    if (this.label === undefined) return witness;
    return {
      lines: () => witness.lines(),
      record: async (line) => {
        await witness.record(line);
        this.pass("witness.after");
      },
    };
  }
}
