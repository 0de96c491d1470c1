// Leases of groups, and nodes that live, by the clock of the test: what the database keeps.
import type { Clock } from "../../src/kit/clock.ts";
import type { GroupLease, GroupLeases, Membership, NodeAddress } from "../../src/contract/journal.ts";

interface Row {
  by: NodeAddress;
  until_ms: number;
  shard_epoch: number;
}

export class SharedLeases {
  /** Nodes whose statements are never answered. */
  readonly away = new Set<string>();
  private readonly clock: Clock;
  private readonly groups: Row[];
  private readonly nodes = new Map<string, { by: NodeAddress; until_ms: number }>();
  /** Slices of budgets that groups held by who asks were granted, and others need. */
  wanted: (groups: readonly number[]) => Membership["wanted"] = () => [];

  constructor(groups: number, clock: Clock) {
    this.clock = clock;
    this.groups = Array.from({ length: groups }, () => ({ by: { node: "", url: "" }, until_ms: -1, shard_epoch: 0 }));
  }

  private isHeld(row: Row): boolean {
    return row.until_ms > this.clock.monotonic_ms();
  }

  /** The leases as one node reaches them; `statement` says what becomes of each of its statements. */
  for(
    statement: <T>(work: () => Promise<T>) => Promise<T>,
    claimed?: (group: number, by: string) => Promise<GroupLease>,
  ): GroupLeases {
    const asked = <T>(node: string, work: () => T | Promise<T>): Promise<T> =>
      this.away.has(node) ? new Promise(() => undefined) : statement(async () => work());
    return {
      beat: (given) => asked(given.by.node, () => this.beat(given)),
      claim: (group, by, ttl_ms) =>
        asked(by.node, async () => {
          const row = this.groups[group] as Row;
          if (this.isHeld(row) && row.by.node !== by.node) return null;
          const shard_epoch = row.shard_epoch + 1;
          const lease = (await claimed?.(group, by.node)) ?? { group, shard_epoch, head: 0 };
          this.groups[group] = { by, until_ms: this.clock.monotonic_ms() + ttl_ms, shard_epoch: lease.shard_epoch };
          return lease;
        }),
      release: ({ group, shard_epoch }) =>
        asked("", () => {
          const row = this.groups[group] as Row;
          if (row.shard_epoch === shard_epoch) row.until_ms = this.clock.monotonic_ms();
        }),
      leave: (node) => asked(node, () => void this.nodes.delete(node)),
    };
  }

  private beat({ by, counts, held, ttl_ms }: Parameters<GroupLeases["beat"]>[0]): Membership {
    const now = this.clock.monotonic_ms();
    if (counts) this.nodes.set(by.node, { by, until_ms: now + ttl_ms });
    else this.nodes.delete(by.node);
    const renewed = held.flatMap(({ group, shard_epoch }) => {
      const row = this.groups[group] as Row;
      if (!this.isHeld(row) || row.shard_epoch !== shard_epoch) return [];
      row.until_ms = now + ttl_ms;
      return [group];
    });
    return {
      renewed,
      nodes: [...this.nodes.values()].filter((node) => node.until_ms > now).map((node) => node.by),
      groups: this.groups.map((row, group) => ({
        group,
        ...row.by,
        shard_epoch: row.shard_epoch,
        free_ms: this.isHeld(row) ? null : row.until_ms < 0 ? 0 : now - row.until_ms,
      })),
      version: 1,
      wanted: this.wanted(renewed),
    };
  }
}
