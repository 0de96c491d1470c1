import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import type { Applied } from "../contract/manifests.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import { print, table } from "./output.ts";

export async function readText(file: string): Promise<string> {
  if (file === "-") {
    let text = "";
    for await (const chunk of process.stdin) text += String(chunk);
    return text;
  }
  return readFile(file, "utf8").catch((cause) => {
    throw new AppError("VALIDATION_ERROR", `The file ${file} cannot be read`, { cause });
  });
}

/** `apply`: manifests become immutable versions; the same file again changes nothing. */
export function addApply(root: Command): void {
  root
    .command("apply")
    .description("apply manifests (Agent, Tool, Policy, Budget, Prompt, Workflow, Model)")
    .requiredOption("-f, --file <file>", "YAML file, or - for standard input")
    .action(async (options: { file: string }, command: Command) => {
      const globals = globalsOf(command);
      const result = await clientOf(globals).apply<{ items: Applied[] }>(await readText(options.file));
      show(globals, result, ({ items }) =>
        print(
          table(
            ["KIND", "NAME", "VERSION", "CHANGE"],
            items.map((item) => [item.kind, item.name, String(item.version), item.change]),
          ),
        ),
      );
    });
  root
    .command("promote <kind> <name> <version> <env>")
    .description("make an environment use a version")
    .action(async (kind: string, name: string, version: string, env: string, _options, command: Command) => {
      const globals = globalsOf(command);
      const body = { kind, name, version: Number(version), env };
      const result = await clientOf(globals).json<typeof body>("/registry/promote", { method: "POST", body });
      show(globals, result, (value) =>
        print(`${value.kind} ${value.name}: ${value.env} uses version ${value.version}`),
      );
    });
}
