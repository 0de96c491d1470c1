// `replay`, `fork`, `replays show` and `diff`: take a run again, change one thing, see what it changed.
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import type { RunDiff } from "../contract/diff.ts";
import type { Overrides, ReplaySession, Simulation, StartFork } from "../contract/replay.ts";
import type { Client } from "../sdk/client.ts";
import { readText } from "./apply.ts";
import { captured } from "./capture.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import type { Globals } from "./context.ts";
import { diffLines } from "./diff-output.ts";
import { bold, dim, print, safe, stateText } from "./output.ts";
import { follow } from "./runs.ts";

const EXIT_SIMULATED = 5;

function sessionLines(session: ReplaySession): string {
  const { steps } = session;
  const used = (["exact", "cached", "simulated", "live"] as const)
    .filter((mode) => steps[mode] > 0)
    .map((mode) => `${steps[mode]} ${mode}`);
  const ok = session.state.startsWith("completed") ? "succeeded" : session.state === "running" ? "waiting" : "failed";
  const lines = [
    `${bold(session.replay_id)}  ${stateText(ok) === ok ? session.state : stateText(ok).replace(ok, session.state)}`,
    `  of ${session.source_run_id}${session.fork_step === null ? "" : `, from step ${session.fork_step}`}; outcomes: ${used.join(", ") || "none"}`,
    `  the run is ${session.run_state}, ${session.events} events`,
  ];
  if (session.message !== null) lines.push(`  ${safe(session.message)}`);
  if (session.mismatch) {
    lines.push(
      `  differs at ${session.mismatch.paths.join(", ") || "the whole"} (event ${session.mismatch.seq} of the source)`,
    );
    lines.push(
      dim(`    recorded: ${short(session.mismatch.recorded)}`),
      dim(`    now:      ${short(session.mismatch.produced)}`),
    );
  }
  lines.push(dim(`  compare: quarterdeck diff ${session.source_run_id} ${session.replay_id}`));
  return lines.join("\n");
}

const short = (value: unknown): string => safe(JSON.stringify(value ?? null)).slice(0, 200);

