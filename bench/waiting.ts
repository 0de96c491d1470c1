// Memory of a control node with many waiting runs: what the process has beyond itself without them, when all have begun, when
// they have waited for a while, and after kill -9 and a start that reads them back.
import { readFileSync } from "node:fs";
import { LIMITS } from "../src/contract/limits.ts";
import { remove, startUp, tempFolder } from "../test/support/processes.ts";
import type { Running } from "../test/support/processes.ts";

const AT_ONCE = 64;
const MANIFEST = `
kind: Tool
metadata: { name: pay }
spec: { kind: builtin, builtin: noop }
---
kind: Workflow
metadata: { name: order }
spec: { steps: [{ id: a, tool: pay, args: { order: "A-1042", amount: 4900 } }] }
---
kind: Policy
metadata: { name: all }
spec: { rules: [{ id: ask, effect: require_approval, match: { tools: [pay] } }] }
`;

/** Resident memory of a process, in MB. */
function rssOf(server: Running): number {
  const status = readFileSync(`/proc/${server.child.pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export async function waiting(runs = 100_000): Promise<Record<string, number | string>> {
  const data = tempFolder("qd-waiting");
  try {
    const first = await startUp(data);
    await first.client.apply(MANIFEST);
    const empty = rssOf(first);
    let left = runs;
    const client = async () => {
      while (left-- > 0) await first.client.startRun({ workflow: "order" });
    };
    const begun = performance.now();
    await Promise.all(Array.from({ length: AT_ONCE }, client));
    const started_ms = Math.round(performance.now() - begun);
    const all = rssOf(first) - empty;
    await pause(LIMITS.park_after_ms * 2 + 10_000);
    // Something to do, so that what is not used any more is let go of.
    for (let i = 0; i < 2_000; i++) await first.client.json("/runs?limit=50");
    const parked = rssOf(first) - empty;
    await first.kill();
    const second = await startUp(data);
    await pause(5_000);
    const again = rssOf(second) - empty;
    const { ready_ms, recovered } = second;
    await second.stop();
    return {
      engine: "quarterdeck",
      runs,
      started_ms,
      mb_when_begun: all,
      mb_parked: parked,
      ready_ms,
      recovered,
      mb_after_restart: again,
    };
  } finally {
    remove(data);
  }
}
