// The long form of the chaos suites and simulations: rounds with seeds of their own until so many faults were made (10,000
// unless said), then a hundred thousand seeded histories. Ends at the first round that fails, with its seed:
//   npm run nightly -- [FAULTS]
import { spawnSync } from "node:child_process";

const FAULTS = Number(process.argv[2] ?? 10_000);
const ROUND = 300;
const HISTORIES = 100_000;

if (!Number.isSafeInteger(FAULTS) || FAULTS < 1) {
  console.error(`${process.argv[2]} is no number of faults; say how many: npm run nightly -- 10000`);
  process.exit(2);
}

function round(name, args, env) {
  const begun = Date.now();
  const { status } = spawnSync("npx", ["vitest", "run", ...args], {
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  const seconds = Math.round((Date.now() - begun) / 1000);
  console.log(`${name}: ${status === 0 ? "passed" : "FAILED"} in ${seconds} s`);
  if (status !== 0) process.exit(1);
}

const first = Number(process.env.QD_CLUSTER_SEED ?? Date.now() % 1_000_000);
for (let made = 0, seed = first; made < FAULTS; made += ROUND, seed += 10) {
  const faults = Math.min(ROUND, FAULTS - made);
  const env = { QD_CLUSTER_FAULTS: String(faults), QD_CLUSTER_SEED: String(seed) };
  round(`faults ${made + 1} to ${made + faults}, seed ${seed}`, ["--project", "chaos", "cluster"], env);
}
round("200 kills of one process", ["--project", "chaos", "kill"], { QD_CHAOS_KILLS: "200" });
round(`${HISTORIES} histories`, ["--project", "sim"], {
  QD_SIM_SEEDS: String(HISTORIES),
  QD_SIM_CLUSTER_SEEDS: String(HISTORIES / 10),
  QD_SIM_INGEST_SEEDS: String(HISTORIES / 10),
});
