// Content-addressed files: <root>/<tenant>/<2 hex>/<62 hex>, with `.gz` behind it where compressing saved something. Written to
// a temporary name, synced, renamed, folder synced: a name that exists always has its whole content. Read back, the digest,
// which is of the content itself, is checked.
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { AppError } from "../../contract/errors.ts";
import { LIMITS } from "../../contract/limits.ts";
import type { BlobStore } from "../../contract/ports.ts";
import { errnoOf, ifThere } from "../../kit/errno.ts";
import { decodeId } from "../../kit/ids.ts";

const PACKED = ".gz";
/** Below this a file takes a block of the disk anyway. */
const PACK_BYTES_MIN = 4 * 1024;
/** Fast: what is written is waited for. */
const PACK_LEVEL = 3;
const DIGEST = /^sha256:([0-9a-f]{2})([0-9a-f]{62})$/;

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function isThere(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}

/** A disk without room is no fault of the program, and repeating helps once there is room again. */
function fullDiskError(error: unknown): unknown {
  if (!["ENOSPC", "EDQUOT"].includes(errnoOf(error))) return error;
  const message = "There is no room on the disk for artifacts; make room, then repeat";
  return new AppError("DEPENDENCY_UNAVAILABLE", message, { details: { dependency: "artifacts" }, cause: error });
}

/** Compresses a file beside itself; null when that saves less than a tenth. */
async function pack(file: string, size: number): Promise<string | null> {
  const packed = `${file}${PACKED}`;
  await pipeline(createReadStream(file), createGzip({ level: PACK_LEVEL }), createWriteStream(packed, { flush: true }));
  const { size: after } = await stat(packed);
  if (after < size * 0.9) return packed;
  await rm(packed, { force: true });
  return null;
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
    const temporary = path.join(folder, `.incoming-${randomUUID()}`);
    const handle = await mkdir(folder, { recursive: true }).then(
      () => open(temporary, "wx"),
      (error: unknown) => Promise.reject(fullDiskError(error)),
    );
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
        // Not `write`: on a disk that is nearly full it takes a part, and says so in its result alone.
        await handle.appendFile(chunk);
      }
      await handle.sync();
      await handle.close();
      const digest = `sha256:${hash.digest("hex")}`;
      // The same content is one file, however often it comes.
      if (await this.file(tenant_id, digest)) await rm(temporary, { force: true });
      else await this.keep(temporary, this.place(tenant_id, digest), size);
      await syncFolder(folder);
      return { digest, size };
    } catch (error) {
      await handle.close().catch(() => undefined);
      for (const file of [temporary, temporary + PACKED]) await rm(file, { force: true });
      throw fullDiskError(error);
    }
  }

  private async keep(temporary: string, target: string, size: number): Promise<void> {
    await mkdir(path.dirname(target), { recursive: true });
    const packed = size >= PACK_BYTES_MIN ? await pack(temporary, size) : null;
    await rename(packed ?? temporary, packed === null ? target : target + PACKED);
    if (packed !== null) await rm(temporary, { force: true });
    await syncFolder(path.dirname(target));
  }

  /** The file that holds an artifact; null when there is none. */
  private async file(tenant_id: string, digest: string): Promise<{ name: string; packed: boolean } | null> {
    const name = this.place(tenant_id, digest);
    for (const packed of [false, true]) {
      const at = packed ? name + PACKED : name;
      if (await isThere(at)) return { name: at, packed };
    }
    return null;
  }

  async get(tenant_id: string, digest: string): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.getStream(tenant_id, digest)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  /** Streams a blob; the digest is checked at the end, so a reader must wait for the end before it trusts. */
  async *getStream(tenant_id: string, digest: string): AsyncIterable<Uint8Array> {
    const file = await this.file(tenant_id, digest);
    if (!file) throw new AppError("NOT_FOUND", `There is no artifact ${digest}`, { details: { digest } });
    const hash = createHash("sha256");
    const corrupt = (cause?: unknown) => {
      const details = { digest };
      return new AppError("ARTIFACT_CORRUPT", `Artifact ${digest} holds other bytes`, { details, cause });
    };
    const source = createReadStream(file.name);
    const content = file.packed ? source.pipe(createGunzip()) : source;
    source.once("error", (error) => content.destroy(error));
    try {
      for await (const chunk of content as AsyncIterable<Buffer>) {
        hash.update(chunk);
        yield chunk;
      }
    } catch (error) {
      // What cannot be unpacked was changed on the disk.
      throw file.packed ? corrupt(error) : error;
    } finally {
      source.destroy();
    }
    if (`sha256:${hash.digest("hex")}` !== digest) throw corrupt();
  }

  async has(tenant_id: string, digest: string): Promise<boolean> {
    return (await this.file(tenant_id, digest)) !== null;
  }

  async *list(tenant_id: string): AsyncIterable<string> {
    const folder = path.join(this.root, tenant_id);
    for (const first of (await ifThere(readdir(folder), [] as string[])).toSorted()) {
      if (!/^[0-9a-f]{2}$/.test(first)) continue;
      for (const rest of (await readdir(path.join(folder, first))).toSorted())
        yield `sha256:${first}${rest.replace(PACKED, "")}`;
    }
  }
}
