// The queue over Redis Streams: a stream per lane (needs, priority, tenant) with one consumer group, and a set that names the
// lanes. Tickets that were taken and never confirmed, because their taker died, come back by XAUTOCLAIM.
// Invariant: what is in Redis is a copy. After FLUSHALL the driver starts from nothing; whoever owns the jobs pushes again.
// Redis Streams: https://redis.io/docs/latest/develop/data-types/streams/
import { Redis } from "ioredis";
import type { ChainableCommander } from "ioredis";
import { AppError, messageOf } from "../../contract/errors.ts";
import { serves } from "../../contract/queue.ts";
import type { Delivery, LaneDepth, Queue, Ticket } from "../../contract/queue.ts";

export interface RedisQueueOptions {
  readonly url: string;
  /** Names the installation and the node: nobody else may use these keys. */
  readonly prefix: string;
  /** Names this taker. */
  readonly consumer: string;
  /** A ticket taken and not confirmed for this long is taken again. */
  readonly reclaim_ms: number;
}

const GROUP = "workers";
const COMMAND_TIMEOUT_MS = 2_000;
/** Keys that nobody adds to are kept for so long, seconds. */
const KEPT_S = 86_400;
/** What Redis says to a login that it does not know, or that may not do this. */
const REFUSED = /WRONGPASS|NOAUTH|NOPERM|AUTH failed/i;

interface Lane {
  readonly key: string;
  readonly tenant_id: string;
  readonly priority: number;
  readonly needs: readonly string[];
}

type Entry = [id: string, fields: string[]];
type Reply = [key: string, entries: Entry[]][] | null;

export class RedisQueue implements Queue {
  private readonly redis: Redis;
  private readonly options: RedisQueueOptions;
  /** Lanes known to have a consumer group, the one served longest ago first. */
  private lanes = new Map<string, Lane>();
  private reclaimed_at = 0;
  private readonly host: string;
  /** Why there is no connection, while there is none. */
  private fault: string | null = null;

  constructor(options: RedisQueueOptions) {
    this.options = options;
    this.redis = new Redis(options.url, {
      maxRetriesPerRequest: 1,
      commandTimeout: COMMAND_TIMEOUT_MS,
      enableOfflineQueue: false,
      lazyConnect: true,
      retryStrategy: (times) => Math.min(times * 50, 500),
    });
    this.host = URL.canParse(options.url) ? new URL(options.url).host : "the configured address";
    // A failing command says only that the connection is closed; what closed it is said here.
    this.redis.on("error", (error) => (this.fault = error.message));
    this.redis.on("ready", () => (this.fault = null));
  }

  /**
   * Connects, and learns the lanes that are there. False when Redis does not answer in time: it is tried on until it does, or
   * the queue is closed, and until then each call throws. Throws CONFIG_INVALID for what no waiting mends; nothing is open then.
   */
  async open(wait_ms: number): Promise<boolean> {
    this.redis.on("ready", () => void this.learn().catch(() => undefined));
    const opened = this.redis
      .connect()
      .then(() => this.learn())
      .then(
        () => "",
        (error: unknown) => this.fault ?? messageOf(error instanceof AppError ? error.cause : error),
      );
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<string>(
      (resolve) => (timer = setTimeout(() => resolve(this.fault ?? "it is slow"), wait_ms)),
    );
    const why = await Promise.race([opened, late]);
    clearTimeout(timer);
    if (REFUSED.test(why)) {
      // A connection that is left open would keep the process from ending.
      this.redis.disconnect();
      throw new AppError("CONFIG_INVALID", `Redis at ${this.host} refuses the login of REDIS_URL: ${why}`);
    }
    return why === "";
  }

  private learn(): Promise<void> {
    return this.guard(async () => {
      for (const name of await this.redis.smembers(this.key("lanes"))) if (!this.lanes.has(name)) await this.lane(name);
    });
  }

  /** Null while Redis answers. */
  get problem(): string | null {
    if (this.redis.status === "ready" && this.fault === null) return null;
    return `Redis at ${this.host} does not answer: ${this.fault ?? this.redis.status}`;
  }

  private key(name: string): string {
    return `${this.options.prefix}:${name}`;
  }

