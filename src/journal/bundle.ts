// Export files: one JSON document a line. A header, registry items, rows of runs with their chain values, summaries,
// approvals, budgets, artifacts, checkpoints, and an end line with the digest of all before it. The same file verifies
// offline, moves one run, and is the backup of a whole installation.
import { createHash } from "node:crypto";
import { isObject, parseJson } from "../kit/json.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { atOnce } from "../kit/turn.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import type { AppendRow } from "../contract/journal.ts";
import { checkProofs } from "./proofs.ts";
import type { Proven } from "./proofs.ts";
import { verifying } from "./verify.ts";

export const EXPORT_FORMAT = "quarterdeck/export/v1";

/** Puts lines into a file's form: adds the end line with count and digest. */
export async function* sealed(lines: AsyncIterable<JsonObject>): AsyncIterable<string> {
  const hash = createHash("sha256");
  let count = 0;
  for await (const line of lines) {
    const text = `${canonicalJson(line)}\n`;
    hash.update(text);
    count += 1;
    yield text;
  }
  yield `${canonicalJson({ type: "end", lines: count, digest: `sha256:${hash.digest("hex")}` })}\n`;
}

export function rowLine(row: AppendRow): JsonObject {
  return {
    type: "row",
    tenant_id: row.tenant_id,
    run_id: row.run_id,
    first_seq: row.first_seq,
    last_seq: row.last_seq,
    body: row.body.toString("utf8"),
    chain: row.chain.toString("hex"),
  };
}

const invalid = (line: number, why: string) =>
  new AppError("IMPORT_INVALID", `line ${line}: ${why}`, { errors: [{ pointer: "", line, message: why }] });

function rowOf(line: JsonObject): AppendRow {
  return {
    tenant_id: String(line["tenant_id"]),
    run_id: String(line["run_id"]),
    first_seq: Number(line["first_seq"]),
    last_seq: Number(line["last_seq"]),
    body: Buffer.from(String(line["body"])),
    chain: Buffer.from(String(line["chain"]), "hex"),
  };
}

/** A read and verified export. */
export interface Bundle {
  readonly header: JsonObject;
  readonly rows: ReadonlyMap<string, readonly AppendRow[]>;
  readonly lines: readonly JsonObject[];
  readonly events: number;
  /** What its proofs say, where it has some. */
  readonly proven: Proven | null;
}

/** Reads and verifies a whole file: its digest, each chain, each artifact. Throws IMPORT_INVALID with the line. */
export function readBundle(text: string): Bundle {
  return atOnce(readingBundle(text));
}

/** The same, line by line. */
export function* readingBundle(text: string): Generator<void, Bundle> {
  const parts = text.split("\n");
  if (parts.at(-1) === "") parts.pop();
  const hash = createHash("sha256");
  const lines: JsonObject[] = [];
  for (const [index, part] of parts.entries()) {
    const value = parsed(part, index + 1);
    if (index < parts.length - 1) hash.update(`${part}\n`);
    lines.push(value);
    yield;
  }
  const [header] = lines;
  const end = lines.at(-1);
  if (header?.["type"] !== "header" || header["format"] !== EXPORT_FORMAT)
    throw invalid(1, `this is no export file of format ${EXPORT_FORMAT}`);
  if (end?.["type"] !== "end") throw invalid(parts.length, "the file ends too early");
  const rows = new Map<string, AppendRow[]>();
  for (const line of lines) {
    if (line["type"] !== "row") continue;
    const row = rowOf(line);
    const known = rows.get(row.run_id);
    if (known) known.push(row);
    else rows.set(row.run_id, [row]);
  }
  let events = 0;
  for (const list of rows.values()) {
    const result = yield* verifying(list);
    if ("fault" in result)
      throw invalid(
        lineOf(lines, result.run_id, result.seq),
        `run ${result.run_id}, seq ${result.seq}: ${result.fault}`,
      );
    events += result.events;
  }
  checkArtifacts(lines);
  const proven = checkProofs(lines, rows);
  if (proven && "fault" in proven) throw invalid(proven.at + 1, proven.fault);
  if (end["digest"] !== `sha256:${hash.digest("hex")}`)
    throw invalid(parts.length, "the digest does not fit the lines before it");
  return { header, rows, lines: lines.slice(1, -1), events, proven };
}

function parsed(text: string, line: number): JsonObject {
  let value: Json;
  try {
    value = parseJson(text);
  } catch (error) {
    throw invalid(line, messageOf(error));
  }
  if (!isObject(value)) throw invalid(line, "a line is a JSON object");
  if (canonicalJson(value) !== text) throw invalid(line, "the line is not in its canonical form");
  return value;
}

function lineOf(lines: readonly JsonObject[], run_id: string, seq: number): number {
  const at = lines.findIndex(
    (line) => line["type"] === "row" && line["run_id"] === run_id && Number(line["last_seq"]) >= seq,
  );
  return at + 1;
}

function checkArtifacts(lines: readonly JsonObject[]): void {
  for (const [index, line] of lines.entries()) {
    if (line["type"] !== "artifact") continue;
    const digest = `sha256:${createHash("sha256")
      .update(Buffer.from(String(line["bytes"]), "base64"))
      .digest("hex")}`;
    if (digest !== line["digest"]) throw invalid(index + 1, `artifact ${String(line["digest"])} holds other bytes`);
  }
}
