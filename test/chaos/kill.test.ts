// The real program, killed with SIGKILL at random moments and at every named durable step, while clients start runs and
// a ledger outside counts effects. QD_CHAOS_KILLS sets the number of random kills (200 in CI).
import { afterAll, beforeAll, expect, test } from "vitest";
import { CRASH_POINTS } from "../../src/server/crash-points.ts";
import { invariants, load, manifest } from "../support/chaos-world.ts";
import { remove, startLedger, startUp, tempFolder } from "../support/processes.ts";
import type { Ledger } from "../support/processes.ts";

const KILLS = Number(process.env["QD_CHAOS_KILLS"] ?? 15);
const random = (n: number) => Math.floor(Math.random() * n);

let ledger: Ledger;
let data: string;
const acknowledged = new Set<string>();
const env = () => ({ QUARTERDECK_PRIVATE_ORIGINS: ledger.url });

beforeAll(async () => {
  ledger = await startLedger(5);
  data = tempFolder("qd-chaos");
  const server = await startUp(data, env());
  await server.client.apply(manifest(ledger));
  await server.stop();
});

afterAll(() => {
  ledger.stop();
  remove(data);
});

test(`${KILLS} kills at random moments lose nothing and repeat nothing`, async () => {
  for (let kill = 0; kill < KILLS; kill++) {
    const server = await startUp(data, env());
    const loaded = load(server, 8, acknowledged);
    await new Promise((resolve) => setTimeout(resolve, 20 + random(280)));
    await server.kill();
    await loaded;
  }
  const server = await startUp(data, env());
  await invariants(server, ledger, acknowledged);
  await server.stop();
  expect(acknowledged.size).toBeGreaterThan(KILLS);
});

test("a kill at every named durable step, the first three times it is passed, is survived", async () => {
  for (const point of CRASH_POINTS) {
    for (const n of [1, 2, 3]) {
      const server = await startUp(data, { ...env(), QUARTERDECK_CRASH_AT: `${point}:${n}` }).catch(() => null);
      if (server) {
        const loaded = load(server, 4, acknowledged);
        const gone = new Promise<void>((resolve) => server.child.once("exit", () => resolve()));
        const asked =
          point.startsWith("checkpoint") || point.startsWith("witness")
            ? server.client.json("/journal/verify", { method: "POST", body: {} }).catch(() => null)
            : null;
        await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, 1_500))]);
        await asked;
        await server.kill();
        await loaded;
      }
    }
  }
  const server = await startUp(data, env());
  await invariants(server, ledger, acknowledged);
  await server.stop();
});