  /** Runs commands; where Redis has lost the lanes (a flush, a restart) they are made again first, once. */
  private async guard<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work().catch(async (error: unknown) => {
        if (!/NOGROUP/i.test(messageOf(error))) throw error;
        for (const name of this.lanes.keys()) await this.lane(name);
        return work();
      });
    } catch (cause) {
      const why = this.fault ?? messageOf(cause);
      throw new AppError("DEPENDENCY_UNAVAILABLE", `Redis at ${this.host} does not answer: ${why}`, { cause });
    }
  }

  /** Makes the lane's stream and group, where they are not there yet. The name is `needs|priority|tenant`. */
  private async lane(name: string): Promise<Lane> {
    const [needs = "", priority = "0", tenant_id = ""] = name.split("|");
    const lane: Lane = {
      key: this.key(`lane:${name}`),
      tenant_id,
      priority: Number(priority),
      needs: needs === "" ? [] : needs.split(","),
    };
    await this.redis.xgroup("CREATE", lane.key, GROUP, "0", "MKSTREAM").catch((error: unknown) => {
      if (!messageOf(error).includes("BUSYGROUP")) throw error;
    });
    await this.redis.sadd(this.key("lanes"), name);
    this.lanes.set(name, lane);
    return lane;
  }

  async push(tickets: readonly Ticket[]): Promise<void> {
    if (tickets.length === 0) return;
    await this.guard(async () => {
      const names = tickets.map((ticket) => `${ticket.needs.join(",")}|${ticket.priority}|${ticket.tenant_id}`);
      for (const name of new Set(names)) if (!this.lanes.has(name)) await this.lane(name);
      const pipeline = this.redis.pipeline();
      for (const [index, ticket] of tickets.entries()) {
        const lane = this.key(`lane:${names[index]}`);
        pipeline.xadd(lane, "*", "t", `${ticket.run_id} ${ticket.step} ${ticket.attempt}`);
      }
      // Of a node that is gone nobody removes them.
      for (const name of new Set(names)) pipeline.expire(this.key(`lane:${name}`), KEPT_S);
      pipeline.expire(this.key("lanes"), KEPT_S);
      await executed(pipeline);
    });
  }

  async take(labels: readonly string[], max: number): Promise<Delivery[]> {
    return this.guard(async () => {
      // Nothing to ask for: whether it is empty or away makes a difference to who waits.
      if (this.lanes.size === 0) await this.redis.ping();
      const taken: Delivery[] = await this.reclaim(labels, max);
      for (let priority = 9; priority >= 0 && taken.length < max; priority--) {
        const fit = [...this.lanes.values()].filter((lane) => lane.priority === priority && serves(labels, lane.needs));
        await this.takeFrom(fit, max, taken);
      }
      return taken;
    });
  }

  /** Takes from lanes of one priority in turn, the same number from each, until there is enough or nothing more. */
  private async takeFrom(fit: readonly Lane[], max: number, taken: Delivery[]): Promise<void> {
    let open = fit;
    while (open.length > 0 && taken.length < max) {
      const turn = open.slice(0, max - taken.length);
      const count = Math.max(1, Math.floor((max - taken.length) / turn.length));
      const reply = (await this.redis.xreadgroup(
        "GROUP",
        GROUP,
        this.options.consumer,
        "COUNT",
        count,
        "STREAMS",
        ...turn.map((lane) => lane.key),
        ...turn.map(() => ">"),
      )) as Reply;
      const found = new Map(reply ?? []);
      for (const lane of turn) for (const entry of found.get(lane.key) ?? []) taken.push(delivery(lane, entry));
      this.served(turn);
      // A lane that gave less than was asked for is empty.
      open = [...open.slice(turn.length), ...turn.filter((lane) => (found.get(lane.key)?.length ?? 0) === count)];
    }
  }

  private served(lanes: readonly Lane[]): void {
    for (const lane of lanes) {
      const name = lane.key.slice(this.key("lane:").length);
      if (this.lanes.delete(name)) this.lanes.set(name, lane);
    }
  }

  /** Tickets that somebody took and never confirmed. Looked for now and then, not at each call. */
  private async reclaim(labels: readonly string[], max: number): Promise<Delivery[]> {
    const { reclaim_ms, consumer } = this.options;
    const now = performance.now();
    if (now - this.reclaimed_at < reclaim_ms / 2) return [];
    this.reclaimed_at = now;
    const found: Delivery[] = [];
    for (const lane of this.lanes.values()) {
      if (found.length >= max || !serves(labels, lane.needs)) continue;
      const reply = (await this.redis.xautoclaim(
        lane.key,
        GROUP,
        consumer,
        reclaim_ms,
        "0",
        "COUNT",
        max - found.length,
      )) as [string, (Entry | null)[], ...unknown[]];
      for (const entry of reply[1]) if (entry) found.push(delivery(lane, entry));
    }
    return found;
  }

  async confirm(deliveries: readonly Delivery[]): Promise<void> {
    if (deliveries.length === 0) return;
    await this.guard(async () => {
      const byLane = new Map<string, string[]>();
      for (const { receipt } of deliveries) {
        const at = receipt.lastIndexOf(" ");
        const key = receipt.slice(0, at);
        byLane.set(key, [...(byLane.get(key) ?? []), receipt.slice(at + 1)]);
      }
      const pipeline = this.redis.pipeline();
      for (const [key, ids] of byLane) {
        pipeline.xack(key, GROUP, ...ids);
        pipeline.xdel(key, ...ids);
      }
      await executed(pipeline);
    });
  }

  async depth(): Promise<readonly LaneDepth[]> {
    return this.guard(async () => {
      const lanes = [...this.lanes.values()];
      const pipeline = this.redis.pipeline();
      for (const lane of lanes) {
        pipeline.xlen(lane.key);
        pipeline.xpending(lane.key, GROUP);
      }
      const values = await executed(pipeline);
      return lanes.flatMap(({ tenant_id, priority, needs }, i) => {
        const [pending] = values[i * 2 + 1] as [number];
        const waiting = Number(values[i * 2]) - pending;
        return waiting > 0 ? [{ tenant_id, priority, needs, waiting }] : [];
      });
    });
  }

  async close(): Promise<void> {
    this.redis.disconnect();
  }
}

/** Runs a pipeline; the first command that failed fails it. */
async function executed(pipeline: ChainableCommander): Promise<unknown[]> {
  const results = (await pipeline.exec()) ?? [];
  return results.map(([error, value]) => {
    if (error) throw error;
    return value;
  });
}

function delivery(lane: Lane, [id, fields]: Entry): Delivery {
  const [run_id = "", step, attempt] = (fields[1] ?? "").split(" ");
  const { tenant_id, priority, needs } = lane;
  return {
    ticket: { tenant_id, run_id, step: Number(step), attempt: Number(attempt), priority, needs },
    receipt: `${lane.key} ${id}`,
  };
}
