// Artifacts of jobs over HTTP, for workers that have no storage of their own. The digest is checked on arrival.
import { AppError } from "../contract/errors.ts";
import type { BlobStore } from "../contract/ports.ts";
import { digestOf } from "../kit/hash.ts";
import type { WorkerClient } from "./worker-client.ts";

export class RemoteArtifacts implements Pick<BlobStore, "get" | "put"> {
  private readonly client: WorkerClient;

  constructor(client: WorkerClient) {
    this.client = client;
  }

  put(tenant_id: string, bytes: Uint8Array): Promise<string> {
    return this.client.putArtifact(tenant_id, bytes);
  }

  async get(tenant_id: string, digest: string): Promise<Buffer> {
    const bytes = await this.client.getArtifact(tenant_id, digest);
    if (digestOf(bytes) !== digest) throw new AppError("ARTIFACT_CORRUPT", `${digest} arrived with other bytes`);
    return bytes;
  }
}
