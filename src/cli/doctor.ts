// `doctor` and `reset`: what an operator asks when something is odd, and how to begin again.
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import { lockDataFolder } from "../adapters/embedded-postgres/data-folder.ts";
import { removeCluster } from "../adapters/embedded-postgres/supervisor.ts";
import { systemClock } from "../adapters/system/system.ts";
import { loadConfig } from "../server/config.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import { bold, green, print, red, yellow } from "./output.ts";

interface Status {
  version: string;
  node: string;
  postgres: string;
  embedded: boolean;
  data: string;
  journal: { bytes: number; appends: number; appends_last_hour: number };
  runs: Record<string, number>;
  open_runs: number;
  queue_depth: number;
  stuck: string[];
  memory_mb: number;
}

interface Verified {
  ok: boolean;
  runs: number;
  events: number;
  checkpoints: number;
  faults: string[];
}

const MB = 1_048_576;

function words(status: Status, chain: Verified): void {
  print(
    `${bold("quarterdeck")} ${status.version}, node ${status.node}, postgres ${status.postgres}${status.embedded ? " (embedded)" : ""}`,
  );
  print(`  data     ${status.data}`);
  print(
    `  journal  ${(status.journal.bytes / MB).toFixed(1)} MB in ${status.journal.appends} appends, ${status.journal.appends_last_hour} in the last hour`,
  );
  print(
    `  runs     ${
      Object.entries(status.runs)
        .map(([state, count]) => `${count} ${state}`)
        .join(", ") || "none"
    }; ${status.open_runs} open here`,
  );
  print(`  memory   ${status.memory_mb} MB, ${status.queue_depth} jobs waiting`);
  print(
    `  chain    ${chain.ok ? green("verified") : red("NOT VERIFIED")}: ${chain.runs} runs, ${chain.events} events, ${chain.checkpoints} checkpoints`,
  );
  for (const fault of chain.faults) print(`           ${red(fault)}`);
  print(`  stuck    ${status.stuck.length === 0 ? green("none") : yellow(status.stuck.join(", "))}`);
}

export function addDoctor(root: Command): void {
  root
    .command("doctor")
    .description("versions, sizes, chain, stuck runs")
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      const status = await client.json<Status>("/status");
      const chain = await client.json<Verified>("/journal/verify", { method: "POST", body: {} });
      show(globals, { status, chain }, () => words(status, chain));
      if (!chain.ok || status.stuck.length > 0) process.exitCode = 1;
    });
  root
    .command("reset")
    .description("delete everything in the data folder")
    .option("--yes", "do not ask; there is no way back")
    .action(async (options: { yes?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const { data } = loadConfig({ data: globals.data });
      if (!options.yes)
        throw new AppError(
          "VALIDATION_ERROR",
          `This deletes every run, key and artifact in ${data}. Say --yes to do it`,
        );
      if (
        existsSync(data) &&
        !existsSync(path.join(data, "keys")) &&
        !existsSync(path.join(data, "postgres.settings"))
      ) {
        throw new AppError(
          "VALIDATION_ERROR",
          `${data} does not look like a data folder of this program; nothing was deleted`,
        );
      }
      const release = await lockDataFolder(data);
      await removeCluster(data, systemClock);
      await release();
      await rm(data, { recursive: true, force: true });
      show(globals, { deleted: data }, (value) => print(`deleted ${value.deleted}`));
    });
}
