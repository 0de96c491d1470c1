// W4: kill -9 with 200 runs in flight (10 steps of 20 ms each); time from ready to the last run's end.
import { remove, startUp, tempFolder } from "../test/support/processes.ts";
import type { Running } from "../test/support/processes.ts";

const RUNS = 200;
const MANIFEST = `
kind: Tool
metadata: { name: nap }
spec: { kind: builtin, builtin: sleep }
---
kind: Workflow
metadata: { name: w4 }
spec: { steps: [${Array.from({ length: 10 }, (_, i) => `{ id: s${i}, tool: nap, args: { ms: 20 } }`).join(", ")}] }
---
kind: Policy
metadata: { name: all }
spec: { rules: [{ id: all, effect: allow, match: { tools: [nap] } }] }
`;

async function open(server: Running): Promise<number> {
  const { runs } = await server.client.json<{ runs: Record<string, number> }>("/status");
  return (runs["running"] ?? 0) + (runs["waiting"] ?? 0);
}

export async function w4(): Promise<Record<string, number | string>> {
  const data = tempFolder("qd-w4");
  try {
    const first = await startUp(data);
    await first.client.apply(MANIFEST);
    const ids = await Promise.all(
      Array.from({ length: RUNS }, async () => (await first.client.startRun({ workflow: "w4" })).run_id),
    );
    const inFlight = await open(first);
    await first.kill();
    const second = await startUp(data);
    const begun = performance.now();
    while ((await open(second)) > 0) await new Promise((resolve) => setTimeout(resolve, 10));
    const done_ms = Math.round(performance.now() - begun);
    let twice = 0;
    for (const id of ids) {
      const { items } = await second.client.events(id);
      twice += items.filter((event) => event.type === "tool.requested" && event.attempt > 1).length;
    }
    await second.stop();
    return {
      engine: "quarterdeck",
      in_flight_at_kill: inFlight,
      ready_ms: second.ready_ms,
      recovered: second.recovered,
      done_after_ready_ms: done_ms,
      steps_again: twice,
    };
  } finally {
    remove(data);
  }
}
