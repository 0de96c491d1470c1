// `capture -- COMMAND`: runs a process whose model calls go through the proxy, as one run. `replay RUN -- COMMAND` runs it again
// with every call answered from the recording.
import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { constants } from "node:os";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Command } from "commander";
import { systemClock } from "../adapters/system/system.ts";
import { AppError } from "../contract/errors.ts";
import { isTerminal } from "../contract/events.ts";
import type { RunStateName } from "../contract/events.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_PREFIX, PROXY_PREFIX } from "../contract/paths.ts";
import type { StartCapture } from "../contract/proxy.ts";
import type { Run } from "../contract/runs.ts";
import type { Client } from "../sdk/client.ts";
import { clientOf, globalsOf, serverUrl } from "./context.ts";
import type { Globals } from "./context.ts";
import { dim } from "./output.ts";

const SIGNAL_EXIT = 128;
const END_WAIT_MS = LIMITS.stop_grace_ms + 3_000;
const END_POLL_MS = 50;

/** What makes unmodified clients of providers call the proxy. */
function environmentOf(globals: Globals, run_id: string, replay: boolean): Record<string, string> {
  const base = `${serverUrl(globals)}${PROXY_PREFIX}/runs/${run_id}`;
  const key = globals.token ?? process.env["QUARTERDECK_TOKEN"] ?? "quarterdeck";
  return {
    OPENAI_BASE_URL: `${base}/openai/v1`,
    OPENAI_API_KEY: key,
    ANTHROPIC_BASE_URL: `${base}/anthropic`,
    ANTHROPIC_API_KEY: key,
    QUARTERDECK_RUN: run_id,
    QUARTERDECK_TOKEN: key,
    QUARTERDECK_URL: serverUrl(globals),
    ...(replay ? { QUARTERDECK_REPLAY: "1" } : {}),
    QUARTERDECK_MCP_URL: `${serverUrl(globals)}${MCP_PREFIX}/runs/${run_id}`,
  };
}

/** Runs a command to its end; signals go to it, its exit code is the answer. */
function execute(command: readonly string[], env: Record<string, string>): Promise<number> {
  const [name = "", ...args] = command;
  const child = spawn(name, args, { stdio: "inherit", env: { ...process.env, ...env } });
  const pass = (signal: NodeJS.Signals) => void child.kill(signal);
  process.on("SIGINT", pass);
  process.on("SIGTERM", pass);
  return new Promise<number>((resolve, reject) => {
    child.once("error", (cause) =>
      reject(new AppError("VALIDATION_ERROR", `${name} cannot be started: ${cause.message}`, { cause })),
    );
    child.once("exit", (code, signal) => resolve(code ?? SIGNAL_EXIT + (signal ? constants.signals[signal] : 0)));
  }).finally(() => {
    process.off("SIGINT", pass);
    process.off("SIGTERM", pass);
  });
}

/** Runs a process as a captured run, or as the replay of one. */
export async function captured(
  globals: Globals,
  client: Client,
  request: StartCapture,
  command: readonly string[],
): Promise<{ run: Run; exit_code: number }> {
  const started = await client.json<Run>("/captures", { method: "POST", body: request });
  const end = (exit_code: number) =>
    client.json<Run>(`/captures/${started.run_id}/end`, {
      method: "POST",
      body: { exit_code: Math.min(exit_code, 255) },
    });
  let exit_code = 1;
  try {
    exit_code = await execute(command, environmentOf(globals, started.run_id, request.replay_of !== undefined));
  } catch (error) {
    await end(1);
    throw error;
  }
  let run = await end(exit_code);
  // A call that was in flight when the process ended has its outcome soon, or is given up.
  for (let waited = 0; !isTerminal(run.state as RunStateName) && waited < END_WAIT_MS; waited += END_POLL_MS) {
    await systemClock.sleep(END_POLL_MS);
    run = await client.getRun(run.run_id);
  }
  return { run, exit_code };
}

export function addCapture(root: Command): void {
  root
    .command("capture <command...>")
    .description(
      "run a process whose model calls go through the proxy, and tool calls through the MCP gateway: capture -- COMMAND",
    )
    .option("--agent <name>", "the agent that it is", "captured")
    .option("--bundle-on-fail <file>", "when it fails, write the run to this file")
    .action(async (words: string[], options: { agent: string; bundleOnFail?: string }, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      const { run, exit_code } = await captured(globals, client, { agent: options.agent }, words);
      // The process owns standard output.
      process.stderr.write(`${dim(`captured as ${run.run_id}: ${run.steps} calls, ${run.state}`)}\n`);
      if (exit_code !== 0 && options.bundleOnFail !== undefined) {
        const response = await client.fetch(`/journal/export?run_id=${run.run_id}`);
        if (response.body) await pipeline(Readable.from(response.body), createWriteStream(options.bundleOnFail));
        process.stderr.write(`${dim(`written to ${options.bundleOnFail}`)}\n`);
      }
      process.exitCode = exit_code;
    });
}
