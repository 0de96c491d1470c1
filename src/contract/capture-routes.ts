// Routes of captured runs. Part of the route table (routes.ts); the proxy itself has paths of its own (proxy.ts).
import { Type } from "typebox";
import { COMMON_ERRORS } from "./errors.ts";
import { FinalizeRun, IngestAnswer, IngestBatch } from "./ingest.ts";
import { EndCapture, ReplayedCall, StartCapture } from "./proxy.ts";
import type { Route } from "./routes.ts";
import { Run } from "./runs.ts";

const IdParam = Type.Object({ id: Type.String({ maxLength: 64 }) }, { additionalProperties: false });

export const CAPTURE_ROUTES = {
  startCapture: {
    method: "POST",
    path: "/captures",
    permission: "proxy:call",
    summary:
      "Starts a captured run: calls under /proxy/runs/RUN belong to it; with `replay_of`, they are answered from a recording.",
    body: StartCapture,
    status: 201,
    response: Run,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "REPLAY_REFUSED", "OVERLOADED", "SHUTTING_DOWN"],
  },
  endCapture: {
    method: "POST",
    path: "/captures/:id/end",
    permission: "proxy:call",
    summary: "Ends a captured run; its process has ended with this exit code.",
    params: IdParam,
    body: EndCapture,
    status: 200,
    response: Run,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "RUN_TERMINAL", "CONFLICT", "SHUTTING_DOWN"],
  },
  replayCall: {
    method: "POST",
    path: "/captures/:id/calls",
    permission: "proxy:call",
    summary: "Answers a call of a replayed program from the recording, and records that it was given.",
    params: IdParam,
    body: ReplayedCall,
    status: 200,
    response: Type.Object({ ended: Type.String(), data: Type.Unknown() }),
    errors: [...COMMON_ERRORS, "NOT_FOUND", "REPLAY_REFUSED", "RUN_TERMINAL", "SHUTTING_DOWN"],
  },
  ingestEvents: {
    method: "POST",
    path: "/runs/:id/events",
    permission: "events:write",
    summary:
      "Records events that were observed elsewhere, a batch of one producer; run.started begins the run. Each event is answered by itself, and may be sent again.",
    params: IdParam,
    body: IngestBatch,
    status: 200,
    response: IngestAnswer,
    errors: [
      ...COMMON_ERRORS,
      "RUN_NOT_STARTED",
      "RUN_EXISTS",
      "CONFLICT",
      "OVERLOADED",
      "PAYLOAD_TOO_LARGE",
      "SHUTTING_DOWN",
    ],
  },
  finalizeRun: {
    method: "POST",
    path: "/runs/:id/finalize",
    permission: "events:write",
    summary: "Ends a run whose events come from outside; refused while events are missing that others wait for.",
    params: IdParam,
    body: FinalizeRun,
    status: 200,
    response: Run,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "EVENTS_MISSING", "RUN_TERMINAL", "CONFLICT", "SHUTTING_DOWN"],
  },
} as const satisfies Record<string, Route>;
