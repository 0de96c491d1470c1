import { defineConfig } from "vitest/config";

// One project per kind of test, so that `npm run check` runs the pure ones in seconds.
const project = (name: string, include: string[], extra: Record<string, unknown> = {}) => ({
  test: { name, include, environment: "node", testTimeout: 30_000, hookTimeout: 60_000, ...extra },
});

// CI adds up the results of several runs; see scripts/test-totals.mjs.
const results = process.env["QD_TEST_RESULTS"];
const reporters = results
  ? { reporters: ["default", "json"], outputFile: { json: `${results}/${process.env["QD_TEST_RESULTS_NAME"] ?? "main"}.json` } }
  : {};

export default defineConfig({
  test: {
    ...reporters,
    projects: [
      project("unit", ["src/**/*.test.ts", "test/tidy/**/*.test.ts", "test/golden/**/*.test.ts"], {
        exclude: ["src/**/*.pg.test.ts", "src/**/*.redis.test.ts"],
      }),
      project("pg", ["src/**/*.pg.test.ts"], { globalSetup: ["test/support/postgres-setup.ts"], fileParallelism: false }),
      project("redis", ["src/**/*.redis.test.ts"], { globalSetup: ["test/support/services-setup.ts"], fileParallelism: false }),
      project("sim", ["test/sim/**/*.test.ts"], { testTimeout: 600_000 }),
      project("data", ["test/data/**/*.test.ts"], { testTimeout: 300_000 }),
      project("e2e", ["test/e2e/**/*.test.ts"], {
        globalSetup: ["test/support/services-setup.ts"],
        testTimeout: 300_000,
        fileParallelism: false,
      }),
      project("chaos", ["test/chaos/**/*.test.ts"], {
        globalSetup: ["test/support/services-setup.ts"],
        testTimeout: 1_800_000,
        fileParallelism: false,
      }),
    ],
  },
});
