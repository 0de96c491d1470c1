// `verify`, `export`, `import`: the journal as evidence, as a file, and as a backup.
import { createWriteStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Command } from "commander";
import { Check } from "typebox/schema";
import { AppError } from "../contract/errors.ts";
import { EVENT_PROOF_FORMAT, EventProof as EventProofSchema } from "../contract/journal-routes.ts";
import type { EventProof } from "../contract/journal-routes.ts";
import { parseJson } from "../kit/json.ts";
import type { Json } from "../kit/json.ts";
import { proofFault } from "../journal/event-proof.ts";
import { readBundle } from "../journal/bundle.ts";
import type { Bundle } from "../journal/bundle.ts";
import { clientOf, globalsOf, show } from "./context.ts";
import type { Globals } from "./context.ts";
import { green, print, red, safe, table } from "./output.ts";
import { encrypted, passphraseOf, readBundleText } from "./sealed-file.ts";

interface VerifyResult {
  runs: number;
  events: number;
  appends: number;
  checkpoints: number;
  faults: string[];
  ok: boolean;
  /** Of a file: the key whose checkpoints vouch for its appends. */
  proven?: { key_id: string; appends: number } | null;
  /** Of a file: artifacts that events name, and that were not there when it was made. */
  missing?: number;
}

function addVerify(root: Command): void {
  root
    .command("verify [run]")
    .description("verify the hash chain of one run, of everything (--all), or of an export file (--file)")
    .option("--all", "every chain and checkpoint, against the witness")
    .option("--file <file>", "an export file, or the proof of one event; needs no server")
    .option("--key <id>", "with --file: the key that must have signed (ed25519:...)")
    .option("--passphrase-file <file>", "passphrase of an encrypted file; else QUARTERDECK_PASSPHRASE")
    .action(async (run: string | undefined, options: VerifyOptions, command: Command) => {
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
          : verifyFile(await readBundleText(options.file, options.passphraseFile), options.key);
      if ("seal" in result) return showProof(globals, result);
      show(globals, result, (value) => {
        const counts = `${value.runs} runs, ${value.events} events, ${value.checkpoints} checkpoints`;
        print(value.ok ? `${green("verified")} ${counts}` : `${red("NOT VERIFIED")} ${counts}`);
        if (value.proven)
          print(
            `  ${value.proven.appends} of ${value.appends} appends lead to checkpoints signed by ${value.proven.key_id}`,
          );
        if (value.missing) print(`  ${value.missing} artifacts were not there when it was made`);
        for (const fault of value.faults) print(`  ${fault}`);
      });
      if (!result.ok) process.exitCode = 1;
    });
}

/** What a proof says, once it holds. */
interface ProvenEvent {
  readonly ok: boolean;
  readonly fault: string | null;
  readonly run_id: string;
  readonly event: Json;
  readonly seal: EventProof["seal"];
}

function showProof(globals: Globals, result: ProvenEvent): void {
  show(globals, result, ({ event, fault, ok, run_id, seal }) => {
    print(
      `${ok ? green("proven") : red("NOT PROVEN")} for ${run_id}, sealed by ${seal.key_id}${fault ? `: ${fault}` : ""}`,
    );
    if (ok) print(safe(JSON.stringify(event)));
  });
  if (!result.ok) process.exitCode = 1;
}

function verifyProof(proof: EventProof, key: string | undefined): ProvenEvent {
  const wrong = key !== undefined && proof.seal.key_id !== key ? `its key is ${proof.seal.key_id}, not ${key}` : null;
  const fault = wrong ?? proofFault(proof);
  const { run_id, seal } = proof;
  return { ok: fault === null, fault, run_id, event: fault === null ? parseJson(proof.event) : null, seal };
}

/** A proof is one JSON object; an export has a line for each of its parts. */
function proofIn(text: string): EventProof | null {
  if (!text.includes(EVENT_PROOF_FORMAT)) return null;
  try {
    const value: unknown = JSON.parse(text);
    return Check(EventProofSchema, value) ? value : null;
  } catch {
    return null;
  }
}

