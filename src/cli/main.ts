#!/usr/bin/env node
// The command line. One file per noun; commands print and exit, nothing else. Exit codes come from the error table.
import { Command, CommanderError } from "commander";
import { VERSION } from "../server/version.ts";
import { addApprovals } from "./approvals.ts";
import { addApply } from "./apply.ts";
import { addBench } from "./bench.ts";
import { addCapture } from "./capture.ts";
import { addDemo } from "./demo.ts";
import { addDoctor } from "./doctor.ts";
import { addInit } from "./init.ts";
import { addJournal } from "./journal.ts";
import { addMcp } from "./mcp.ts";
import { report } from "./output.ts";
import { addPolicy } from "./policy.ts";
import { addReplays } from "./replays.ts";
import { addRuns } from "./runs.ts";
import { addTest } from "./test.ts";
import { addTasks } from "./tasks.ts";
import { addTriggers } from "./triggers.ts";
import { addUp } from "./up.ts";
import { addTools } from "./tools.ts";
import { addQueues, addShards, addWorkers } from "./workers.ts";

const EXIT_BAD_INPUT = 2;
/** A command has ended; what it opened closes within this. */
const HELD_MS = 5_000;

function program(): Command {
  const root = new Command("quarterdeck")
    .description("Control plane for AI agents: policy, budget, approval and one verifiable journal for every call.")
    .version(VERSION)
    .option("--json", "print JSON")
    .option("--url <url>", "server to talk to (QUARTERDECK_URL)")
    .option("--token <token>", "bearer token (QUARTERDECK_TOKEN)")
    .option("--as <principal>", "who acts, on a server without credentials")
    .option("--data <folder>", "data folder (QUARTERDECK_DATA)")
    .showSuggestionAfterError()
    .exitOverride();
  for (const add of [
    addInit,
    addUp,
    addDemo,
    addApply,
    addRuns,
    addReplays,
    addCapture,
    addMcp,
    addTest,
    addPolicy,
    addApprovals,
    addJournal,
    addTools,
    addTasks,
    addTriggers,
    addWorkers,
    addQueues,
    addShards,
    addDoctor,
    addBench,
  ])
    add(root);
  return root;
}

async function main(): Promise<number> {
  try {
    await program().parseAsync(process.argv);
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_BAD_INPUT;
    return report(error, process.argv.includes("--json"));
  }
}

process.exitCode = await main();
// Who looks after a program starts it again when it has ended: a handle that was forgotten must not keep it from ending.
setTimeout(() => process.exit(), HELD_MS).unref();
