// What every test that disturbs one server needs: work with effects that an outside ledger counts, clients that start it, and
// the invariants that must hold when all has come to rest.
import { expect } from "vitest";
import type { Run } from "../../src/contract/runs.ts";
import { until } from "./processes.ts";
import type { Ledger, Running } from "./processes.ts";

export const manifest = (ledger: Ledger) => `
kind: Tool
metadata: { name: idem }
spec: { kind: http, method: POST, url: "${ledger.url}/idem", idempotent: true, attempts_max: 10, cost_usd: "0.000003", input_schema: { type: object } }
---
kind: Tool
metadata: { name: once }
spec: { kind: http, method: POST, url: "${ledger.url}/once", cost_usd: "0.000005", input_schema: { type: object } }
---
kind: Workflow
metadata: { name: chaos }
spec:
  steps:
    - { id: a, tool: idem, args: { n: 1 } }
    - { id: b, tool: once, args: { n: 2 } }
    - { parallel: [{ id: c, tool: idem }, { id: d, tool: once }] }
    - { id: e, tool: idem }
---
kind: Policy
metadata: { name: all }
spec: { rules: [{ id: all, effect: allow, match: { tools: ["idem", "once"] }, when: "run.steps < 100" }] }
---
kind: Budget
metadata: { name: total }
spec: { scope: project, period: total, limit_usd: "100" }
`;

/** Starts runs until the server is gone; what was acknowledged must never be lost. */
export async function load(server: Running, clients: number, acknowledged: Set<string>): Promise<void> {
  const one = async () => {
    for (;;) {
      try {
        acknowledged.add((await server.client.startRun({ workflow: "chaos" })).run_id);
        await new Promise((resolve) => setTimeout(resolve, 10));
      } catch {
        return;
      }
    }
  };
  await Promise.all(Array.from({ length: clients }, one));
}

async function allRuns(server: Running): Promise<Run[]> {
  const runs: Run[] = [];
  for (let cursor: string | null = null; ;) {
    const page: { items: Run[]; next_cursor: string | null } = await server.client.json(
      `/runs?limit=200${cursor ? `&cursor=${cursor}` : ""}`,
    );
    runs.push(...page.items);
    cursor = page.next_cursor;
    if (cursor === null) return runs;
  }
}

/** Lets everything come to rest; a person resolves what is in doubt. */
async function settle(server: Running): Promise<Run[]> {
  return until(
    "all runs end",
    async () => {
      const open = (await allRuns(server)).filter((run) => ["running", "waiting", "queued"].includes(run.state));
      for (const run of open.filter((candidate) => candidate.reason === "in_doubt").slice(0, 100)) {
        const { items } = await server.client.events(run.run_id);
        const doubts = new Set(items.filter((event) => event.type === "step.in_doubt").map((event) => event.step_id));
        for (const step of doubts) {
          await server.client
            .json(`/runs/${run.run_id}/steps/${step}/resolve`, {
              method: "POST",
              body: { outcome: "completed", result: "checked" },
            })
            .catch(() => null);
        }
      }
      return open.length === 0 ? allRuns(server) : null;
    },
    120_000,
  );
}

/** Nothing acknowledged is lost, nothing happened twice, budgets are exact, the chains verify. */
export async function invariants(server: Running, ledger: Ledger, acknowledged: ReadonlySet<string>): Promise<void> {
  const runs = await settle(server);
  const ids = new Set(runs.map((run) => run.run_id));
  expect(
    [...acknowledged].filter((id) => !ids.has(id)),
    "acknowledged and lost",
  ).toEqual([]);
  expect(runs.filter((run) => run.state !== "succeeded").map((run) => `${run.run_id} ${run.state}`)).toEqual([]);
  const verified = await server.client.json<{ ok: boolean; faults: string[] }>("/journal/verify", {
    method: "POST",
    body: {},
  });
  expect(verified.faults).toEqual([]);
  const counts = await ledger.counts();
  expect(
    Object.entries(counts.once).filter(([, n]) => n > 1),
    "an effect that is not idempotent happened twice",
  ).toEqual([]);
  const status = await server.client.json<{ budgets: { spent_micro_usd: number; reserved_micro_usd: number }[] }>(
    "/status",
  );
  const spent = runs.reduce((sum, run) => sum + run.cost_micro_usd, 0);
  expect(
    status.budgets.reduce((sum, use) => sum + use.reserved_micro_usd, 0),
    "reserved at rest",
  ).toBe(0);
  expect(
    status.budgets.reduce((sum, use) => sum + use.spent_micro_usd, 0),
    "spent",
  ).toBe(spent);
}
