// Which groups of runs this node owns, where several control nodes share one database. Each node says twice a second that it
// lives, renews the leases of its groups, and sees what the others have: it takes groups that nobody has up to its share, and
// gives up what is more than that.
// Invariant: this node acts as owner of a group only while its last renewal, counted from before it was asked for, has not run
// out. The journal is safe without that (a commit of a former owner is fenced); it keeps jobs from being handed out in vain.
import type { Clock, Timer } from "../kit/clock.ts";
import { messageOf } from "../contract/errors.ts";
import { NewerJournalError } from "../contract/journal.ts";
import type { GroupLease, GroupLeases, GroupPlace, Membership, NodeAddress } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Log } from "../contract/ports.ts";
import type { OwnedGroup } from "../contract/workers.ts";

export interface OwnershipOptions {
  readonly leases: GroupLeases;
  readonly clock: Clock;
  readonly log: Log;
  readonly self: () => NodeAddress;
  /** Open runs of a group, for whoever asks another node. */
  readonly openRuns: (group: number) => number;
  /** Version of the settings that are used here. */
  readonly seen: () => number;
  /** The settings in the database have another version. */
  readonly onVersion: () => void;
  /** Others need what these groups do not use of their slices. */
  readonly onWanted: (wanted: Membership["wanted"]) => void;
  /** Takes the runs of a group over; what was claimed is given up when it fails. */
  readonly onClaimed: (lease: GroupLease) => Promise<void>;
  /** Ends what is done for a group, so that another node can have it. */
  readonly onLeaving: (group: number) => Promise<void>;
  /** The runs of a group are somebody else's now. */
  readonly onLost: (group: number) => void;
}

interface Held {
  readonly lease: GroupLease;
  valid_until_ms: number;
  state: "opening" | "open" | "leaving";
  left?: Promise<void>;
}

const LOOK_MS = 500;
/** While some group has no owner. */
const LOOK_SOON_MS = 100;
/** How long a node that ends looks for the next owners. */
const HAND_OVER_MS = 1_500;
/** A group that nobody has taken for so long is taken by whoever can. */
const LATE_MS = 2 * LIMITS.node_lease_ms;

/** How many groups the node at this place among all nodes is to own. */
export function shareOf(groups: number, nodes: number, at: number): number {
  if (at < 0 || nodes === 0) return 0;
  return Math.floor(groups / nodes) + (at < groups % nodes ? 1 : 0);
}

/** How many groups to give up: as few as it takes for everybody to have a fair part, so that groups do not move for nothing. */
function surplusOf(
  own: { staying: number; target: number; me: string },
  nodes: readonly NodeAddress[],
  groups: readonly GroupPlace[],
): number {
  const { staying, target, me } = own;
  const most = Math.ceil(groups.length / Math.max(1, nodes.length));
  const least = Math.floor(groups.length / Math.max(1, nodes.length));
  const has = (node: string) => groups.filter((place) => place.node === node && place.free_ms === null).length;
  const isShort = nodes.some(({ node }) => node !== me && has(node) < least);
  return Math.max(0, staying - (isShort ? target : most));
}

export class Ownership {
  private readonly options: OwnershipOptions;
  private readonly held = new Map<number, Held>();
  private places: readonly GroupPlace[] = [];
  private stopped = false;
  /** Why this node may not own runs, while it may not. */
  private outdated: string | null = null;
  private soon = false;
  private loop: Promise<void> = Promise.resolve();
  private readonly opening = new Set<Promise<void>>();

  constructor(options: OwnershipOptions) {
    this.options = options;
  }

  /** True while nobody else can own the group. */
  holds(group: number): boolean {
    const held = this.held.get(group);
    if (!held || held.state === "leaving") return false;
    return this.options.clock.monotonic_ms() < held.valid_until_ms;
  }

  /** True while this node answers for the group. */
  isOwner(group: number): boolean {
    return this.held.get(group)?.state === "open" && this.holds(group);
  }

  /** Groups that this node answers for. */
  get owned(): number[] {
    return [...this.held.keys()].filter((group) => this.isOwner(group)).sort((a, b) => a - b);
  }

