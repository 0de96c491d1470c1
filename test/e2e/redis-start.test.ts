// How a control node starts beside a Redis that does not answer: it serves, hands jobs out without it, says so, and uses it
// once it is there. A login that Redis refuses is a fault of the configuration, and ends the start.
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { Redis } from "ioredis";
import { freePort, startRedis } from "../../scripts/services.mjs";
import type { StartedRedis } from "../../scripts/services.mjs";
import { remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";

const MANIFEST = `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Workflow
metadata: { name: w }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: noop, needs: [a] }] }
---
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
`;

describe.skipIf(inject("redis_url") === null)("a control node that starts", () => {
  const folder = tempFolder("qd-redis-start");
  const workers = tempFolder("qd-redis-start-worker");
  let redis: Extract<StartedRedis, { url: string }> | null = null;
  const up = (url: string) => startUp(folder, { QUARTERDECK_ROLE: "control", REDIS_URL: url });
  const start = async (port?: number) => {
    const started = await startRedis(port);
    if (started.url === undefined) throw new Error(started.missing);
    return (redis = started);
  };
  const queueOf = async (node: Running) =>
    ((await (await fetch(`${node.url}/readyz`)).json()) as { checks: { queue: string } }).checks.queue;
  const finished = async (node: Running, count: number) => {
    for (let i = 0; i < count; i++) {
      const { run_id } = await node.client.startRun({ workflow: "w" });
      await until("an end", async () => (await node.client.getRun(run_id)).state === "succeeded");
    }
  };

  // The first start makes the database, which takes as long as it takes.
  beforeAll(async () => {
    const node = await startUp(folder, { QUARTERDECK_ROLE: "control" });
    await node.client.apply(MANIFEST);
    await node.stop();
  });
  afterAll(async () => {
    await redis?.stop();
    for (const one of [folder, workers]) remove(one);
  });

  test("where nothing listens serves all the same, and uses Redis once it is there", async () => {
    const port = await freePort();
    const url = `redis://127.0.0.1:${port}`;
    const node = await up(url);
    const early = await node.client.startRun({ workflow: "w" });
    const worker = await startWorker(workers, { control: node.url, token: await mint(node, "hand") });
    expect(node.log()).toContain("redis.away");
    expect(await queueOf(node)).toContain(`Redis at 127.0.0.1:${port} does not answer: connect ECONNREFUSED`);
    await until("an end", async () => (await node.client.getRun(early.run_id)).state === "succeeded");
    await finished(node, 3);
    await start(port);
    await until("Redis is used", async () => (await queueOf(node)) === "ok");
    await finished(node, 3);
    const direct = new Redis(url);
    // Handed over at once where a worker waits; a job that waits goes through Redis.
    await worker.stop();
    const { run_id } = await node.client.startRun({ workflow: "w" });
    await until("a ticket", async () => (await direct.keys("quarterdeck:*:lane:*")).length > 0);
    const again = await startWorker(workers, { control: node.url, token: await mint(node, "other") });
    await until("an end", async () => (await node.client.getRun(run_id)).state === "succeeded");
    direct.disconnect();
    await again.stop();
    await node.stop();
  });

  test("beside one that is paused does not wait for it", async () => {
    const { url } = redis ?? (await start());
    const direct = new Redis(url);
    await direct.call("CLIENT", "PAUSE", "6000");
    direct.disconnect();
    const node = await up(url);
    expect(node.log()).toContain("redis.away");
    await until("Redis is used", async () => (await queueOf(node)) === "ok");
    await node.stop();
  });

  test("with a login that Redis refuses ends with an error that says so", async () => {
    const { url } = redis ?? (await start());
    const direct = new Redis(url);
    await direct.config("SET", "requirepass", "s3cret-of-redis");
    for (const wrong of [url, url.replace("redis://", "redis://:wr0ng@")])
      await expect(up(wrong)).rejects.toThrow(
        /before it was ready: 2[^]*refuses the login of REDIS_URL: (NOAUTH|WRONGPASS)/,
      );
    // One that may connect and do nothing else: the connection that is open already must not keep the process.
    await direct.call("ACL", "SETUSER", "narrow", "on", ">n4rrow", "~*", "+@connection", "+info");
    await expect(up(url.replace("redis://", "redis://narrow:n4rrow@"))).rejects.toThrow(
      /before it was ready: 2[^]*refuses the login of REDIS_URL: NOPERM/,
    );
    direct.disconnect();
    const node = await up(url.replace("redis://", "redis://:s3cret-of-redis@"));
    expect(await queueOf(node)).toBe("ok");
    await node.stop();
    expect(node.log()).not.toContain("s3cret");
  });
});
