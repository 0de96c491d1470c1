import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import type { Run } from "../contract/runs.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import { approvalLines, print, stateText } from "./output.ts";

function addResolve(root: Command): void {
  root
    .command("resolve <run> <step>")
    .description("say what became of a step in doubt")
    .option("--completed <json>", "it happened; this is its result")
    .option("--failed <message>", "it did not happen")
    .option("--retry", "do it again")
    .option("--note <note>", "why")
    .action(
      async (
        run: string,
        step: string,
        options: { completed?: string; failed?: string; retry?: boolean; note?: string },
        command: Command,
      ) => {
        const globals = globalsOf(command);
        const given = [options.completed !== undefined, options.failed !== undefined, options.retry === true].filter(
          Boolean,
        ).length;
        if (given !== 1)
          throw new AppError("VALIDATION_ERROR", "Give exactly one of --completed, --failed and --retry");
        const note = options.note === undefined ? {} : { note: options.note };
        const body =
          options.completed !== undefined
            ? { outcome: "completed", result: parsed(options.completed), ...note }
            : options.failed !== undefined
              ? { outcome: "failed", message: options.failed, ...note }
              : { outcome: "retry", ...note };
        const path = `/runs/${encodeURIComponent(run)}/steps/${encodeURIComponent(step)}/resolve`;
        show(globals, await clientOf(globals).json<Run>(path, { method: "POST", body }), (value) =>
          print(`${value.run_id} ${stateText(value.state)}`),
        );
      },
    );
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

export function addApprovals(root: Command): void {
  const approvals = root.command("approvals").description("decide on calls that wait for a person");
  approvals
    .command("list")
    .description("list approvals")
    .option("--state <state>", "pending, approved, rejected, expired or all", "pending")
    .action(async (options: { state: string }, command: Command) => {
      const globals = globalsOf(command);
      show(
        globals,
        await clientOf(globals).approvals(options.state === "all" ? undefined : options.state),
        ({ items }) => {
          if (items.length === 0) print(`no ${options.state} approvals`);
          for (const approval of items) print(approvalLines(approval));
        },
      );
    });
  for (const verb of ["approve", "reject"] as const) {
    approvals
      .command(`${verb} <approval>`)
      .description(verb === "approve" ? "allow exactly the call that is shown, once" : "refuse the call")
      .option("--note <note>", "why")
      .action(async (id: string, options: { note?: string }, command: Command) => {
        const globals = globalsOf(command);
        show(globals, await clientOf(globals).decide(id, verb, options.note), (approval) =>
          print(approvalLines(approval)),
        );
      });
  }
  addResolve(root);
}
