// One real Redis for the tests that need it. Where it cannot be had those tests say so and are skipped; CI allows no skip.
import type { TestProject } from "vitest/node";
import { startRedis } from "../../scripts/services.mjs";

declare module "vitest" {
  export interface ProvidedContext {
    redis_url: string | null;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const redis = await startRedis();
  if (redis.url === undefined) {
    console.warn(`\nSKIPPED: the suites that need Redis. ${redis.missing}\n`);
    project.provide("redis_url", null);
    return () => Promise.resolve();
  }
  project.provide("redis_url", redis.url);
  return () => redis.stop();
}
