// `tools ...`: whether the servers of MCP tools still say what was pinned, and pinning what they say now.
import type { Command } from "commander";
import type { Applied } from "../contract/manifests.ts";
import type { ToolReview } from "../contract/tool-reviews.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import { bold, dim, green, print, red, safe, yellow } from "./output.ts";

const PAINT = { same: green, changed: yellow, missing: red };

export function addTools(root: Command): void {
  const tools = root
    .command("tools")
    .description("definitions of MCP tools: what was pinned, what their servers say now");
  tools
    .command("review <name>")
    .description("compare the definitions of an MCP tool with the pinned ones; exits with 1 when they differ")
    .action(async (name: string, _options, command: Command) => {
      const globals = globalsOf(command);
      const path = `/tools/${encodeURIComponent(name)}/review`;
      const review = await clientOf(globals).json<ToolReview>(path, { method: "POST" });
      show(globals, review, reviewLines);
      if (review.changed) process.exitCode = 1;
    });
  tools
    .command("approve <name>")
    .description("pin the definitions that were reviewed; until then, calls of changed tools are refused")
    .requiredOption("--digest <digest>", "what `tools review` showed")
    .action(async (name: string, { digest }: { digest: string }, command: Command) => {
      const globals = globalsOf(command);
      const path = `/tools/${encodeURIComponent(name)}/approve`;
      const applied = await clientOf(globals).json<Applied>(path, { method: "POST", body: { digest } });
      show(globals, applied, (done) => print(`${bold(done.name)} is version ${done.version} now (${done.change})`));
    });
}

function reviewLines(review: ToolReview): void {
  print(`${bold(review.name)} version ${review.version}`);
  for (const { name, status, pinned, current } of review.tools) {
    print(`  ${PAINT[status](status)} ${safe(name)}`);
    if (status !== "changed" || !current) continue;
    for (const part of ["description", "input_schema", "output_schema"] as const) {
      const [was, now] = [JSON.stringify(pinned[part]), JSON.stringify(current[part])];
      if (was !== now) print(`    ${part}\n      ${red("-")} ${safe(was)}\n      ${green("+")} ${safe(now)}`);
    }
  }
  if (review.changed)
    print(dim(`  pin them as they are now: quarterdeck tools approve ${review.name} --digest ${review.digest}`));
}
