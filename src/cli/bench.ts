import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, cpSync, existsSync } from "node:fs";
import path from "node:path";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import { PACKAGE_ROOT } from "./package-root.ts";

const BUILD = path.join(PACKAGE_ROOT, ".bench");

/** Compiles the benchmarks, so that what is measured is what ships: plain JavaScript. Returns the script. */
function compiled(): string {
  if (!existsSync(path.join(PACKAGE_ROOT, "bench", "main.ts"))) {
    throw new AppError("CONFIG_INVALID", "The benchmarks are in the repository; clone it and run npm ci there");
  }
  const tsc = path.join(PACKAGE_ROOT, "node_modules", "typescript", "bin", "tsc");
  const done = spawnSync(process.execPath, [tsc, "--outDir", BUILD], { cwd: PACKAGE_ROOT, stdio: "inherit" });
  if (done.status !== 0) throw new AppError("CONFIG_INVALID", "The benchmarks do not compile");
  cpSync(path.join(PACKAGE_ROOT, "migrations"), path.join(BUILD, "migrations"), { recursive: true });
  copyFileSync(path.join(PACKAGE_ROOT, "package.json"), path.join(BUILD, "package.json"));
  return path.join(BUILD, "bench", "main.js");
}

/** `bench`: runs the workloads of bench/, which are in the repository and not in the published package. */
export function addBench(root: Command): void {
  root
    .command("bench <workload>")
    .description("measure W1 to W7, policy, replay or proxy, beside peers when named (needs the repository)")
    .option("--peers <names>", "restate,dbos,bullmq")
    .option("--passes <n>", "measured passes", "9")
    .option("--warmup <n>", "passes of W1, W5, W6 and W7 that are discarded first", "1")
    .option("--runs <n>", "runs per pass of W1", "500")
    .option("--events <n>", "events in the full journal of W5", "10000000")
    .option("--nodes <n>", "control nodes of W7", "2")
    .option("--groups <n>", "shard groups of W7", "8")
    .option("--json", "print JSON")
    .action((workload: string, _options, command: Command) => {
      const options = command.opts<{
        peers?: string;
        passes: string;
        warmup: string;
        runs: string;
        events: string;
        nodes: string;
        groups: string;
      }>();
      const json = command.optsWithGlobals<{ json?: boolean }>().json === true;
      const args = [
        compiled(),
        workload,
        "--passes",
        options.passes,
        "--warmup",
        options.warmup,
        "--runs",
        options.runs,
        "--events",
        options.events,
        "--nodes",
        options.nodes,
        "--groups",
        options.groups,
      ];
      if (options.peers !== undefined) args.push("--peers", options.peers);
      if (json) args.push("--json");
      return new Promise<void>((resolve, reject) => {
        const child = spawn(process.execPath, args, {
          stdio: "inherit",
          cwd: PACKAGE_ROOT,
          env: { ...process.env, QD_ROOT: PACKAGE_ROOT },
        });
        child.on("error", reject);
        child.on("close", (code) => {
          process.exitCode = code ?? 1;
          resolve();
        });
      });
    });
}
