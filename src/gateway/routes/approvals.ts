import type { Json } from "../../kit/json.ts";
import { LIMITS } from "../../contract/limits.ts";
import type { Handlers } from "../handlers.ts";

const note = (body: Json): string => String((body as Record<string, Json> | null)?.["note"] ?? "");

export const approvalHandlers = {
  listApprovals: async ({ services, request }) => {
    const { query } = request;
    const limit = Number(query["limit"] ?? LIMITS.page_size_default);
    const items = await services.runs.approvals(request.caller, {
      ...(typeof query["state"] === "string" ? { state: query["state"] } : {}),
      ...(typeof query["cursor"] === "string" ? { after: query["cursor"] } : {}),
      limit,
    });
    return { items, next_cursor: items.length < limit ? null : (items.at(-1)?.approval_id ?? null) };
  },
  getApproval: ({ services, request }) => services.runs.approval(request.caller, request.params["id"] ?? ""),
  approve: ({ services, request }) =>
    services.runs.decideApproval(request.caller, request.params["id"] ?? "", "approved", note(request.body)),
  reject: ({ services, request }) =>
    services.runs.decideApproval(request.caller, request.params["id"] ?? "", "rejected", note(request.body)),
} satisfies Partial<Handlers>;
