// Answers that are streams: server-sent events of a run, exports, artifacts.
import type { ServerResponse } from "node:http";
import { Readable } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { tenantOf } from "./routes/workers.ts";
import type { Request, Services } from "./services.ts";
import type { StreamId } from "./handlers.ts";

type StreamHandler = (
  services: Services,
  request: Request,
  http: { req: FastifyRequest; reply: FastifyReply },
) => Promise<void>;

let clients = 0;
const KEEP_ALIVE_MS = 15_000;
/** Events that are at hand for one client at a time. */
const PAGE = 100;

/** Behind which event a stream begins: the one that the client names, or its consumer has acknowledged. */
async function beginOf(services: Services, request: Request, req: FastifyRequest): Promise<number> {
  const { consumer } = request.query;
  const given = req.headers["last-event-id"];
  if (given === undefined && typeof consumer === "string")
    return services.runs.acked(request.caller, request.params["id"] ?? "", consumer);
  const last = Number(given ?? 0);
  if (!Number.isSafeInteger(last) || last < 0)
    throw new AppError("VALIDATION_ERROR", "Last-Event-ID is the seq of an event");
  return last;
}

/** Resolves when the client has read enough that more may be written; what it does not read is not kept in memory for it. */
function drained(out: ServerResponse): Promise<void> {
  if (!out.writableNeedDrain || out.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      out.off("drain", done).off("close", done);
      resolve();
    };
    out.on("drain", done).on("close", done);
  });
}

/** Sends what is in the journal, then what is committed; a client that reconnects with Last-Event-ID misses nothing. */
const streamEvents: StreamHandler = async (services, request, { req, reply }) => {
  const run_id = request.params["id"] ?? "";
  const run = await services.runs.get(request.caller, run_id);
  if (clients >= LIMITS.sse_clients_max) throw new AppError("OVERLOADED", `There are ${clients} streams open`);
  const last = await beginOf(services, request, req);
  clients += 1;
  reply.hijack();
  const out = reply.raw;
  out.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" });
  let open = true;
  let wake: () => void = () => undefined;
  const unsubscribe = services.subscribe(run_id, () => wake());
  const end = () => {
    open = false;
    wake();
  };
  // Another node has the run: whoever follows it comes back, and is led there.
  const unfollow = services.subscribeGone(run_id, end);
  // Nobody waits for a reader that is slow: what is said meanwhile is not told to it.
  const unwatch =
    request.query["progress"] === "true"
      ? services.subscribeProgress(run_id, (said) => {
          if (open && !out.writableNeedDrain) out.write(`event: progress\ndata: ${JSON.stringify(said)}\n\n`);
        })
      : () => undefined;
  req.raw.on("close", end);
  let seq = last;
  let ended = run.state;
  while (open) {
    const woken = new Promise<void>((resolve) => (wake = resolve));
    const events = await services.runs
      .events(request.caller, run_id, { after_seq: seq, limit: PAGE, order: "commit" })
      .catch(() => null);
    if (events === null) break;
    for (const event of events) {
      seq = event.seq;
      ended = /^run\.(succeeded|failed|cancelled|timed_out|budget_exceeded|policy_blocked)$/.test(event.type)
        ? event.type
        : ended;
      out.write(`id: ${event.seq}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
    }
    await drained(out);
    if (events.length === PAGE) continue;
    if (ended.startsWith("run.") || !["queued", "running", "waiting"].includes(ended)) break;
    const timer = services.clock.timer(KEEP_ALIVE_MS, () => wake());
    await woken;
    timer.cancel();
    if (open) out.write(": keep-alive\n\n");
  }
  unsubscribe();
  unfollow();
  unwatch();
  clients -= 1;
  out.end();
};

const exportJournal: StreamHandler = async (services, request, { reply }) => {
  const run_id = request.query["run_id"];
  if (typeof run_id === "string") await services.runs.get(request.caller, run_id);
  const profile = request.query["profile"] === "minimal" ? "minimal" : "full";
  // Once the first line is sent nothing can be refused any more.
  if (typeof run_id === "string") await services.journal.checkExport(request.caller, run_id, profile);
  const lines = services.journal.export(request.caller, typeof run_id === "string" ? run_id : null, profile);
  await reply.type("application/x-ndjson").send(Readable.from(lines));
};

const getArtifact: StreamHandler = async (services, request, { reply }) => {
  const digest = decodeURIComponent(request.params["digest"] ?? "");
  const bytes = await services.blobs.get(request.caller.tenant_id, digest);
  await reply
    .type("application/octet-stream")
    .header("content-disposition", "attachment")
    .header("x-content-type-options", "nosniff")
    .send(bytes);
};

const getJobArtifact: StreamHandler = async (services, request, { reply }) => {
  const digest = decodeURIComponent(request.params["digest"] ?? "");
  const bytes = await services.blobs.get(tenantOf(request.params), digest);
  await reply.type("application/octet-stream").send(bytes);
};

const metrics: StreamHandler = async (services, _request, { reply }) => {
  await reply.type("text/plain; version=0.0.4; charset=utf-8").send(await services.metrics());
};

export const STREAMS: Record<StreamId, StreamHandler> = {
  streamEvents,
  exportJournal,
  getArtifact,
  getJobArtifact,
  metrics,
};
