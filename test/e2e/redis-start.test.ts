// How a control node starts beside a Redis that does not answer: it waits for one that comes back, and ends with a clear
// error where there is none.
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { Redis } from "ioredis";
import { startRedis } from "../../scripts/services.mjs";
import type { StartedRedis } from "../../scripts/services.mjs";
import { remove, startUp, tempFolder } from "../support/processes.ts";

describe.skipIf(inject("redis_url") === null)("a control node that starts", () => {
  const folder = tempFolder("qd-redis-start");
  let redis: Extract<StartedRedis, { url: string }>;
  const up = (url: string) => startUp(folder, { QUARTERDECK_ROLE: "control", REDIS_URL: url });

  beforeAll(async () => {
    const started = await startRedis();
    if (started.url === undefined) throw new Error(started.missing);
    redis = started;
    // The first start makes the database, which takes as long as it takes.
    await (await up(redis.url)).stop();
  });
  afterAll(async () => {
    await redis?.stop();
    remove(folder);
  });

  test("waits for a Redis that is paused", async () => {
    const direct = new Redis(redis.url);
    await direct.call("CLIENT", "PAUSE", "7000");
    direct.disconnect();
    const node = await up(redis.url);
    const log = node.log();
    await node.stop();
    expect(log).toContain("redis.waited_for");
  });

  test("ends with an error that names Redis where nothing listens, and does not stay about", async () => {
    await expect(up("redis://127.0.0.1:1")).rejects.toThrow(
      /before it was ready: 6[^]*Redis at 127.0.0.1:1 does not answer: connect ECONNREFUSED/,
    );
  });
});
