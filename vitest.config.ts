import { defineConfig } from "vitest/config";

// One project per kind of test, so that `npm run check` runs the pure ones in seconds.
const project = (name: string, include: string[], extra: Record<string, unknown> = {}) => ({
  test: { name, include, environment: "node", testTimeout: 30_000, hookTimeout: 60_000, ...extra },
});

export default defineConfig({
  test: {
    projects: [
      project("unit", ["src/**/*.test.ts", "test/tidy/**/*.test.ts", "test/golden/**/*.test.ts"], {
        exclude: ["src/**/*.pg.test.ts"],
      }),
      project("pg", ["src/**/*.pg.test.ts"], { globalSetup: ["test/support/postgres-setup.ts"], fileParallelism: false }),
      project("sim", ["test/sim/**/*.test.ts"], { testTimeout: 600_000 }),
      project("data", ["test/data/**/*.test.ts"], { testTimeout: 300_000 }),
      project("e2e", ["test/e2e/**/*.test.ts"], { testTimeout: 300_000, fileParallelism: false }),
      project("chaos", ["test/chaos/**/*.test.ts"], { testTimeout: 1_800_000, fileParallelism: false }),
    ],
  },
});
