// Who owns the runs, where several control nodes share one database: the holder of the group's lease. The owner renews it;
// the others look every half second and take it when it has run out.
// Invariant: this node acts as owner only while its last renewal, counted from before it was asked for, has not run out. The
// journal is safe without that (a commit of a former owner is fenced); it keeps jobs from being handed out in vain.
import type { Clock, Timer } from "../kit/clock.ts";
import { messageOf } from "../contract/errors.ts";
import { NewerJournalError } from "../contract/journal.ts";
import type { GroupLease, GroupLeases, NodeAddress } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";

export interface OwnershipOptions {
  readonly leases: GroupLeases;
  readonly group: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly self: () => NodeAddress;
  /** Takes the runs over; what was claimed is given up when it fails. */
  readonly onClaimed: (lease: GroupLease) => Promise<void>;
  /** The runs are somebody else's now. */
  readonly onLost: () => void;
}

const LOOK_MS = 500;
/** How long a node that ends looks for the next owner. */
const HAND_OVER_MS = 1_500;

export class Ownership {
  private readonly options: OwnershipOptions;
  private lease: GroupLease | null = null;
  private valid_until_ms = 0;
  private other: NodeAddress | null = null;
  private stopped = false;
  /** Why this node may not own the runs, while it may not. */
  private outdated: string | null = null;
  private loop: Promise<void> = Promise.resolve();

  constructor(options: OwnershipOptions) {
    this.options = options;
  }

  /** True while nobody else can own the runs. */
  get isOwner(): boolean {
    return this.lease !== null && this.options.clock.monotonic_ms() < this.valid_until_ms;
  }

  /** Where the owner answers, as last seen; null when there is none or it is this node. */
  get otherUrl(): string | null {
    return this.lease ? null : (this.other?.url ?? null);
  }

  /** Why this node can never own the runs as they are: a newer program has written them; null while it can. */
  get problem(): string | null {
    return this.lease ? null : this.outdated;
  }

  /** Looks once, then goes on looking until it is stopped. */
  async start(): Promise<void> {
    await this.look();
    this.loop = this.run();
  }

  /** After the last commit: the others need not wait for the lease to run out. */
  async stop(): Promise<void> {
    this.stopped = true;
    await this.loop;
    const { lease } = this;
    this.lease = null;
    if (!lease) return;
    const { leases, group, clock } = this.options;
    await leases.release(lease);
    // Requests that still come here are passed on, as soon as there is somebody to pass them to.
    for (const end = clock.monotonic_ms() + HAND_OVER_MS; clock.monotonic_ms() < end;) {
      this.other = await leases.holder(group);
      if (this.other) return;
      await clock.sleep(HAND_OVER_MS / 20);
    }
  }

  /** The engine has ended: the database was away, or another node was quicker. */
  lost(): void {
    if (!this.lease) return;
    this.lease = null;
    this.options.onLost();
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      await this.options.clock.sleep(LOOK_MS);
      if (this.stopped) return;
      await this.look();
    }
  }

  private async look(): Promise<void> {
    const { log } = this.options;
    try {
      await this.inTime(this.lease ? this.renew(this.lease) : this.claim());
    } catch (error) {
      log.warn("lease.failed", { error: messageOf(error) });
    }
    if (this.lease && !this.isOwner) {
      log.warn("lease.ran_out", { shard_epoch: this.lease.shard_epoch });
      this.lost();
    }
  }

  /** A database that says nothing must not keep this node from seeing that its lease has run out. */
  private async inTime(work: Promise<void>): Promise<void> {
    const { clock } = this.options;
    if (!this.lease) return work;
    let timer: Timer | null = null;
    const late = new Promise<never>((_resolve, reject) => {
      const left = Math.max(0, this.valid_until_ms - clock.monotonic_ms());
      timer = clock.timer(left + 1, () => reject(new Error("the lease was not renewed in time")));
    });
    work.catch(() => undefined);
    await Promise.race([work, late]).finally(() => timer?.cancel());
  }

  private async renew(lease: GroupLease): Promise<void> {
    const asked = this.options.clock.monotonic_ms();
    const renewed = await this.options.leases.renew(lease, LIMITS.node_lease_ms);
    if (this.lease !== lease) return;
    if (renewed) {
      this.valid_until_ms = asked + LIMITS.node_lease_ms;
      return;
    }
    if (this.lease === lease) this.lost();
  }

  /** Runs that a newer program has written are not for this one; told once. Throws everything else. */
  private newer(error: unknown): null {
    if (!(error instanceof NewerJournalError)) throw error;
    if (this.outdated === null) this.options.log.error("lease.not_for_us", { error: error.message });
    this.outdated = error.message;
    return null;
  }

  private async claim(): Promise<void> {
    const { leases, group, self, clock, log, onClaimed } = this.options;
    const asked = clock.monotonic_ms();
    const lease = await leases.claim(group, self(), LIMITS.node_lease_ms).catch((error: unknown) => this.newer(error));
    if (!lease) {
      this.other = await leases.holder(group);
      if (this.other) this.outdated = null;
      return;
    }
    this.outdated = null;
    this.lease = lease;
    this.valid_until_ms = asked + LIMITS.node_lease_ms;
    // Recovery of many runs may outlast the lease: it is renewed meanwhile.
    const renewing = setRenewal(clock, () => this.renew(lease).catch(() => undefined));
    try {
      await onClaimed(lease);
      log.info("lease.claimed", { shard_epoch: lease.shard_epoch });
    } catch (error) {
      log.warn("lease.not_used", { error: messageOf(error) });
      this.lease = null;
      await leases.release(lease).catch(() => undefined);
    } finally {
      renewing();
    }
  }
}

function setRenewal(clock: Clock, renew: () => Promise<unknown>): () => void {
  let timer = clock.timer(LOOK_MS, tick);
  let stopped = false;
  function tick() {
    void renew().finally(() => {
      if (!stopped) timer = clock.timer(LOOK_MS, tick);
    });
  }
  return () => {
    stopped = true;
    timer.cancel();
  };
}