  /** Where the owner of a group answers, as last seen; null when there is none or it is this node. */
  urlOf(group: number): string | null {
    const place = this.places[group];
    if (!place || place.free_ms !== null || place.node === this.options.self().node) return null;
    return place.url;
  }

  /** Every group and where its owner answers, as last seen. */
  get groups(): OwnedGroup[] {
    return this.places.map(({ group, shard_epoch, url, free_ms }) => {
      const held = this.held.get(group);
      if (held && this.isOwner(group))
        return { group, shard_epoch: held.lease.shard_epoch, url: this.options.self().url };
      return { group, shard_epoch, url: free_ms === null && !held ? url : "" };
    });
  }

  /** Other nodes that own groups, as last seen. */
  get others(): string[] {
    return [...new Set(this.places.flatMap((place) => this.urlOf(place.group) ?? []))];
  }

  /** Why this node can never own the runs as they are: a newer program has written them; null while it can. */
  get problem(): string | null {
    const isServed = this.held.size > 0 || this.places.every((place) => place.free_ms === null);
    return isServed ? null : this.outdated;
  }

  /** Looks once, and has what it takes open; then goes on looking until it is stopped. */
  async start(): Promise<void> {
    await this.look();
    // Opening many runs may take longer than a lease: it is renewed meanwhile.
    this.loop = this.run();
    await Promise.all(this.opening);
  }

  /** Gives everything up: the others need not wait for the leases to run out. */
  async stop(): Promise<void> {
    this.stopped = true;
    await this.loop;
    await Promise.all(this.opening);
    const { leases, clock, self } = this.options;
    await leases.leave(self().node);
    await Promise.all([...this.held.keys()].map((group) => this.leave(group)));
    // Requests that still come here are passed on, as soon as there is somebody to pass them to.
    for (const end = clock.monotonic_ms() + HAND_OVER_MS; clock.monotonic_ms() < end;) {
      this.places = (await this.beat([])).groups;
      if (this.places.every((place) => place.free_ms === null)) return;
      await clock.sleep(HAND_OVER_MS / 20);
    }
  }

