// Content-addressed files: <root>/<tenant>/<2 hex>/<62 hex>. Written to a temporary name, synced, renamed, folder synced:
// a name that exists always has its whole content. Read back, the digest is checked.
import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { AppError } from "../../contract/errors.ts";
import { LIMITS } from "../../contract/limits.ts";
import type { BlobStore } from "../../contract/ports.ts";
import { decodeId } from "../../kit/ids.ts";

const DIGEST = /^sha256:([0-9a-f]{2})([0-9a-f]{62})$/;

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export class FileBlobStore implements BlobStore {
  private readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  private place(tenant_id: string, digest: string): string {
    const match = DIGEST.exec(digest);
    if (!match || !decodeId("ten", tenant_id)) throw new AppError("NOT_FOUND", `${digest} is no artifact`);
    return path.join(this.root, tenant_id, match[1] ?? "", match[2] ?? "");
  }

  async put(tenant_id: string, bytes: Uint8Array): Promise<string> {
    async function* once() {
      yield bytes;
    }
    return (await this.putStream(tenant_id, once())).digest;
  }

  async putStream(
    tenant_id: string,
    source: AsyncIterable<Uint8Array>,
    bytes_max: number = LIMITS.artifact_bytes_max,
  ): Promise<{ digest: string; size: number }> {
    const folder = path.join(this.root, tenant_id);
    await mkdir(folder, { recursive: true });
    const temporary = path.join(folder, `.incoming-${randomUUID()}`);
    const handle = await open(temporary, "wx");
    const hash = createHash("sha256");
    let size = 0;
    try {
      for await (const chunk of source) {
        size += chunk.byteLength;
        if (size > bytes_max) {
          throw new AppError("PAYLOAD_TOO_LARGE", `An artifact is larger than ${bytes_max} bytes`, {
            details: { limit: "artifact_bytes_max" },
          });
        }
        hash.update(chunk);
        await handle.write(chunk);
      }
      await handle.sync();
    } catch (error) {
      await handle.close();
      await rm(temporary, { force: true });
      throw error;
    }
    await handle.close();
    const digest = `sha256:${hash.digest("hex")}`;
    const target = this.place(tenant_id, digest);
    await mkdir(path.dirname(target), { recursive: true });
    await rename(temporary, target);
    await syncFolder(path.dirname(target));
    await syncFolder(folder);
    return { digest, size };
  }

  async get(tenant_id: string, digest: string): Promise<Buffer> {
    const bytes = await readFile(this.place(tenant_id, digest)).catch((cause) => {
      throw new AppError("NOT_FOUND", `There is no artifact ${digest}`, { details: { digest }, cause });
    });
    const found = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
    if (found !== digest) {
      throw new AppError("ARTIFACT_CORRUPT", `Artifact ${digest} holds other bytes (${found})`, {
        details: { digest, found },
      });
    }
    return bytes;
  }

  /** Streams a blob; the digest is checked at the end, so a reader must wait for the end before it trusts. */
  async *getStream(tenant_id: string, digest: string): AsyncIterable<Uint8Array> {
    const file = this.place(tenant_id, digest);
    if (!(await this.has(tenant_id, digest)))
      throw new AppError("NOT_FOUND", `There is no artifact ${digest}`, { details: { digest } });
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      yield chunk;
    }
    if (`sha256:${hash.digest("hex")}` !== digest)
      throw new AppError("ARTIFACT_CORRUPT", `Artifact ${digest} holds other bytes`);
  }

  async has(tenant_id: string, digest: string): Promise<boolean> {
    return stat(this.place(tenant_id, digest)).then(
      () => true,
      () => false,
    );
  }

  async *list(tenant_id: string): AsyncIterable<string> {
    const folder = path.join(this.root, tenant_id);
    for (const first of (await readdir(folder).catch((): string[] => [])).sort()) {
      if (!/^[0-9a-f]{2}$/.test(first)) continue;
      for (const rest of (await readdir(path.join(folder, first))).toSorted()) yield `sha256:${first}${rest}`;
    }
  }
}
