// Artifacts of jobs over HTTP, for workers that have no storage of their own. The digest is checked on arrival.
import { AppError } from "../contract/errors.ts";
import type { BlobStore } from "../contract/ports.ts";
import { digestOf } from "../kit/hash.ts";
import type { Client } from "./client.ts";

export class RemoteArtifacts implements Pick<BlobStore, "get" | "put"> {
  private readonly client: Client;

  constructor(client: Client) {
    this.client = client;
  }

  async put(tenant_id: string, bytes: Uint8Array): Promise<string> {
    const path = `/worker/artifacts/${encodeURIComponent(tenant_id)}`;
    const raw = { type: "application/octet-stream", bytes };
    const { digest } = await this.client.json<{ digest: string }>(path, { method: "POST", raw });
    return digest;
  }

  async get(tenant_id: string, digest: string): Promise<Buffer> {
    const path = `/worker/artifacts/${encodeURIComponent(tenant_id)}/${encodeURIComponent(digest)}`;
    const bytes = Buffer.from(await (await this.client.fetch(path)).arrayBuffer());
    if (digestOf(bytes) !== digest) throw new AppError("ARTIFACT_CORRUPT", `${digest} arrived with other bytes`);
    return bytes;
  }
}
