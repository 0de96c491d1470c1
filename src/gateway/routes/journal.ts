import type { Json } from "../../kit/json.ts";
import { AppError } from "../../contract/errors.ts";
import { digestOf } from "../../kit/hash.ts";
import type { Handlers } from "../handlers.ts";

export const journalHandlers = {
  verify: async ({ services, request }) => {
    const run_id = (request.body as Record<string, Json>)["run_id"];
    const result = await services.journal.verify(request.caller, typeof run_id === "string" ? run_id : null);
    return { ...result, ok: result.faults.length === 0 };
  },
  proveEvent: ({ services, request }) =>
    services.journal.prove(request.caller, request.params["id"] ?? "", Number(request.params["seq"])),
  importJournal: ({ services, request }) => {
    const { groups, budgets } = request.query;
    const part =
      typeof groups === "string" ? { groups: groups.split(",").map(Number), budgets: budgets !== "false" } : undefined;
    return services.journal.import(request.caller, request.raw.toString("utf8"), part);
  },
  importRuns: async ({ services, request }) => {
    const runs = await services.journal.importRuns(
      request.caller,
      request.params["format"] ?? "",
      request.raw.toString("utf8"),
    );
    return { runs };
  },
  putArtifact: async ({ services, request }) => {
    const wanted = request.query["digest"];
    const found = digestOf(request.raw);
    if (typeof wanted === "string" && wanted !== found) {
      const message = `is ${wanted}; the bytes that came have ${found}`;
      throw new AppError("VALIDATION_ERROR", `/query/digest ${message}`, {
        errors: [{ pointer: "/query/digest", message }],
      });
    }
    const digest = await services.blobs.put(request.caller.tenant_id, request.raw);
    return { digest, size: request.raw.length };
  },
} satisfies Partial<Handlers>;
