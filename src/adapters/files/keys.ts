// Keys outside the database: the checkpoint key (Ed25519) and the secret that tenants' keys are derived from. Made at the
// first start, readable by the owner alone. And the witness file.
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hkdfSync,
  randomBytes,
  sign,
  verify,
} from "node:crypto";
import type { KeyObject } from "node:crypto";
import { link, mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import path from "node:path";
import { AppError } from "../../contract/errors.ts";
import { errnoOf, ifThere } from "../../kit/errno.ts";
import { sha256Hex } from "../../kit/hash.ts";

const SECRET_BYTES = 32;

/** Reads a key, or makes it: whole or not at all, and of two programs that make it at once one wins. */
async function readOrMake(file: string, make: () => string | Buffer): Promise<Buffer> {
  const existing = await ifThere(readFile(file), null);
  if (existing) return existing;
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${randomBytes(6).toString("hex")}`;
  try {
    await writeFile(temporary, make(), { mode: 0o600, flag: "wx", flush: true });
    await link(temporary, file).catch((error: unknown) => {
      if (errnoOf(error) !== "EEXIST") throw error;
    });
  } finally {
    await rm(temporary, { force: true });
  }
  return readFile(file);
}

function damaged(file: string, cause?: unknown): AppError {
  const message = `${file} is no key: it was changed or is not whole. Put it back from a backup; what was sealed with it cannot be checked without`;
  return new AppError("CONFIG_INVALID", message, { details: { file }, cause });
}

export interface FileSigner {
  readonly key_id: string;
  readonly public_key: string;
  sign(bytes: Uint8Array): Buffer;
  verify(bytes: Uint8Array, signature: Uint8Array): boolean;
}

function privateKeyOf(pem: Buffer, file: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    throw damaged(file, error);
  }
}

/** The checkpoint key of a data folder. Throws CONFIG_INVALID when it is damaged. */
export async function loadSigner(folder: string): Promise<FileSigner> {
  const file = path.join(folder, "checkpoint.pem");
  const pem = await readOrMake(file, () =>
    generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }),
  );
  const key = privateKeyOf(pem, file);
  const publicKey = createPublicKey(key);
  const public_key = publicKey.export({ type: "spki", format: "pem" }).toString();
  return {
    key_id: `ed25519:${sha256Hex(public_key).slice(0, 16)}`,
    public_key,
    sign: (bytes) => sign(null, bytes, key),
    verify: (bytes, signature) => verify(null, bytes, publicKey, signature),
  };
}

/** Derives each tenant's key from one secret of the installation (HKDF, RFC 5869). Throws CONFIG_INVALID when it is damaged. */
export async function loadTenantKeys(folder: string): Promise<(tenant_id: string) => Uint8Array> {
  const file = path.join(folder, "tenants.key");
  const secret = await readOrMake(file, () => randomBytes(SECRET_BYTES));
  // An empty or short secret would give keys that anybody can guess.
  if (secret.byteLength !== SECRET_BYTES) throw damaged(file);
  const known = new Map<string, Uint8Array>();
  return (tenant_id) => {
    let key = known.get(tenant_id);
    if (!key) {
      key = new Uint8Array(hkdfSync("sha256", secret, "", `quarterdeck/tenant/${tenant_id}`, 32));
      known.set(tenant_id, key);
    }
    return key;
  };
}

async function endsOpen(handle: FileHandle): Promise<boolean> {
  const { size } = await handle.stat();
  if (size === 0) return false;
  const { buffer } = await handle.read({ buffer: Buffer.alloc(1), position: size - 1 });
  return buffer[0] !== 0x0a;
}

/** An append-only file beside the database. */
export class FileWitness {
  private readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  async record(line: string): Promise<void> {
    await mkdir(path.dirname(this.file), { recursive: true });
    const handle = await open(this.file, "a+", 0o600);
    try {
      // A line that is torn, because the disk was full or the process died, does not take the next one with it.
      await handle.appendFile(`${(await endsOpen(handle)) ? "\n" : ""}${line}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  async lines(): Promise<string[]> {
    const text = await ifThere(readFile(this.file, "utf8"), "");
    return text.split("\n").filter((line) => line !== "");
  }
}
