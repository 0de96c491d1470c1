// Encrypted files: one line of JSON that says how, then AES-256-GCM of the content under a key made of a passphrase (scrypt, RFC
// 7914). The first line is authenticated too, so nothing of the file can be changed unnoticed.
import { createCipheriv, createDecipheriv, randomBytes, scryptSync } from "node:crypto";
import { readFile } from "node:fs/promises";
import { AppError } from "../contract/errors.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";

const FORMAT = "quarterdeck/sealed/v1";
const KEY_BYTES = 32;
const TAG_BYTES = 16;
/** About 0.1 s and 64 MB: dear to who guesses. */
const COST = { N: 65_536, r: 8, p: 1 };
const COST_MAX = { N: 1_048_576, r: 16, p: 4 };
const PASSPHRASE_VARIABLE = "QUARTERDECK_PASSPHRASE";

function keyOf(passphrase: string, salt: Buffer, cost: { N: number; r: number; p: number }): Buffer {
  return scryptSync(passphrase, salt, KEY_BYTES, { ...cost, maxmem: 256 * cost.N * cost.r });
}

/** The passphrase, from a file or the environment; never from the command line, where others can see it. */
export async function passphraseOf(file: string | undefined): Promise<string> {
  const text =
    file === undefined ? (process.env[PASSPHRASE_VARIABLE] ?? "") : await readFile(file, "utf8").catch(() => "");
  const passphrase = text.replace(/\r?\n$/, "");
  if (passphrase !== "") return passphrase;
  const where = file === undefined ? `${PASSPHRASE_VARIABLE} is not set` : `${file} cannot be read or is empty`;
  throw new AppError(
    "VALIDATION_ERROR",
    `A passphrase is needed: ${where}; set ${PASSPHRASE_VARIABLE} or give --passphrase-file FILE`,
  );
}

export function encrypted(text: string, passphrase: string): Buffer {
  const [salt, iv] = [randomBytes(16), randomBytes(12)];
  const head = {
    cipher: "aes-256-gcm",
    format: FORMAT,
    iv: iv.toString("hex"),
    kdf: "scrypt",
    ...COST,
    salt: salt.toString("hex"),
  };
  const first = Buffer.from(`${JSON.stringify(head)}\n`);
  const cipher = createCipheriv("aes-256-gcm", keyOf(passphrase, salt, COST), iv);
  cipher.setAAD(first);
  return Buffer.concat([first, cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]);
}

function headOf(bytes: Buffer): { head: JsonObject; length: number } | null {
  const end = bytes.subarray(0, 1_024).indexOf("\n");
  if (end < 0 || bytes[0] !== "{".charCodeAt(0)) return null;
  try {
    const head = parseJson(bytes.subarray(0, end).toString("utf8"));
    return isObject(head) && head["format"] === FORMAT ? { head, length: end + 1 } : null;
  } catch {
    return null;
  }
}

/** True for what `encrypted` made. */
export function isEncrypted(bytes: Buffer): boolean {
  return headOf(bytes) !== null;
}

/** Throws IMPORT_INVALID when the passphrase is wrong or one byte of the file has changed; the two cannot be told apart. */
export function decrypted(bytes: Buffer, passphrase: string): string {
  const found = headOf(bytes);
  if (!found) throw new AppError("IMPORT_INVALID", "this is no encrypted file");
  const { head, length } = found;
  const cost = { N: Number(head["N"]), r: Number(head["r"]), p: Number(head["p"]) };
  const fits = (["N", "r", "p"] as const).every((name) => cost[name] >= 1 && cost[name] <= COST_MAX[name]);
  if (!fits) throw new AppError("IMPORT_INVALID", "line 1: the cost of the key is not one that is used");
  try {
    const salt = Buffer.from(String(head["salt"]), "hex");
    const iv = Buffer.from(String(head["iv"]), "hex");
    const decipher = createDecipheriv("aes-256-gcm", keyOf(passphrase, salt, cost), iv);
    decipher.setAAD(bytes.subarray(0, length));
    decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
    return Buffer.concat([decipher.update(bytes.subarray(length, -TAG_BYTES)), decipher.final()]).toString("utf8");
  } catch (cause) {
    throw new AppError("IMPORT_INVALID", "the passphrase is wrong, or the file was changed", { cause });
  }
}

/** Text of a file, encrypted or not. */
export async function readBundleText(file: string, passphrase_file: string | undefined): Promise<string> {
  const bytes = await readFile(file === "-" ? "/dev/stdin" : file).catch((cause) => {
    throw new AppError("VALIDATION_ERROR", `The file ${file} cannot be read`, { cause });
  });
  return isEncrypted(bytes) ? decrypted(bytes, await passphraseOf(passphrase_file)) : bytes.toString("utf8");
}
