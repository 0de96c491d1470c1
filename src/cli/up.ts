// `up`: starts the control plane, or one role of it, and stops it in order. Owns no state of its own.
import type { Command } from "commander";
import { systemClock } from "../adapters/system/system.ts";
import { AppError } from "../contract/errors.ts";
import { loadConfig, workerToken } from "../server/config.ts";
import type { Config } from "../server/config.ts";
import { createLog } from "../server/log.ts";
import { startServer } from "../server/start.ts";
import { startWorker } from "../server/start-worker.ts";
import { announcementsOf } from "../server/announce.ts";
import { globalsOf, stopSignal } from "./context.ts";
import type { Globals } from "./context.ts";
import { bold, dim, print, printJson, yellow } from "./output.ts";

const EXIT_DEPENDENCY = 6;

interface UpOptions {
  role?: string;
  host?: string;
  port?: number;
  config?: string;
  recordings?: string;
  control?: string;
  labels?: string;
  concurrency?: number;
}

/** `up`: the whole control plane in this process, or one role of it, until it is told to stop. */
export function addUp(root: Command): void {
  root
    .command("up")
    .description("start the control plane, or one role of it")
    .option("--role <role>", "all, control (runs no jobs itself) or worker (runs jobs and nothing else)")
    .option("--host <host>", "address to listen on")
    .option("--port <port>", "port to listen on (0 = any free one)", Number)
    .option("--config <file>", "configuration file")
    .option("--recordings <folder>", "recordings of recorded models")
    .option("--control <urls>", "worker: where to get jobs; several control nodes are separated by commas")
    .option("--labels <list>", "worker: what it can do that others cannot, separated by commas")
    .option("--concurrency <n>", "jobs at a time", Number)
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      const { role, host, port, config: file, recordings, control, labels, concurrency } = command.opts<UpOptions>();
      const config = loadConfig({
        role,
        host,
        port,
        config: file,
        recordings,
        concurrency,
        control_url: control?.replaceAll(/\/(?=,|$)/g, ""),
        labels: labels?.split(",").filter((label) => label !== ""),
        data: globals.data,
      });
      await (config.role === "worker" ? upWorker(config, globals) : upServer(config, globals));
    });
}

async function upServer(config: Config, globals: Globals): Promise<void> {
  const log = createLog(systemClock, (line) => process.stderr.write(`${line}\n`));
  const server = await startServer({
    config,
    log,
    onCommit: (commit) => {
      if (globals.json) return;
      for (const approval of announcementsOf(commit)) {
        print(`${yellow("approval needed")} ${bold(approval.approval_id)} ${approval.reason}`);
        print(dim(`  quarterdeck approvals approve ${approval.approval_id} --as SOMEBODY`));
      }
    },
    onFenced: () => process.exit(EXIT_DEPENDENCY),
  });
  if (globals.json) printJson({ url: server.url, ready_ms: server.ready_ms, recovered: server.recovered });
  else {
    const runs =
      server.stands_by_for === null
        ? `${server.recovered} open runs go on`
        : `it stands by for ${server.stands_by_for}`;
    print(`${bold("quarterdeck")} ready at ${server.url} in ${server.ready_ms} ms; ${runs}`);
    if (config.role === "control") {
      print(dim("  no jobs are run here; give it workers:"));
      print(dim("  quarterdeck workers mint NAME; quarterdeck up --role worker --control URL"));
    }
    print(dim(`  data in ${config.data}; stop with Ctrl-C`));
  }
  await stopSignal();
  await server.close();
}

async function upWorker(config: Config, globals: Globals): Promise<void> {
  const token = workerToken();
  const log = createLog(systemClock, (line) => process.stderr.write(`${line}\n`));
  const worker = await startWorker({ config, token, log });
  if (globals.json) printJson({ url: worker.url, instance: worker.instance });
  else {
    print(`${bold("quarterdeck worker")} ${worker.instance} takes jobs from ${config.control_url}`);
    print(dim(`  health and metrics at ${worker.url}; stop with Ctrl-C`));
  }
  const why = await Promise.race([worker.ended, stopSignal()]);
  await worker.close();
  if (why === "refused")
    throw new AppError(
      "AUTH_REQUIRED",
      "The control plane refuses this worker: its token is unknown or revoked, or does not have these labels. Mint one with: quarterdeck workers mint NAME",
    );
}
