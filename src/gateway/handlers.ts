// One handler for each route that answers JSON. The compiler demands every one of them.
import type { RouteId } from "../contract/routes.ts";
import type { IdSeed } from "../contract/ids.ts";
import { approvalHandlers } from "./routes/approvals.ts";
import { captureHandlers } from "./routes/captures.ts";
import { journalHandlers } from "./routes/journal.ts";
import { registryHandlers } from "./routes/registry.ts";
import { replayHandlers } from "./routes/replays.ts";
import { runHandlers } from "./routes/runs.ts";
import { systemHandlers } from "./routes/system.ts";
import { taskHandlers } from "./routes/tasks.ts";
import { toolHandlers } from "./routes/tools.ts";
import { triggerHandlers } from "./routes/triggers.ts";
import { workerHandlers } from "./routes/workers.ts";
import type { Request, Services } from "./services.ts";

export interface Context {
  readonly services: Services;
  readonly request: Request;
  /** Set where the route takes an Idempotency-Key and one was sent. */
  readonly seed?: IdSeed;
}

export type Handler = (context: Context) => Promise<unknown>;
/** Routes that write their own answer. */
export type StreamId = "streamEvents" | "exportJournal" | "getArtifact" | "getJobArtifact" | "metrics";
export type Handlers = Record<Exclude<RouteId, StreamId>, Handler>;

export const HANDLERS: Handlers = {
  ...runHandlers,
  ...approvalHandlers,
  ...registryHandlers,
  ...journalHandlers,
  ...systemHandlers,
  ...taskHandlers,
  ...toolHandlers,
  ...triggerHandlers,
  ...workerHandlers,
  ...replayHandlers,
  ...captureHandlers,
};