function jsonOf(option: string, text: string): unknown {
  if (!/^\s*[[{"]|^\s*(true|false|null|-?\d)/.test(text)) return text;
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new AppError("VALIDATION_ERROR", `${option}: ${text} is no JSON`, { cause });
  }
}

function pairsOf(option: string, values: readonly string[] | undefined): [name: string, value: string][] {
  return (values ?? []).map((value) => {
    const at = value.indexOf("=");
    if (at < 1) throw new AppError("VALIDATION_ERROR", `${option} ${value}: expected NAME=VALUE`);
    return [value.slice(0, at), value.slice(at + 1)];
  });
}

/** `NAME=VALUE`, `NAME@STEP=VALUE`, and `model:NAME=TEXT` for a model. */
function simulationsOf(values: readonly string[] | undefined): Simulation[] {
  return pairsOf("--simulate", values).map(([key, value]) => {
    const [name = "", step] = key.split("@");
    const what = name.startsWith("model:") ? { model: name.slice("model:".length) } : { tool: name };
    return { ...what, ...(step === undefined ? {} : { step: Number(step) }), result: jsonOf("--simulate", value) };
  });
}

function versionsOf(option: string, values: readonly string[] | undefined): Record<string, number> | undefined {
  const pairs = pairsOf(option, values).map(([name, version]) => [name, Number(version)] as const);
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs);
}

interface ReplayOptions {
  mode: "exact" | "cached" | "simulated" | "live";
  simulate?: string[];
  liveWrites?: boolean;
  strict?: boolean;
  key?: string;
  detach?: boolean;
}

/** Waits for the session's run, prints the session, and sets the exit code. */
async function finish(
  client: Client,
  globals: Globals,
  session: ReplaySession,
  options: Pick<ReplayOptions, "detach" | "strict">,
) {
  let ended = session;
  if (!options.detach && (session.state === "running" || session.state === "pending")) {
    if (!globals.json) await follow(client, session.replay_id, globals);
    else for await (const _event of client.watch(session.replay_id));
    ended = await client.json<ReplaySession>(`/replays/${encodeURIComponent(session.replay_id)}`);
  }
  show(globals, ended, (value) => print(sessionLines(value)));
  if (ended.state.startsWith("failed")) process.exitCode = 1;
  else if (options.strict && ended.steps.simulated > 0) process.exitCode = EXIT_SIMULATED;
}

const headersOf = (key: string | undefined) => (key === undefined ? {} : { "idempotency-key": key });

/** Runs a captured process again; each of its calls is answered from the recording. */
async function replayProcess(globals: Globals, client: Client, run: string, words: readonly string[]): Promise<void> {
  const done = await captured(globals, client, { replay_of: run }, words);
  const session = await client.json<ReplaySession>(`/replays/${encodeURIComponent(done.run.run_id)}`);
  // The process owns standard output.
  process.stderr.write(`${globals.json ? JSON.stringify(session) : sessionLines(session)}\n`);
  process.exitCode = session.state.startsWith("failed") ? 1 : done.exit_code;
}

function addReplay(root: Command): void {
  root
    .command("replay <run> [command...]")
    .description(
      "take a run again: exactly and with no outside call, unless another mode is asked for; a captured process is run again with replay RUN -- COMMAND",
    )
    .option("--mode <mode>", "exact, cached, simulated or live", "exact")
    .option(
      "--simulate <name=value...>",
      "a tool's result (NAME=JSON, NAME@STEP=JSON) or a model's answer (model:NAME=TEXT)",
    )
    .option("--live-writes", "let calls with effects be made; a policy rule and a person must agree")
    .option("--strict", "exit with 5 when an outcome was simulated")
    .option("--key <key>", "Idempotency-Key: the same key starts one replay")
    .option("--detach", "do not wait")
    .action(async (run: string, words: string[], options: ReplayOptions, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      if (words.length > 0) return replayProcess(globals, client, run, words);
      const body = {
        run_id: run,
        mode: options.mode,
        ...(options.simulate ? { simulate: simulationsOf(options.simulate) } : {}),
        ...(options.liveWrites ? { live_writes: true } : {}),
      };
      const session = await client.json<ReplaySession>("/replays", {
        method: "POST",
        body,
        headers: headersOf(options.key),
      });
      await finish(client, globals, session, options);
    });
}

interface ForkOptions extends Omit<ReplayOptions, "mode"> {
  step: number;
  instructions?: string;
  instructionsFile?: string;
  input?: string;
  model?: string;
  maxOutputTokens?: number;
  param?: string[];
  prompt?: string[];
  tool?: string[];
  policy?: string[];
  arguments?: string[];
  budget?: string[];
  reuse?: "matching" | "none";
  otherwise?: "live" | "stop";
}

async function overridesOf(options: ForkOptions): Promise<Overrides> {
  const text = options.instructionsFile === undefined ? options.instructions : await readText(options.instructionsFile);
  const numbers = (option: string, values: readonly string[] | undefined) => {
    const pairs = pairsOf(option, values).map(([name, value]) => [name, Number(value)] as const);
    return pairs.length === 0 ? undefined : Object.fromEntries(pairs);
  };
  const args = pairsOf("--arguments", options.arguments).map(
    ([name, value]) => [name, jsonOf("--arguments", value)] as const,
  );
  const all = {
    instructions: text,
    input: options.input === undefined ? undefined : jsonOf("--input", options.input),
    model: options.model,
    max_output_tokens: options.maxOutputTokens,
    params: numbers("--param", options.param),
    prompts: versionsOf("--prompt", options.prompt),
    tools: versionsOf("--tool", options.tool),
    policies: versionsOf("--policy", options.policy),
    arguments: args.length === 0 ? undefined : Object.fromEntries(args),
    budget: numbers("--budget", options.budget),
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

function addFork(root: Command): void {
  root
    .command("fork <run>")
    .description("start a run with this one's past up to a step, and something changed from there on")
    .requiredOption("--step <n>", "the first step that is decided anew", Number)
    .option("--instructions <text>", "another system prompt")
    .option("--instructions-file <file>", "another system prompt from a file, or -")
    .option("--input <text>", "another input: text, or JSON")
    .option("--model <name>", "another model")
    .option("--max-output-tokens <n>", "another limit of the answer", Number)
    .option("--param <name=number...>", "temperature, top_p or seed")
    .option("--prompt <name=version...>", "another version of a prompt")
    .option("--tool <name=version...>", "another version of a tool")
    .option("--policy <name=version...>", "another version of a policy")
    .option("--arguments <tool=json...>", "arguments that replace those of each call of a tool")
    .option("--budget <limit=number...>", "cost_micro_usd, total_tokens, tool_calls, model_calls, active_ms")
    .option("--reuse <which>", "matching (recorded outcomes of equal calls) or none")
    .option("--otherwise <what>", "live (make the call) or stop, where nothing was recorded")
    .option(
      "--simulate <name=value...>",
      "a tool's result (NAME=JSON, NAME@STEP=JSON) or a model's answer (model:NAME=TEXT)",
    )
    .option("--live-writes", "let calls with effects be made; a policy rule and a person must agree")
    .option("--strict", "exit with 5 when an outcome was simulated")
    .option("--key <key>", "Idempotency-Key: the same key starts one fork")
    .option("--detach", "do not wait")
    .action(async (run: string, options: ForkOptions, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      const body: StartFork = {
        step: options.step,
        overrides: await overridesOf(options),
        ...(options.reuse ? { reuse: options.reuse } : {}),
        ...(options.otherwise ? { otherwise: options.otherwise } : {}),
        ...(options.simulate ? { simulate: simulationsOf(options.simulate) } : {}),
        ...(options.liveWrites ? { live_writes: true } : {}),
      };
      const path = `/runs/${encodeURIComponent(run)}/fork`;
      const session = await client.json<ReplaySession>(path, { method: "POST", body, headers: headersOf(options.key) });
      await finish(client, globals, session, options);
    });
}

function addDiff(root: Command): void {
  root
    .command("diff <a> <b>")
    .description("compare two runs: what differs, and which difference came first")
    .option("--section <section>", "only changes of this section")
    .option("--exit-code", "exit with 1 when they differ")
    .action(async (a: string, b: string, options: { section?: string; exitCode?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const diff = await clientOf(globals).json<RunDiff>("/diffs", { method: "POST", body: { a, b } });
      const { section } = options;
      const shown =
        section === undefined ? diff : { ...diff, changes: diff.changes.filter((one) => one.section === section) };
      show(globals, shown, (value) => print(diffLines(value)));
      if (options.exitCode && !diff.equal) process.exitCode = 1;
    });
}

export function addReplays(root: Command): void {
  addReplay(root);
  addFork(root);
  root
    .command("replays <id>")
    .description("a replay or fork as a session: its state, and where each outcome came from")
    .action(async (id: string, _options, command: Command) => {
      const globals = globalsOf(command);
      const session = await clientOf(globals).json<ReplaySession>(`/replays/${encodeURIComponent(id)}`);
      show(globals, session, (value) => print(sessionLines(value)));
    });
  addDiff(root);
}
