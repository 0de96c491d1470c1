// `triggers ...`: what starts runs without somebody asking each time.
import type { Command } from "commander";
import type { Fire, Trigger } from "../contract/triggers.ts";
import { clientOf, globalsOf, inputOf, show } from "./context.ts";
import { dim, green, print, red, table, yellow } from "./output.ts";

const pathOf = (name: string, verb: string): string => `/triggers/${encodeURIComponent(name)}/${verb}`;
const ENV = ["--env <env>", "environment of the trigger, dev unless said"] as const;
const PAINT = { pending: yellow, started: green, refused: red, skipped: dim };

interface Options {
  env?: string;
  input?: string;
  limit?: string;
}

export function addTriggers(root: Command): void {
  const triggers = root.command("triggers").description("what starts runs by itself: schedules, webhooks, events");
  triggers
    .command("list")
    .description("list triggers, when they fire next and last did")
    .action(async (_options: Options, command: Command) => {
      const globals = globalsOf(command);
      const found = await clientOf(globals).json<{ items: Trigger[] }>("/triggers");
      show(globals, found, ({ items }) => print(items.length === 0 ? "no triggers" : listed(items)));
    });
  triggers
    .command("fires <name>")
    .description("what a trigger did, the latest first")
    .option(...ENV)
    .option("--limit <n>", "how many")
    .action(async (name: string, { env, limit }: Options, command: Command) => {
      const globals = globalsOf(command);
      const query = new URLSearchParams({ ...(env ? { env } : {}), ...(limit ? { limit } : {}) });
      const found = await clientOf(globals).json<{ items: Fire[] }>(`${pathOf(name, "fires")}?${query.toString()}`);
      show(globals, found, ({ items }) => print(items.length === 0 ? "it has not fired yet" : firesText(items)));
    });
  triggers
    .command("fire <name>")
    .description("start a run as the trigger would, now; also while it is paused")
    .option(...ENV)
    .option("-i, --input <text>", "what it gets, as a webhook would send it: text, or JSON")
    .action(async (name: string, { env, input }: Options, command: Command) => {
      const globals = globalsOf(command);
      const body = { ...(env ? { env } : {}), ...(input === undefined ? {} : { input: inputOf(input) }) };
      const fire = await clientOf(globals).json<Fire>(pathOf(name, "fire"), { method: "POST", body });
      show(globals, fire, ({ state, run_id }) => print(`${PAINT[state](state)} ${run_id}`));
    });
  for (const verb of ["pause", "resume"] as const)
    triggers
      .command(`${verb} <name>`)
      .description(verb === "pause" ? "have it start nothing by itself" : "let it go on, from now")
      .option(...ENV)
      .action(async (name: string, { env }: Options, command: Command) => {
        const globals = globalsOf(command);
        const body = env ? { env } : {};
        const trigger = await clientOf(globals).json<Trigger>(pathOf(name, verb), { method: "POST", body });
        show(globals, trigger, (one) => print(listed([one])));
      });
}

function listed(items: readonly Trigger[]): string {
  const rows = items.map((one) => [
    one.name,
    one.env,
    one.on,
    one.when,
    one.target,
    one.paused ? `paused by ${one.paused_by ?? ""}` : (one.next_at ?? ""),
    one.last_at ?? "never",
    one.last_run_id ?? "",
  ]);
  return table(["name", "env", "on", "when", "starts", "next", "last", "last run"], rows);
}

function firesText(items: readonly Fire[]): string {
  const rows = items.map((one) => [
    one.due_at,
    one.cause,
    one.state,
    one.state === "started" || one.state === "pending" ? one.run_id : (one.reason ?? ""),
  ]);
  return table(["due", "by", "state", "run"], rows);
}
