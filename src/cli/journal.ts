// `verify`, `export`, `import`: the journal as evidence, as a file, and as a backup.
import { createWriteStream } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Command } from "commander";
import { AppError } from "../contract/errors.ts";
import { readBundle } from "../journal/bundle.ts";
import { readText } from "./apply.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import { green, print, red, table } from "./output.ts";

interface VerifyResult {
  runs: number;
  events: number;
  appends: number;
  checkpoints: number;
  faults: string[];
  ok: boolean;
}

function addVerify(root: Command): void {
  root
    .command("verify [run]")
    .description("verify the hash chain of one run, of everything (--all), or of an export file (--file)")
    .option("--all", "every chain and checkpoint, against the witness")
    .option("--file <file>", "an export file; needs no server")
    .action(async (run: string | undefined, options: { all?: boolean; file?: string }, command: Command) => {
      const globals = globalsOf(command);
      if ([run !== undefined, options.all === true, options.file !== undefined].filter(Boolean).length !== 1) {
        throw new AppError("VALIDATION_ERROR", "Give a run, or --all, or --file FILE");
      }
      const result =
        options.file === undefined
          ? await clientOf(globals).json<VerifyResult>("/journal/verify", {
              method: "POST",
              body: run === undefined ? {} : { run_id: run },
            })
          : verifyFile(await readText(options.file));
      show(globals, result, (value) => {
        const counts = `${value.runs} runs, ${value.events} events, ${value.checkpoints} checkpoints`;
        print(value.ok ? `${green("verified")} ${counts}` : `${red("NOT VERIFIED")} ${counts}`);
        for (const fault of value.faults) print(`  ${fault}`);
      });
      if (!result.ok) process.exitCode = 1;
    });
}

function verifyFile(text: string): VerifyResult {
  const bundle = readBundle(text);
  const count = (type: string) => bundle.lines.filter((line) => line["type"] === type).length;
  return {
    runs: bundle.rows.size,
    events: bundle.events,
    appends: count("row"),
    checkpoints: count("checkpoint"),
    faults: [],
    ok: true,
  };
}

async function importFile(file: string, format: string | undefined, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const client = clientOf(globals);
  const raw = { type: "application/x-ndjson", bytes: await readText(file) };
  if (format !== undefined) {
    const result = await client.json<{ runs: { run_id: string; key: string; events: number; fidelity: string }[] }>(
      `/journal/import/${encodeURIComponent(format)}`,
      { method: "POST", raw },
    );
    return show(globals, result, ({ runs }) =>
      print(
        table(
          ["RUN", "KEY", "EVENTS", "FIDELITY"],
          runs.map((run) => [run.run_id, run.key, String(run.events), run.fidelity]),
        ),
      ),
    );
  }
  const result = await client.json<{ runs: number; events: number; artifacts: number; skipped: number }>(
    "/journal/import",
    { method: "POST", raw },
  );
  show(globals, result, (value) =>
    print(
      `imported ${value.runs} runs, ${value.events} events, ${value.artifacts} artifacts; ${value.skipped} were here already`,
    ),
  );
}

export function addJournal(root: Command): void {
  addVerify(root);
  root
    .command("export [run]")
    .description("export one run, or everything as a backup (--all)")
    .option("--all", "everything")
    .requiredOption("-o, --output <file>", "file to write, or -")
    .action(async (run: string | undefined, options: { all?: boolean; output: string }, command: Command) => {
      const globals = globalsOf(command);
      if ((run === undefined) === (options.all !== true))
        throw new AppError("VALIDATION_ERROR", "Give a run, or --all");
      const response = await clientOf(globals).fetch(
        `/journal/export${run === undefined ? "" : `?run_id=${encodeURIComponent(run)}`}`,
      );
      if (!response.body) return;
      const source = Readable.fromWeb(response.body as never);
      await pipeline(source, options.output === "-" ? process.stdout : createWriteStream(options.output), {
        end: options.output !== "-",
      });
      if (options.output !== "-") show(globals, { file: options.output }, (value) => print(`written to ${value.file}`));
    });
  root
    .command("import <file>")
    .description("import an export file, or recorded runs of another system (--format)")
    .option(
      "--format <format>",
      "tau-bench, tau2, openai-chat, anthropic-messages, swe-agent, openhands, langfuse or atif",
    )
    .action((file: string, options: { format?: string }, command: Command) =>
      importFile(file, options.format, command),
    );
}
