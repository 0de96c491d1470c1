import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import { globalsOf, show } from "./context.ts";
import { bold, print } from "./output.ts";
import { PACKAGE_ROOT } from "./package-root.ts";

/** `init`: a project to start from; never overwrites. */
export function addInit(root: Command): void {
  root
    .command("init [folder]")
    .description("create a project to start from")
    .action(async (folder: string | undefined, _options, command: Command) => {
      const globals = globalsOf(command);
      const target = path.resolve(folder ?? ".");
      const file = path.join(target, "project.yaml");
      const template = await readFile(path.join(PACKAGE_ROOT, "examples", "starter", "project.yaml"), "utf8");
      const work = path.join(target, "work");
      await mkdir(work, { recursive: true });
      await writeFile(file, template.replaceAll("{{root}}", work), { flag: "wx" }).catch((cause) => {
        throw new AppError("CONFLICT", `${file} is there already; nothing was changed`, { cause });
      });
      show(globals, { file }, (value) => {
        print(`created ${bold(value.file)}. Next, in that folder:`);
        print("  quarterdeck up                       # in one terminal");
        print("  quarterdeck apply -f project.yaml    # in another");
        print(`  quarterdeck run tidy --input '{"name": "Ada"}'`);
      });
    });
}
