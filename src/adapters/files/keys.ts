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
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { sha256Hex } from "../../kit/hash.ts";

async function readOrMake(file: string, make: () => string | Buffer): Promise<Buffer> {
  const existing = await readFile(file).catch(() => null);
  if (existing) return existing;
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(file, make(), { mode: 0o600, flag: "wx" });
  return readFile(file);
}

export interface FileSigner {
  readonly key_id: string;
  readonly public_key: string;
  sign(bytes: Uint8Array): Buffer;
  verify(bytes: Uint8Array, signature: Uint8Array): boolean;
}

/** The checkpoint key of a data folder. */
export async function loadSigner(folder: string): Promise<FileSigner> {
  const pem = await readOrMake(path.join(folder, "checkpoint.pem"), () =>
    generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }),
  );
  const key = createPrivateKey(pem);
  const publicKey = createPublicKey(key);
  const public_key = publicKey.export({ type: "spki", format: "pem" }).toString();
  return {
    key_id: `ed25519:${sha256Hex(public_key).slice(0, 16)}`,
    public_key,
    sign: (bytes) => sign(null, bytes, key),
    verify: (bytes, signature) => verify(null, bytes, publicKey, signature),
  };
}

/** Derives each tenant's key from one secret of the installation (HKDF, RFC 5869). */
export async function loadTenantKeys(folder: string): Promise<(tenant_id: string) => Uint8Array> {
  const secret = await readOrMake(path.join(folder, "tenants.key"), () => randomBytes(32));
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

/** An append-only file beside the database. */
export class FileWitness {
  private readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  async record(line: string): Promise<void> {
    await mkdir(path.dirname(this.file), { recursive: true });
    const handle = await open(this.file, "a", 0o600);
    try {
      await handle.write(`${line}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  async lines(): Promise<string[]> {
    const text = await readFile(this.file, "utf8").catch(() => "");
    return text.split("\n").filter((line) => line !== "");
  }
}
