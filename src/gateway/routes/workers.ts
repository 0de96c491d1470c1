import { decodeId } from "../../kit/ids.ts";
import { AppError } from "../../contract/errors.ts";
import type { HeartbeatRequest, LeaseRequest, ProgressRequest, ResultsRequest } from "../../contract/workers.ts";
import type { Handlers } from "../handlers.ts";

/** Which tenant a worker's artifact belongs to: the job says so, and it must be an id. */
export function tenantOf(params: Record<string, string>): string {
  const tenant = params["tenant"] ?? "";
  if (!decodeId("ten", tenant)) throw new AppError("NOT_FOUND", `${tenant} is no tenant`);
  return tenant;
}

export const workerHandlers = {
  listWorkers: async ({ services }) => ({ items: services.workers.list() }),
  mintWorker: ({ services, request }) => {
    const body = request.body as { name: string; labels?: string[] };
    return services.workers.mint(request.caller.principal, body.name, body.labels ?? []);
  },
  revokeWorker: ({ services, request }) =>
    services.workers.revoke(request.caller.principal, request.params["name"] ?? ""),
  drainWorker: ({ services, request }) => services.workers.drain(request.params["name"] ?? ""),
  getQueues: ({ services, request }) => services.workers.queues(request.caller.tenant_id),
  listShards: async ({ services }) => ({ items: await services.shards() }),
  leaseJobs: ({ services, request }) =>
    services.workers.lease(request.caller.principal, request.body as unknown as LeaseRequest, request.gone),
  heartbeat: async ({ services, request }) =>
    services.workers.heartbeat(request.caller.principal, request.body as unknown as HeartbeatRequest),
  reportResults: ({ services, request }) =>
    services.workers.report(request.caller.principal, request.body as unknown as ResultsRequest, request.gone),
  tellProgress: async ({ services, request }) =>
    services.workers.progress(request.caller.principal, request.body as unknown as ProgressRequest),
  putJobArtifact: async ({ services, request }) => {
    const digest = await services.blobs.put(tenantOf(request.params), request.raw);
    return { digest, size: request.raw.length };
  },
} satisfies Partial<Handlers>;
