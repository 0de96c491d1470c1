// `run` and `runs ...`: start, follow, read and steer runs.
import { Option } from "commander";
import type { Command } from "commander";
import { EVENT_ORDERS } from "../contract/events.ts";
import type { EventOrder } from "../contract/events.ts";
import { AppError } from "../contract/errors.ts";
import type { Progress } from "../contract/progress.ts";
import type { QuarantinedPayload, Run, StartRun } from "../contract/runs.ts";
import { parseUsd } from "../kit/money.ts";
import type { Client } from "../sdk/client.ts";
import { readText } from "./apply.ts";
import { clientOf, globalsOf, show, wholeFrom, inputOf } from "./context.ts";
import type { Globals } from "./context.ts";
import { dim, eventLine, print, runLines, safe, stateText, table } from "./output.ts";

/**
 * Prints events until the run ends; with --json one event a line. With `tokens`, what running calls say is printed as it
 * comes. Returns the run as it ended.
 */
export async function follow(
  client: Client,
  run_id: string,
  globals: Globals,
  { tokens = false, consumer }: { tokens?: boolean | undefined; consumer?: string | undefined } = {},
): Promise<Run> {
  let step = 0;
  const acks = consumer === undefined ? null : new Acks((seq) => client.ack(run_id, consumer, seq));
  const end = () => {
    if (step > 0) process.stdout.write("\n");
    step = 0;
  };
  const say = (said: Progress) => {
    if (globals.json) return print(JSON.stringify(said));
    if (said.step !== step || said.kind === "note") end();
    process.stdout.write(step === 0 ? `      ${dim(safe(said.text))}` : dim(safe(said.text)));
    step = said.step;
  };
  for await (const event of client.watch(run_id, 0, tokens ? say : undefined, consumer)) {
    const line = globals.json ? JSON.stringify(event) : eventLine(event);
    if (line !== null) {
      end();
      print(line);
    }
    await acks?.done(event.seq);
  }
  await acks?.end();
  return client.getRun(run_id);
}

const ACK_MS = 200;

/** Acknowledges what was printed, a few times a second: what was printed since then is printed again after a crash. */
class Acks {
  private readonly send: (seq: number) => Promise<unknown>;
  private seq = 0;
  private sent = 0;
  private at_ms = Date.now();

  constructor(send: Acks["send"]) {
    this.send = send;
  }

  async done(seq: number): Promise<void> {
    this.seq = seq;
    if (Date.now() - this.at_ms >= ACK_MS) await this.end();
  }

  async end(): Promise<void> {
    if (this.seq > this.sent) await this.send(this.seq);
    this.sent = this.seq;
    this.at_ms = Date.now();
  }
}

interface RunOptions {
  workflow?: boolean;
  agent?: boolean;
  input?: string;
  inputFile?: string;
  env?: string;
  version?: number;
  budget?: string;
  label?: string[];
  priority?: number;
  deadlineMs?: number;
  key?: string;
  detach?: boolean;
  tokens?: boolean;
}

/** Text that is a JSON object or array is taken as JSON, anything else as text. */
async function requestOf(name: string, options: RunOptions): Promise<StartRun> {
  const text = options.inputFile === undefined ? options.input : await readText(options.inputFile);
  const micro = options.budget === undefined ? null : parseUsd(options.budget);
  if (options.budget !== undefined && micro === null) {
    throw new AppError("VALIDATION_ERROR", `--budget ${options.budget} is no USD amount with at most six decimals`);
  }
  const labels = Object.fromEntries(
    (options.label ?? []).map((pair) => [pair.split("=")[0] ?? "", pair.split("=").slice(1).join("=")]),
  );
  return {
    ...(options.agent ? { agent: name } : { workflow: name }),
    ...(text === undefined ? {} : { input: inputOf(text) }),
    ...(options.env === undefined ? {} : { env: options.env }),
    ...(options.version === undefined ? {} : { version: options.version }),
    ...(micro === null ? {} : { budget: { cost_micro_usd: micro } }),
    ...(options.label ? { labels } : {}),
    ...(options.priority === undefined ? {} : { priority: options.priority }),
    ...(options.deadlineMs === undefined ? {} : { deadline_ms: options.deadlineMs }),
  };
}

/** An agent if there is one of this name, else a workflow. */
async function kindOf(client: Client, name: string, options: RunOptions): Promise<RunOptions> {
  if (options.agent || options.workflow) return options;
  const { items } = await client.json<{ items: { kind: string; name: string }[] }>("/registry");
  return items.some((item) => item.kind === "Agent" && item.name === name)
    ? { ...options, agent: true }
    : { ...options, workflow: true };
}

function addRun(root: Command): void {
  root
    .command("run <name>")
    .description("start a run of an agent or a workflow and follow it")
    .option("--agent", "the name is an agent")
    .option("--workflow", "the name is a workflow")
    .option("-i, --input <text>", "input: text, or JSON")
    .option("--input-file <file>", "input from a file, or -")
    .option("--env <env>", "environment (dev)")
    .option("--version <n>", "version", Number)
    .option("--budget <usd>", "most this run may cost")
    .option("--label <key=value...>", "labels")
    .option("--priority <n>", "of its jobs in the queue: 0 (last) to 9 (first), 5 unless said", Number)
    .option("--deadline-ms <ms>", "end the run after this time", Number)
    .option("--key <key>", "Idempotency-Key: the same key starts one run")
    .option("--detach", "do not follow")
    .option("--tokens", "also print what its calls say while they run")
    .action(async (name: string, options: RunOptions, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      const run = await client.startRun(await requestOf(name, await kindOf(client, name, options)), options.key);
      if (options.detach) return show(globals, run, (value) => print(runLines(value)));
      const ended = await follow(client, run.run_id, globals, { tokens: options.tokens });
      if (!globals.json) print(runLines(ended));
      if (ended.state !== "succeeded") process.exitCode = 1;
    });
}

