// `task INTENT`, `tasks get`: work that is asked for by intent.
import type { Command } from "commander";
import { formatUsd } from "../kit/money.ts";
import type { Task } from "../contract/tasks.ts";
import { clientOf, globalsOf, inputOf, show } from "./context.ts";
import { dim, green, print, red, safe, yellow } from "./output.ts";

interface Options {
  params?: string;
  env?: string;
  engine?: string;
  privacy?: string;
  budget?: string;
  p95?: number;
  priority?: string;
}

const ENDED = ["OK", "ERROR", "TIMEOUT", "CANCELED"];
const POLL_MS = 250;

export function addTasks(root: Command): void {
  root
    .command("task <intent>")
    .description("have work done that is asked for by intent, and wait for it")
    .option("-p, --params <text>", "what it is about: text, or JSON")
    .option("--env <env>", "environment, dev unless said")
    .option("--engine <engine>", "models asked first: auto, local, api, hybrid")
    .option("--privacy <privacy>", "local-only, hybrid, allow-api")
    .option("--budget <usd>", "what it may cost")
    .option("--p95 <ms>", "how long 95 of 100 calls of its model may take", Number)
    .option("--priority <priority>", "low, normal, high")
    .option("--no-wait", "return when it has begun")
    .action(async (intent: string, options: Options & { wait: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const client = clientOf(globals);
      let task = await client.json<Task>("/tasks", { method: "POST", body: requestOf(intent, options) });
      while (options.wait && !ENDED.includes(task.status) && task.waits_for === null) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        task = await client.json<Task>(`/tasks/${task.task_id}`);
      }
      show(globals, task, taskLines);
      if (options.wait && task.status !== "OK") process.exitCode = 1;
    });
  const tasks = root.command("tasks").description("work that was asked for by intent");
  tasks
    .command("get <task>")
    .description("how it was routed, what came of it, what it cost")
    .action(async (id: string, _options: unknown, command: Command) => {
      const globals = globalsOf(command);
      show(globals, await clientOf(globals).json<Task>(`/tasks/${encodeURIComponent(id)}`), taskLines);
    });
}

function requestOf(intent: string, options: Options): Record<string, unknown> {
  const { params, env, engine, privacy, budget, p95, priority } = options;
  const sla = {
    ...(budget === undefined ? {} : { budget_usd: budget }),
    ...(p95 === undefined ? {} : { p95_ms: p95 }),
    ...(privacy === undefined ? {} : { privacy }),
  };
  return {
    intent,
    ...(params === undefined ? {} : { params: inputOf(params) }),
    ...(env === undefined ? {} : { env }),
    ...(engine === undefined ? {} : { preferred_engine: engine }),
    ...(priority === undefined ? {} : { priority }),
    ...(Object.keys(sla).length > 0 ? { sla } : {}),
  };
}

function taskLines(task: Task): void {
  const paint = task.status === "OK" ? green : ENDED.includes(task.status) ? red : yellow;
  const { engine, usage, error, waits_for } = task;
  print(`${paint(task.status)} ${task.task_id}  ${task.intent}${waits_for === null ? "" : `  waits: ${waits_for}`}`);
  print(dim(`  ${engine.model} (${engine.route}, ${engine.tier}): ${safe(engine.reason)}`));
  print(dim(`  ${usage.latency_ms} ms, ${usage.tokens} tokens, ${formatUsd(usage.cost_micro_usd)}`));
  if (error) print(`  ${red(error.code)}: ${safe(error.message)}`);
  if (task.result !== null) print(safe(typeof task.result === "string" ? task.result : JSON.stringify(task.result)));
}
