import type { Json } from "../../kit/json.ts";
import type { AckStream, AmendRun, ResolveStep, StartRun } from "../../contract/runs.ts";
import { LIMITS } from "../../contract/limits.ts";
import { stepNumber } from "../../orchestrator/runs.ts";
import type { RunFilter } from "../../store/runs.ts";
import type { Handlers } from "../handlers.ts";

function filterOf(query: Record<string, Json>): RunFilter {
  const text = (key: string) => (typeof query[key] === "string" ? { [key]: query[key] } : {});
  return {
    ...text("state"),
    ...text("kind"),
    ...text("target"),
    ...(typeof query["cursor"] === "string" ? { before: query["cursor"] } : {}),
    limit: Number(query["limit"] ?? LIMITS.page_size_default),
  };
}

const noted = (body: Json, key: string): string => String((body as Record<string, Json> | null)?.[key] ?? "");

export const runHandlers = {
  startRun: ({ services, request, seed }) =>
    services.runs.start(request.caller, request.body as StartRun, seed ? { seed } : {}),
  listRuns: async ({ services, request }) => {
    const filter = filterOf(request.query);
    const items = await services.runs.list(request.caller, filter);
    return { items, next_cursor: items.length < filter.limit ? null : (items.at(-1)?.run_id ?? null) };
  },
  getRun: ({ services, request }) => services.runs.get(request.caller, request.params["id"] ?? ""),
  listEvents: async ({ services, request }) => {
    const limit = Number(request.query["limit"] ?? LIMITS.events_page_max);
    const after_seq = Number(request.query["after_seq"] ?? 0);
    const order = request.query["order"] === "logical" ? "logical" : "commit";
    const page = { after_seq, limit, order } as const;
    const items = await services.runs.events(request.caller, request.params["id"] ?? "", page);
    return { items, next_cursor: items.length < limit ? null : String(items.at(-1)?.seq ?? 0) };
  },
  ackStream: ({ services, request }) =>
    services.runs.ack(request.caller, request.params["id"] ?? "", request.body as AckStream),
  cancelRun: ({ services, request }) =>
    services.runs.cancel(request.caller, request.params["id"] ?? "", noted(request.body, "reason")),
  pauseRun: ({ services, request }) => services.runs.pause(request.caller, request.params["id"] ?? ""),
  resumeRun: ({ services, request }) => services.runs.resume(request.caller, request.params["id"] ?? ""),
  retryRun: ({ services, request, seed }) => services.runs.retry(request.caller, request.params["id"] ?? "", seed),
  inputRun: ({ services, request }) => {
    const body = request.body as { content: Json; final?: boolean };
    return services.runs.input(request.caller, request.params["id"] ?? "", body.content, body.final ?? false);
  },
  resolveStep: ({ services, request }) => {
    const id = request.params["id"] ?? "";
    return services.runs.resolve(
      request.caller,
      id,
      stepNumber(id, request.params["step"] ?? ""),
      request.body as ResolveStep,
    );
  },
  amendRun: ({ services, request }) =>
    services.runs.amend(request.caller, request.params["id"] ?? "", request.body as AmendRun),
  overridePrivacy: ({ services, request }) =>
    services.runs.overridePrivacy(request.caller, request.params["id"] ?? "", noted(request.body, "reason")),
  listQuarantined: async ({ services, request }) => ({
    items: await services.journal.quarantined(request.caller, request.params["id"] ?? ""),
  }),
  explainStep: ({ services, request }) => {
    const id = request.params["id"] ?? "";
    return services.runs.explain(request.caller, id, stepNumber(id, request.params["step"] ?? ""));
  },
} satisfies Partial<Handlers>;