  /** The engine of a group has ended: the database was away, or another node was quicker. */
  lost(group: number): void {
    if (this.held.delete(group)) this.options.onLost(group);
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      await this.options.clock.sleep(this.soon ? LOOK_SOON_MS : LOOK_MS);
      if (this.stopped) return;
      await this.look();
    }
  }

  private async look(): Promise<void> {
    const { log, clock } = this.options;
    const asked = clock.monotonic_ms();
    const before = [...this.held.values()];
    try {
      const said = await this.inTime(this.beat(before));
      this.renewed(before, said, asked);
      this.heard(said);
      await this.share(said);
    } catch (error) {
      log.warn("lease.failed", { error: messageOf(error) });
    }
    for (const [group, { lease, valid_until_ms }] of this.held) {
      if (clock.monotonic_ms() < valid_until_ms) continue;
      log.warn("lease.ran_out", { group, shard_epoch: lease.shard_epoch });
      this.lost(group);
    }
  }

  private beat(held: readonly Held[]): Promise<Membership> {
    const { leases, self, seen, openRuns } = this.options;
    return leases.beat({
      by: self(),
      counts: !this.stopped && this.outdated === null,
      held: held.map(({ lease: { group, shard_epoch } }) => ({ group, shard_epoch, open_runs: openRuns(group) })),
      seen: seen(),
      ttl_ms: LIMITS.node_lease_ms,
    });
  }

  /** A database that says nothing must not keep this node from seeing that its leases have run out. */
  private async inTime<T>(work: Promise<T>): Promise<T> {
    const { clock } = this.options;
    let timer: Timer | null = null;
    const late = new Promise<never>((_resolve, reject) => {
      const now = clock.monotonic_ms();
      const ends = [...this.held.values()].map((held) => held.valid_until_ms);
      const left = Math.max(0, Math.min(now + LIMITS.node_lease_ms, ...ends) - now);
      timer = clock.timer(left + 1, () => reject(new Error("the leases were not renewed in time")));
    });
    work.catch(() => undefined);
    return Promise.race([work, late]).finally(() => timer?.cancel());
  }

  private renewed(before: readonly Held[], { renewed }: Membership, asked_ms: number): void {
    for (const held of before) {
      const { group } = held.lease;
      if (this.held.get(group) !== held) continue;
      if (renewed.includes(group)) held.valid_until_ms = asked_ms + LIMITS.node_lease_ms;
      else this.lost(group);
    }
  }

  private heard({ groups, version, wanted }: Membership): void {
    const { onVersion, onWanted, seen } = this.options;
    this.places = groups;
    if (version !== seen()) onVersion();
    if (wanted.length > 0) onWanted(wanted);
  }

  /** Gives up what is more than this node's share, and takes what is less. */
  private async share({ nodes, groups }: Membership): Promise<void> {
    const { self, log } = this.options;
    const me = self().node;
    const at = nodes.findIndex(({ node }) => node === me);
    const target = shareOf(groups.length, nodes.length, at);
    const open = [...this.held].filter(([, held]) => held.state === "open").map(([group]) => group);
    const staying = [...this.held.values()].filter((held) => held.state !== "leaving").length;
    for (const group of open.slice(0, surplusOf({ staying, target, me }, nodes, groups)))
      this.leave(group).catch((error: unknown) => log.warn("lease.not_released", { group, error: messageOf(error) }));
    const isOurs = ({ node, group }: GroupPlace) => node === me && !this.held.has(group);
    const free = groups.filter((place) => !this.held.has(place.group) && (place.free_ms !== null || isOurs(place)));
    this.soon = free.length > 0;
    const room = Math.max(0, target - staying);
    // What nobody has taken is taken by whoever can; one that could not own runs tries again when it is alone.
    const isLate = (free_ms: number | null) => nodes.length === 0 || (free_ms !== null && free_ms > LATE_MS);
    const wanted = free.filter(({ free_ms }, index) => index < room || isLate(free_ms));
    await Promise.all(wanted.map(({ group }) => this.claim(group)));
  }

  private leave(group: number): Promise<void> {
    const held = this.held.get(group);
    if (!held) return Promise.resolve();
    held.state = "leaving";
    held.left ??= this.handOver(group, held);
    return held.left;
  }

  /** What was staged is committed, then the lease is free. */
  private async handOver(group: number, held: Held): Promise<void> {
    const { leases, onLeaving, onLost, log } = this.options;
    await onLeaving(group);
    if (this.held.get(group) !== held) return;
    this.held.delete(group);
    onLost(group);
    await leases.release(held.lease);
    log.info("lease.released", { group, shard_epoch: held.lease.shard_epoch });
  }

  /** Runs that a newer program has written are not for this one; told once. Throws everything else. */
  private newer(error: unknown): null {
    if (!(error instanceof NewerJournalError)) throw error;
    if (this.outdated === null) this.options.log.error("lease.not_for_us", { error: error.message });
    this.outdated = error.message;
    return null;
  }

  private async claim(group: number): Promise<void> {
    const { leases, self, clock } = this.options;
    const asked = clock.monotonic_ms();
    const ttl = LIMITS.node_lease_ms;
    const lease = await leases.claim(group, self(), ttl).catch((error: unknown) => this.newer(error));
    if (!lease) return;
    this.outdated = null;
    const held: Held = { lease, valid_until_ms: asked + ttl, state: "opening" };
    this.held.set(group, held);
    // Recovery of many runs may outlast the lease: it is renewed with the others meanwhile.
    const opening = this.open(held).finally(() => this.opening.delete(opening));
    this.opening.add(opening);
  }

  private async open(held: Held): Promise<void> {
    const { leases, log, onClaimed, onLeaving } = this.options;
    const { lease } = held;
    const { group, shard_epoch } = lease;
    try {
      await onClaimed(lease);
      if (this.held.get(group) !== held) {
        // It was lost meanwhile: what was opened for it must not stay.
        if (!this.held.has(group)) await onLeaving(group);
        return;
      }
      held.state = "open";
      log.info("lease.claimed", { group, shard_epoch });
    } catch (error) {
      log.warn("lease.not_used", { group, error: messageOf(error) });
      if (this.held.get(group) === held) this.held.delete(group);
      await leases.release(lease).catch(() => undefined);
    }
  }
}
