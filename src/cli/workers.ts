// `workers ...`, `queues ...` and `shards`: who executes jobs, what waits for them, what nobody could execute, who owns runs.
import type { Command } from "commander";
import type { Run } from "../contract/runs.ts";
import type { MintedWorker, QueueView, ShardView, WorkerView } from "../contract/workers.ts";
import type { Client } from "../sdk/client.ts";
import { clientOf, globalsOf, show, shown } from "./context.ts";
import { bold, dim, print, stateText, table } from "./output.ts";

function workerLines(workers: readonly WorkerView[]): void {
  if (workers.length === 0) return print(dim("There are no workers. Make a credential: quarterdeck workers mint NAME"));
  const rows = workers.flatMap((worker) => {
    const state = worker.revoked_at === null ? "not running" : "revoked";
    const common = [worker.name, worker.labels.join(",") || "-"];
    if (worker.instances.length === 0) return [[...common, state, "-", "0", "0", "0", "-"]];
    return worker.instances.map((one) => [
      ...common,
      worker.revoked_at === null ? one.state : "revoked",
      one.instance,
      String(one.running),
      String(one.completed),
      String(one.refused),
      `${Math.round(one.seen_ms_ago / 100) / 10} s`,
    ]);
  });
  print(table(["name", "labels", "state", "process", "running", "done", "refused", "last heard"], rows));
}

function queueLines(view: QueueView): void {
  const oldest = view.waiting > 0 ? `, the oldest for ${Math.round(view.oldest_ms / 100) / 10} s` : "";
  print(`${bold(String(view.waiting))} jobs wait${oldest}; ${bold(String(view.running))} are out (${view.driver})`);
  const rate = (value: number | undefined) => (value ?? 0).toFixed(1);
  print(dim(`in the last minute ${rate(view.arrived_per_s)} came and ${rate(view.done_per_s)} were done each second`));
  if (view.lanes.length > 0) {
    print(
      table(
        ["priority", "needs", "waiting", "workers that can"],
        view.lanes.map((lane) => [
          String(lane.priority),
          lane.needs.join(",") || "-",
          String(lane.waiting),
          String(lane.served_by),
        ]),
      ),
    );
  }
  if (view.dead.length === 0) return;
  print("");
  print(bold("dead letters: every worker that took these was lost"));
  print(
    table(
      ["run", "step", "what", "attempts"],
      view.dead.map((letter) => [letter.run_id, String(letter.step), letter.target, String(letter.attempt)]),
    ),
  );
  print(dim("  try again: quarterdeck queues requeue RUN STEP"));
}

function addSteering(workers: Command): void {
  for (const [verb, description] of [
    ["revoke", "end a worker's credential"],
    ["drain", "let a worker finish what it has and end"],
  ] as const) {
    workers
      .command(`${verb} <name>`)
      .description(description)
      .action(async (name: string, _options, command: Command) => {
        const globals = globalsOf(command);
        const path = `/workers/${encodeURIComponent(name)}/${verb}`;
        const view = await clientOf(globals).json<WorkerView>(path, { method: "POST" });
        show(globals, view, (value) => workerLines([value]));
      });
  }
}

export function addWorkers(root: Command): void {
  const workers = root.command("workers").description("workers: credentials, processes, what they run");
  workers
    .command("mint <name>")
    .description("make a credential for a worker; the token is shown once")
    .option("--label <label...>", "what this worker may claim to be able to do")
    .action(async (name: string, options: { label?: string[] }, command: Command) => {
      const globals = globalsOf(command);
      const body = { name, labels: options.label ?? [] };
      const minted = await clientOf(globals).json<MintedWorker>("/workers", { method: "POST", body });
      show(globals, minted, (value) => {
        print(`${bold(value.name)} ${value.labels.join(",")}`);
        print(value.token);
        print(dim("  shown once. On the worker's machine:"));
        print(dim("  QUARTERDECK_WORKER_TOKEN=... quarterdeck up --role worker --control URL"));
      });
    });
  workers
    .command("list", { isDefault: true })
    .description("list workers")
    .option("--watch", "again each second")
    .action(async (options: { watch?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      const read = async () => (await client.json<{ items: WorkerView[] }>("/workers")).items;
      await shown(globals, options.watch === true, read, workerLines);
    });
  addSteering(workers);
}

export function addQueues(root: Command): void {
  const queues = root.command("queues").description("jobs that wait for workers, and dead letters");
  const read = (client: Client) => client.json<QueueView>("/queues");
  queues
    .command("show", { isDefault: true })
    .description("what waits, lane by lane")
    .option("--watch", "again each second")
    .action(async (options: { watch?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      await shown(globals, options.watch === true, () => read(client), queueLines);
    });
  queues
    .command("requeue <run> <step>")
    .description("try a dead letter again")
    .option("--note <note>", "why")
    .action(async (run: string, step: string, options: { note?: string }, command: Command) => {
      const globals = globalsOf(command);
      const body = { outcome: "retry", ...(options.note === undefined ? {} : { note: options.note }) };
      const path = `/runs/${encodeURIComponent(run)}/steps/${encodeURIComponent(step)}/resolve`;
      show(globals, await clientOf(globals).json<Run>(path, { method: "POST", body }), (value) =>
        print(`${value.run_id} ${stateText(value.state)}`),
      );
    });
}

/** `shards`: which control node owns the runs. */
export function addShards(root: Command): void {
  root
    .command("shards")
    .description("which control node owns the runs, and until when")
    .option("--watch", "again each second")
    .action(async (options: { watch?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      const read = async () => (await client.json<{ items: ShardView[] }>("/shards")).items;
      await shown(globals, options.watch === true, read, (items) =>
        print(
          table(
            ["group", "owner", "address", "epoch", "head", "open runs", "lease"],
            items.map((item) => [
              String(item.group),
              item.node,
              item.url || "-",
              String(item.shard_epoch),
              String(item.head),
              String(item.open_runs),
              item.lease_ms === null ? "data folder" : `${(item.lease_ms / 1_000).toFixed(1)} s`,
            ]),
          ),
        ),
      );
    });
}
