import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, cpSync, existsSync } from "node:fs";
import path from "node:path";
import { InvalidArgumentError } from "commander";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import { wholeFrom } from "./context.ts";
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

const WORKLOADS = "W1 W2 W3 W4 W5 W6 W7 policy replay proxy ingest capture dispatch waiting".split(" ");
const PEERS = ["restate", "dbos", "bullmq"];

/** One of several names, in any case. */
function named(names: readonly string[], text: string): string {
  const found = names.find((name) => name.toLowerCase() === text.toLowerCase());
  if (found === undefined)
    throw new InvalidArgumentError(`There is no ${JSON.stringify(text)}; there are ${names.join(", ")}.`);
  return found;
}

/** Options that are passed on as they are, with what they may be. */
const OPTIONS: readonly [flag: string, about: string, preset: string, read: (text: string) => string][] = [
  ["passes", "measured passes", "9", wholeFrom(1)],
  ["warmup", "passes of W1, W5, W6 and W7 that are discarded first", "1", wholeFrom(0)],
  ["runs", "runs per pass of W1", "500", wholeFrom(1)],
  ["events", "events in the full journal of W5", "10000000", wholeFrom(1)],
  ["nodes", "control nodes of W7", "2", wholeFrom(1)],
  ["groups", "shard groups of W7", "8", wholeFrom(1)],
];

/** `bench`: runs the workloads of bench/, which are in the repository and not in the published package. */
export function addBench(root: Command): void {
  const bench = root
    .command("bench")
    .argument("<workload>", WORKLOADS.join(", "), (text) => named(WORKLOADS, text))
    .description("measure us, beside peers when named (needs the repository)")
    .option("--peers <names>", PEERS.join(","), (text) =>
      text
        .split(",")
        .map((name) => named(PEERS, name))
        .join(","),
    )
    .option("--json", "print JSON");
  for (const [flag, about, preset, read] of OPTIONS) bench.option(`--${flag} <n>`, about, read, preset);
  bench.action((workload: string, _options, command: Command) => {
    const options = command.opts<Record<string, string>>();
    const json = command.optsWithGlobals<{ json?: boolean }>().json === true;
    const args = [compiled(), workload, ...OPTIONS.flatMap(([flag]) => [`--${flag}`, options[flag] ?? ""])];
    if (options["peers"] !== undefined) args.push("--peers", options["peers"]);
    if (json) args.push("--json");
    return new Promise<void>((resolve, reject) => {
      const env = { ...process.env, QD_ROOT: PACKAGE_ROOT };
      const child = spawn(process.execPath, args, { stdio: "inherit", cwd: PACKAGE_ROOT, env });
      child.on("error", reject);
      child.on("close", (code) => {
        process.exitCode = code ?? 1;
        resolve();
      });
    });
  });
}
