// One control node of W7, as a process of its own: it runs workflows of its groups when it is told to, and says when each has
// ended. Settings come by environment, as for any node.
import { systemClock } from "../src/adapters/system/system.ts";
import { loadConfig } from "../src/server/config.ts";
import { createLog } from "../src/server/log.ts";
import { startServer } from "../src/server/start.ts";

export interface Asked {
  readonly id: number;
  readonly workflow: string;
  /** Instead: manifests to apply, or a worker to make a credential for. */
  readonly apply?: string;
  readonly mint?: string;
  readonly waits?: boolean;
}

const ended = new Map<string, (state: string) => void>();
const server = await startServer({
  config: loadConfig({ role: "control", port: 0 }),
  log: createLog(systemClock, (line) => process.stderr.write(`${line}\n`)),
  onCommit: ({ run_id, summary }) => {
    if (summary.state === "running") return;
    ended.get(run_id)?.(summary.state);
    ended.delete(run_id);
  },
});
const { registry, workers, runs, tenant_id, project } = server.services;
const caller = { tenant_id, project, principal: "bench" };

async function answer({ workflow, apply, mint, waits }: Asked): Promise<string> {
  if (apply !== undefined) return String((await registry.apply({ ...caller, text: apply })).length);
  if (mint !== undefined) return (await workers.mint("bench", mint, [])).token;
  if (waits) return JSON.stringify(await server.services.shards());
  let end: (state: string) => void = () => undefined;
  const state = new Promise<string>((resolve) => (end = resolve));
  const { run_id } = await runs.start(caller, { workflow, input: "" });
  ended.set(run_id, end);
  return state;
}

process.on("message", (asked: Asked) => {
  answer(asked).then(
    (said) => process.send?.({ id: asked.id, said }),
    (error: unknown) => process.send?.({ id: asked.id, failed: String(error) }),
  );
});
process.on("disconnect", () => process.exit(0));
process.send?.({ id: 0, said: server.url });
