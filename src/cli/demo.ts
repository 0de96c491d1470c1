// The story that `npm start` tells: a real agent loop with real tools is stopped by policy where it should be, waits for
// a person, goes on and ends; then the journal is verified. Exit status 0 only when all of it happened.
import { spawn } from "node:child_process";
import { cp, mkdir, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline/promises";
import type { Command } from "commander";
import { systemClock } from "../adapters/system/system.ts";
import { AppError } from "../contract/errors.ts";
import type { Event } from "../contract/events.ts";
import type { Run } from "../contract/runs.ts";
import { formatUsd } from "../kit/money.ts";
import { Client } from "../sdk/client.ts";
import { loadConfig } from "../server/config.ts";
import { createLog } from "../server/log.ts";
import { startServer } from "../server/start.ts";
import type { Server } from "../server/start.ts";
import { globalsOf, stopSignal } from "./context.ts";
import { bold, cyan, dim, eventLine, green, print, printJson, red, safe, yellow } from "./output.ts";
import { PACKAGE_ROOT } from "./package-root.ts";

interface DemoOptions {
  once?: boolean;
  interactive?: boolean;
  port?: number;
}

interface World {
  readonly orders_url: string;
  readonly tickets_url: string;
  readonly ledger: string;
  readonly scratch: string;
  stop(): void;
}

const REQUESTER = "ada";
const APPROVER = "grace";
const TASK = "Please solve the ticket about order A-1042.";
const START_TIMEOUT_MS = 20_000;

/** Starts the example's outside services as a process of their own. */
async function startWorld(data: string): Promise<World> {
  const scratch = path.join(data, "desk");
  await rm(scratch, { recursive: true, force: true });
  await mkdir(scratch, { recursive: true });
  await cp(path.join(PACKAGE_ROOT, "examples", "desk", "files"), scratch, { recursive: true });
  const ledger = path.join(data, "desk-refunds.jsonl");
  await rm(ledger, { force: true });
  const child = spawn(process.execPath, [path.join(PACKAGE_ROOT, "examples", "desk", "services.mjs"), ledger], {
    env: { PATH: process.env["PATH"], QD_SECRET_DESK: process.env["QD_SECRET_DESK"] },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const line = await new Promise<string>((resolve, reject) => {
    const timer = systemClock.timer(START_TIMEOUT_MS, () =>
      reject(new AppError("DEPENDENCY_UNAVAILABLE", "The example's services did not start")),
    );
    child.stdout.once("data", (chunk: Buffer) => {
      timer.cancel();
      resolve(chunk.toString());
    });
    child.once("exit", (code) =>
      reject(new AppError("DEPENDENCY_UNAVAILABLE", `The example's services ended with ${code}`)),
    );
  });
  const urls = JSON.parse(line) as { orders_url: string; tickets_url: string };
  return { ...urls, ledger, scratch, stop: () => child.kill() };
}

/** A live model when a key is set; the recording otherwise. */
function modelManifest(): { yaml: string; words: string } | null {
  const model = (provider: string, name: string, extra: string) =>
    `kind: Model\nmetadata: { name: desk-model }\nspec:\n  provider: ${provider}\n  model: ${name}\n${extra}`;
  const base = process.env["OPENAI_BASE_URL"] ?? process.env["OPENAI_COMPATIBLE_BASE_URL"];
  const free = `  prices: [{ from: "2020-01-01", input_usd_per_mtok: "0", output_usd_per_mtok: "0" }]\n`;
  if (base) {
    const name = process.env["OPENAI_MODEL"] ?? "default";
    const key = process.env["OPENAI_API_KEY"] ? "  api_key: env:OPENAI_API_KEY\n" : "";
    return {
      yaml: model("openai-compatible", JSON.stringify(name), `  base_url: ${JSON.stringify(base)}\n${key}${free}`),
      words: `live, ${name} at ${base}`,
    };
  }
  if (process.env["OPENAI_API_KEY"]) {
    return {
      yaml: model("openai", process.env["OPENAI_MODEL"] ?? "gpt-4.1-mini", "  api_key: env:OPENAI_API_KEY\n"),
      words: "live, OpenAI",
    };
  }
  if (process.env["ANTHROPIC_API_KEY"]) {
    return {
      yaml: model(
        "anthropic",
        process.env["ANTHROPIC_MODEL"] ?? "claude-haiku-4-5",
        "  api_key: env:ANTHROPIC_API_KEY\n",
      ),
      words: "live, Anthropic",
    };
  }
  return null;
}

async function manifests(world: World): Promise<{ yaml: string; model: string }> {
  const template = await readFile(path.join(PACKAGE_ROOT, "examples", "desk", "project.yaml"), "utf8");
  const filesystem_server = createRequire(import.meta.url).resolve(
    "@modelcontextprotocol/server-filesystem/dist/index.js",
  );
  const values: Record<string, string> = {
    filesystem_server,
    scratch: world.scratch,
    orders_url: world.orders_url,
    tickets_url: world.tickets_url,
  };
  const yaml = template.replaceAll(/\{\{([a-z_]+)\}\}/g, (match, name: string) => values[name] ?? match);
  const live = modelManifest();
  if (!live) return { yaml, model: "a recording that ships with the example (no key, no network)" };
  const documents = yaml.split("\n---\n");
  return { yaml: [live.yaml, ...documents.slice(1)].join("\n---\n"), model: live.words };
}

async function decide(client: Client, approval_id: string, options: DemoOptions): Promise<void> {
  const approver = new Client({ url: client.url, principal: APPROVER });
  const approval = await approver.json<{ shown: unknown }>(`/approvals/${approval_id}`);
  print(`      ${yellow("what will run:")} ${safe(JSON.stringify(approval.shown))}`);
  if (!options.interactive) {
    print(
      `      ${dim(`approved by the seeded second principal "${APPROVER}"; ${REQUESTER} asked, so ${REQUESTER} may not decide`)}`,
    );
    await approver.decide(approval_id, "approve", "within policy");
    return;
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(`      you are "${APPROVER}". Approve? [y/N] `);
  terminal.close();
  await approver.decide(approval_id, /^y/i.test(answer) ? "approve" : "reject");
}

async function follow(client: Client, run: Run, options: DemoOptions): Promise<Event[]> {
  const events: Event[] = [];
  for await (const event of client.watch(run.run_id)) {
    events.push(event);
    const line = eventLine(event);
    if (line !== null) print(line);
    if (event.type !== "human.approval_requested") continue;
    const { items } = await client.approvals("pending");
    const mine = items.find((approval) => approval.run_id === run.run_id);
    if (mine) await decide(client, mine.approval_id, options);
  }
  return events;
}

/** What must have happened; each with whether it did. */
function checks(run: Run, events: readonly Event[], refunds: number, verified: boolean): [string, boolean][] {
  const has = (type: string) => events.some((event) => event.type === type);
  const approved = events.some(
    (event) =>
      event.type === "human.approval_resolved" && (event.data as Record<string, unknown>)["decision"] === "approved",
  );
  return [
    [
      "the agent called real tools over stdio MCP, HTTP MCP and plain HTTP",
      events.filter((event) => event.type === "tool.completed").length >= 5,
    ],
    ["policy stopped the call that it should stop", has("tool.denied")],
    ["the refund waited for a person and was approved", has("human.approval_requested") && approved],
    ["exactly one refund was paid", refunds === 1],
    ["the run succeeded", run.state === "succeeded"],
    ["the journal's chain verifies", verified],
  ];
}

async function story(
  server: Server,
  world: World,
  options: DemoOptions,
): Promise<{ run: Run; results: [string, boolean][] }> {
  const client = new Client({ url: server.url, principal: REQUESTER });
  const { yaml, model } = await manifests(world);
  const applied = await client.apply<{ items: { kind: string; name: string; version: number }[] }>(yaml);
  print(`${bold("applied")}   ${applied.items.map((item) => `${item.kind} ${item.name}@${item.version}`).join(", ")}`);
  print(`${bold("model")}     ${model}`);
  const run = await client.startRun({ agent: "desk", input: TASK });
  print(`${bold("task")}      "${TASK}", from ${cyan(REQUESTER)}\n`);
  const events = await follow(client, run, options);
  const ended = await client.getRun(run.run_id);
  print(`\n${bold("cost")}      ${formatUsd(ended.cost_micro_usd)}, ${ended.tokens} tokens, ${ended.steps} steps`);
  const verified = await client.json<{ ok: boolean; events: number; checkpoints: number }>("/journal/verify", {
    method: "POST",
    body: {},
  });
  print(
    `${bold("journal")}   ${verified.events} events, ${verified.checkpoints} signed checkpoints, ${verified.ok ? green("chain verified") : red("CHAIN BROKEN")}`,
  );
  const ledger = await readFile(world.ledger, "utf8").catch(() => "");
  return { run: ended, results: checks(ended, events, ledger.split("\n").filter(Boolean).length, verified.ok) };
}

function printEnd(run: Run, results: readonly [string, boolean][], server: Server, stays: boolean): void {
  print();
  for (const [what, happened] of results) print(`  ${happened ? green("✓") : red("✕")} ${what}`);
  print(`\n${bold("Try next")}${stays ? "" : dim(" (start the server with: npx quarterdeck up)")}`);
  print(`  npx quarterdeck runs watch ${run.run_id}`);
  print(`  npx quarterdeck policy explain ${run.run_id} 5`);
  print(`  npx quarterdeck replay ${run.run_id}`);
  print(`  npx quarterdeck verify --all`);
  print(`  npx quarterdeck export ${run.run_id} -o run.jsonl && npx quarterdeck verify --file run.jsonl`);
  if (stays) print(dim(`\nThe server stays up at ${server.url}. Stop it with Ctrl-C.`));
}

async function demo(options: DemoOptions, data: string | undefined, json: boolean): Promise<void> {
  process.env["QD_SECRET_DESK"] ??= "desk-demo-token";
  const config = loadConfig({
    data,
    port: options.port,
    recordings: path.join(PACKAGE_ROOT, "examples", "desk", "recordings"),
  });
  print(
    `${bold("Quarterdeck")} ${dim("every model and tool call allowed by policy, paid from a budget, written to one journal")}\n`,
  );
  const world = await startWorld(config.data);
  try {
    const origins = [
      world.orders_url,
      world.tickets_url,
      process.env["OPENAI_BASE_URL"],
      process.env["OPENAI_COMPATIBLE_BASE_URL"],
    ].flatMap((url) => (url ? [new URL(url).origin] : []));
    const log = createLog(systemClock, (line) => {
      if (/"level":"(warn|error)"/.test(line)) process.stderr.write(`${line}\n`);
    });
    const server = await startServer({
      config: { ...config, private_origins: [...config.private_origins, ...origins] },
      log,
    });
    try {
      print(
        `${bold("database")}  embedded Postgres, ${server.first_start ? "created" : "existing"}, ready in ${server.ready_ms} ms at ${server.url}`,
      );
      const { run, results } = await story(server, world, options);
      if (json) printJson({ run, checks: Object.fromEntries(results) });
      else printEnd(run, results, server, options.once !== true);
      if (results.some(([, happened]) => !happened)) process.exitCode = 1;
      if (!options.once) await stopSignal();
    } finally {
      await server.close();
    }
  } finally {
    world.stop();
  }
}

export function addDemo(root: Command): void {
  root
    .command("demo", { isDefault: false })
    .description("run the example: a support agent under policy, budget and approval")
    .option("--once", "exit after the story; status 0 only if all of it happened")
    .option("--interactive", "you approve")
    .option("--port <port>", "port to listen on", Number)
    .action(async (options: DemoOptions, command: Command) => {
      const globals = globalsOf(command);
      await demo(options, globals.data, globals.json);
    });
}