function verifyFile(text: string, key: string | undefined): VerifyResult | ProvenEvent {
  const proof = proofIn(text);
  if (proof) return verifyProof(proof, key);
  const bundle = readBundle(text);
  const { proven } = bundle;
  const faults: string[] = [];
  if (key !== undefined && proven?.key_id !== key)
    faults.push(
      `${key} vouches for nothing in this file; ${proven ? `its key is ${proven.key_id}` : "it has no proofs"}`,
    );
  if (key !== undefined && proven && proven.appends < count(bundle, "row"))
    faults.push(`${count(bundle, "row") - proven.appends} appends have no proof`);
  return {
    runs: bundle.rows.size,
    events: bundle.events,
    appends: count(bundle, "row"),
    checkpoints: count(bundle, "checkpoint"),
    faults,
    ok: faults.length === 0,
    proven,
    missing: count(bundle, "missing"),
  };
}

function count(bundle: Bundle, type: string): number {
  return bundle.lines.filter((line) => line["type"] === type).length;
}

interface VerifyOptions {
  all?: boolean;
  file?: string;
  key?: string;
  passphraseFile?: string;
}

interface ExportOptions {
  all?: boolean;
  output: string;
  profile: string;
  encrypt?: boolean;
  passphraseFile?: string;
}

async function exportFile(run: string | undefined, options: ExportOptions, command: Command): Promise<void> {
  const globals = globalsOf(command);
  if ((run === undefined) === (options.all !== true)) throw new AppError("VALIDATION_ERROR", "Give a run, or --all");
  // Before anything is written: without it there would be a file that nobody wanted.
  const passphrase = options.encrypt === true ? await passphraseOf(options.passphraseFile) : null;
  const query = new URLSearchParams({ profile: options.profile, ...(run === undefined ? {} : { run_id: run }) });
  const response = await clientOf(globals).fetch(`/journal/export?${query.toString()}`);
  if (!response.body) return;
  const source =
    passphrase === null
      ? Readable.fromWeb(response.body as never)
      : Readable.from([encrypted(await response.text(), passphrase)]);
  const isOutput = options.output === "-";
  await pipeline(source, isOutput ? process.stdout : createWriteStream(options.output, { mode: 0o600 }), {
    end: !isOutput,
  });
  if (!isOutput) show(globals, { file: options.output }, (value) => print(`written to ${value.file}`));
}

async function proveOne(run: string, seq: string, { output }: { output?: string }, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const path = `/runs/${encodeURIComponent(run)}/events/${encodeURIComponent(seq)}/proof`;
  const text = `${JSON.stringify(await clientOf(globals).json<EventProof>(path), null, 2)}\n`;
  if (output === undefined || output === "-") return void process.stdout.write(text);
  await writeFile(output, text);
  show(globals, { file: output }, ({ file }) =>
    print(`written to ${file}; check it with: quarterdeck verify --file ${file}`),
  );
}

async function importFile(
  file: string,
  { format, passphraseFile }: { format?: string; passphraseFile?: string },
  command: Command,
): Promise<void> {
  const globals = globalsOf(command);
  const client = clientOf(globals);
  const raw = { type: "application/x-ndjson", bytes: await readBundleText(file, passphraseFile) };
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
    .option("--profile <profile>", "full, or minimal: without artifacts", "full")
    .option("--encrypt", "under a passphrase")
    .option("--passphrase-file <file>", "passphrase; else QUARTERDECK_PASSPHRASE")
    .action(exportFile);
  root
    .command("prove <run> <seq>")
    .description("show that one event stands in a run that ended, and nothing else of the run")
    .option("-o, --output <file>", "file to write; else it is printed")
    .action(proveOne);
  root
    .command("import <file>")
    .description("import an export file, or recorded runs of another system (--format)")
    .option(
      "--format <format>",
      "tau-bench, tau2, openai-chat, anthropic-messages, swe-agent, openhands, langfuse, atif or mcp-session",
    )
    .option("--passphrase-file <file>", "passphrase of an encrypted file; else QUARTERDECK_PASSPHRASE")
    .action(importFile);
}