function addList(runs: Command): void {
  runs
    .command("list")
    .description("list runs, newest first")
    .option("--state <state>", "only runs in this state")
    .option("--kind <kind>", "agent, workflow, captured ...")
    .option("--target <name>", "only runs of this agent or workflow")
    .option("--limit <n>", "at most so many", Number)
    .option("--cursor <cursor>", "where the last page ended")
    .action(async (options: Record<string, string | number>, command: Command) => {
      const globals = globalsOf(command);
      const query = new URLSearchParams(
        Object.entries(options).map(([key, value]): [string, string] => [key, String(value)]),
      );
      const page = await clientOf(globals).json<{ items: Run[]; next_cursor: string | null }>(
        `/runs?${query.toString()}`,
      );
      show(globals, page, ({ items, next_cursor }) => {
        const rows = items.map((run) => [
          run.run_id,
          run.state + (run.reason ? ` (${run.reason})` : ""),
          run.kind,
          run.target,
          String(run.steps),
          run.created_at,
        ]);
        print(table(["RUN", "STATE", "KIND", "TARGET", "STEPS", "CREATED"], rows));
        if (next_cursor) print(`more: --cursor ${next_cursor}`);
      });
    });
}

function addAmend(runs: Command): void {
  runs
    .command("amend <run>")
    .description("put something right in a run that is over: it is said after what is recorded, which stays")
    .requiredOption("--note <text>", "what has to be known")
    .option("--about <seq>", "the event that it is about", wholeFrom(1))
    .action(async (id: string, { note, about }: { note: string; about?: string }, command: Command) => {
      const globals = globalsOf(command);
      const body = { note, ...(about === undefined ? {} : { about: Number(about) }) };
      show(globals, await clientOf(globals).act(id, "amendments", body), (run) => print(`${run.run_id} is amended`));
    });
}

function addPrivacy(runs: Command): void {
  runs
    .command("override-privacy <run>")
    .description("let a run be replayed and exported although a payload of it could not be redacted")
    .requiredOption("--reason <text>", "why; stands in its journal")
    .action(async (id: string, { reason }: { reason: string }, command: Command) => {
      const globals = globalsOf(command);
      show(globals, await clientOf(globals).act(id, "privacy-override", { reason }), (run) =>
        print(`${run.run_id} may be replayed and exported`),
      );
    });
  runs
    .command("quarantined <run>")
    .description("show what could not be looked at when it came, once that is overridden")
    .action(async (id: string, _options, command: Command) => {
      const globals = globalsOf(command);
      const path = `/runs/${encodeURIComponent(id)}/quarantine`;
      show(globals, await clientOf(globals).json<{ items: QuarantinedPayload[] }>(path), ({ items }) => {
        for (const { seq, type, at, value } of items)
          print(`${seq}  ${type}  ${at || "/"}\n${safe(JSON.stringify(value))}`);
        if (items.length === 0) print(`Nothing of ${id} is in quarantine`);
      });
    });
}

export function addRuns(root: Command): void {
  addRun(root);
  const runs = root.command("runs").description("read and steer runs");
  addList(runs);
  runs
    .command("get <run>")
    .description("one run")
    .action(async (id: string, _options, command: Command) => {
      const globals = globalsOf(command);
      show(globals, await clientOf(globals).getRun(id), (run) => print(runLines(run)));
    });
  runs
    .command("watch <run>")
    .description("follow a run until it ends")
    .option("--tokens", "also what its calls say while they run")
    .option("--consumer <name>", "go on behind what was shown under this name before")
    .action(async (id: string, options: { tokens?: boolean; consumer?: string }, command: Command) => {
      const globals = globalsOf(command);
      const run = await follow(clientOf(globals), id, globals, options);
      if (!globals.json) print(runLines(run));
    });
  runs
    .command("events <run>")
    .description("all events of a run, as JSON lines")
    .addOption(
      new Option("--order <order>", "as they were committed, or as they happened")
        .choices(EVENT_ORDERS)
        .default("commit"),
    )
    .action(async (id: string, { order }: { order: EventOrder }, command: Command) => {
      const client = clientOf(globalsOf(command));
      for (let after = 0; ;) {
        const page = await client.events(id, after, order);
        for (const event of page.items) print(JSON.stringify(event));
        if (page.next_cursor === null) break;
        after = Number(page.next_cursor);
      }
    });
  for (const verb of ["cancel", "pause", "resume", "retry"] as const) {
    runs
      .command(`${verb} <run>`)
      .description(
        {
          cancel: "stop a run",
          pause: "start no further calls",
          resume: "go on",
          retry: "start a new run with the same input",
        }[verb],
      )
      .action(async (id: string, _options, command: Command) => {
        const globals = globalsOf(command);
        show(globals, await clientOf(globals).act(id, verb), (run) => print(`${run.run_id} ${stateText(run.state)}`));
      });
  }
  runs
    .command("input <run> <text>")
    .description("answer a run that waits for input")
    .option("--final", "nothing follows: the run ends")
    .action(async (id: string, text: string, options: { final?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const body = { content: inputOf(text), ...(options.final ? { final: true } : {}) };
      show(globals, await clientOf(globals).act(id, "input", body), (run) =>
        print(`${run.run_id} ${stateText(run.state)}`),
      );
    });
  addAmend(runs);
  addPrivacy(runs);
}
