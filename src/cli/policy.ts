import type { Command } from "commander";
import { clientOf, globalsOf, show } from "./context.ts";
import { bold, dim, green, print, red, safe, table, yellow } from "./output.ts";

const PAINT: Record<string, (text: string) => string> = { allow: green, deny: red, require_approval: yellow };

export function addPolicy(root: Command): void {
  const policy = root.command("policy").description("explain decisions");
  policy
    .command("explain <run> <step>")
    .description("why a step was allowed, denied or held")
    .action(async (run: string, step: string, _options, command: Command) => {
      const globals = globalsOf(command);
      show(globals, await clientOf(globals).explain(run, step), (found) => {
        const paint = PAINT[found.decision] ?? red;
        print(`${bold(`step ${found.step}`)} ${paint(found.decision)}${found.reason ? `: ${safe(found.reason)}` : ""}`);
        print(`  decided by ${found.rules.length > 0 ? found.rules.join(", ") : "no rule"}`);
        print(
          `  policy ${found.policy_digest.slice(0, 16)}${found.same_policy ? "" : yellow(" (the policy has changed since; below is today's)")}`,
        );
        print(`  call ${dim(safe(JSON.stringify(found.call)))}`);
        print(
          table(
            ["RULE", "EFFECT", "OUTCOME", "CONDITION"],
            found.trace.map((row) => [
              row.rule,
              row.effect,
              row.outcome + (row.error ? `: ${row.error}` : ""),
              row.condition ?? "-",
            ]),
          ),
        );
      });
    });
}
