import { Redis } from "ioredis";
import { afterAll, describe, expect, inject, test } from "vitest";
import { startRedis } from "../../../scripts/services.mjs";
import { queueSuite } from "../../../test/support/queue.suite.ts";
import type { Ticket } from "../../contract/queue.ts";
import { RedisQueue } from "./queue.ts";

const url = inject("redis_url") ?? "";
let n = 0;
const open = async (over: { prefix?: string; reclaim_ms?: number; consumer?: string; url?: string } = {}) => {
  const queue = new RedisQueue({ url, prefix: `test:${(n += 1)}`, consumer: "a", reclaim_ms: 60_000, ...over });
  await queue.open(10_000);
  return queue;
};
const ticket = (run_id: string): Ticket => ({
  tenant_id: "a",
  run_id,
  step: 1,
  attempt: 1,
  priority: 5,
  needs: [],
});

describe.skipIf(url === "")("over Redis", () => {
  const direct = new Redis(url, { lazyConnect: true });
  afterAll(() => direct.disconnect());

  queueSuite("Redis Streams", open);

  test("what a dead taker had taken comes back; what was confirmed does not", async () => {
    const dead = await open({ prefix: "t:reclaim", reclaim_ms: 50 });
    await dead.push([ticket("r1"), ticket("r2")]);
    const [first] = await dead.take([], 1);
    const [second] = await dead.take([], 1);
    await dead.confirm(second ? [second] : []);
    await dead.close();
    const heir = await open({ prefix: "t:reclaim", reclaim_ms: 50, consumer: "b" });
    await new Promise((resolve) => setTimeout(resolve, 80));
    const back = await heir.take([], 10);
    expect(back.map((delivery) => delivery.ticket.run_id)).toEqual([first?.ticket.run_id]);
    await heir.close();
  });

  test("after FLUSHALL it starts again from nothing", async () => {
    const queue = await open();
    await queue.push([ticket("lost")]);
    await direct.flushall();
    await queue.take([], 1).catch(() => []);
    await queue.push([ticket("found")]);
    expect((await queue.take([], 10)).map((delivery) => delivery.ticket.run_id)).toEqual(["found"]);
    await queue.close();
  });

  test("a Redis that does not answer is an error with a name, and a Redis that is back is used again", async () => {
    const first = await startRedis();
    if (first.url === undefined) throw new Error(first.missing);
    const queue = await open({ url: first.url });
    await queue.push([ticket("before")]);
    await first.stop();
    await expect(queue.push([ticket("during")])).rejects.toMatchObject({ code: "DEPENDENCY_UNAVAILABLE" });
    const again = await startRedis(first.port);
    const end = performance.now() + 10_000;
    for (;;) {
      const pushed = await queue.push([ticket("after")]).then(
        () => true,
        () => false,
      );
      if (pushed) break;
      if (performance.now() > end) throw new Error("Redis was not used again");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect((await queue.take([], 10)).map((delivery) => delivery.ticket.run_id)).toEqual(["after"]);
    await queue.close();
    if (again.url !== undefined) await again.stop();
  });

  test("what it says of the lanes, and no answer at all, is no reason not to start", async () => {
    await direct.set("t:odd:lanes", "not a set");
    const queue = new RedisQueue({ url, prefix: "t:odd", consumer: "a", reclaim_ms: 60_000 });
    expect(await queue.open(10_000)).toBe(false);
    await direct.del("t:odd:lanes");
    await queue.push([ticket("r1")]);
    expect((await queue.take([], 10)).map((delivery) => delivery.ticket.run_id)).toEqual(["r1"]);
    await queue.close();
  });

  test("where nothing listens every call throws, and the reason is there to be shown", async () => {
    const queue = new RedisQueue({ url: "redis://127.0.0.1:1", prefix: "none", consumer: "a", reclaim_ms: 60_000 });
    expect(await queue.open(10_000)).toBe(false);
    expect(queue.problem).toBe("Redis at 127.0.0.1:1 does not answer: connect ECONNREFUSED 127.0.0.1:1");
    await expect(queue.push([ticket("a")])).rejects.toMatchObject({ code: "DEPENDENCY_UNAVAILABLE" });
    await expect(queue.take([], 1)).rejects.toMatchObject({ code: "DEPENDENCY_UNAVAILABLE" });
    await queue.close();
  });
});
