import type { FinalizeRun, IngestBatch } from "../../contract/ingest.ts";
import type { EndCapture, ReplayedCall, StartCapture } from "../../contract/proxy.ts";
import type { Static } from "typebox";
import { runView } from "../../orchestrator/runs.ts";
import type { Handlers } from "../handlers.ts";

export const captureHandlers = {
  startCapture: async ({ services, request }) =>
    runView(await services.captures.start(request.caller, request.body as unknown as StartCapture)),
  endCapture: async ({ services, request }) => {
    const { exit_code } = request.body as unknown as Static<typeof EndCapture>;
    return runView(await services.captures.end(request.caller, request.params["id"] ?? "", exit_code ?? 0));
  },
  replayCall: ({ services, request }) =>
    services.captures.answer(request.caller, request.params["id"] ?? "", request.body as unknown as ReplayedCall),
  ingestEvents: ({ services, request }) =>
    services.ingest.add(request.caller, request.params["id"] ?? "", request.body as unknown as IngestBatch),
  finalizeRun: async ({ services, request }) =>
    runView(
      await services.ingest.finalize(
        request.caller,
        request.params["id"] ?? "",
        request.body as unknown as FinalizeRun,
      ),
    ),
} satisfies Partial<Handlers>;
