import type { Json } from "../../kit/json.ts";
import type { Handlers } from "../handlers.ts";

const text = (value: Json | undefined): string | undefined => (typeof value === "string" ? value : undefined);
const envOf = (body: Json): string | undefined => text((body as Record<string, Json> | null)?.["env"]);

export const triggerHandlers = {
  listTriggers: async ({ services, request }) => ({ items: await services.triggers.list(request.caller) }),
  listFires: async ({ services, request: { caller, params, query } }) => {
    const limit = typeof query["limit"] === "number" ? query["limit"] : undefined;
    return { items: await services.triggers.fires(caller, params["name"] ?? "", text(query["env"]), limit) };
  },
  fireTrigger: ({ services, request: { caller, params, body }, seed }) => {
    const { env, input } = body as { env?: string; input?: Json };
    return services.triggers.fire(caller, params["name"] ?? "", { env, input, seed });
  },
  pauseTrigger: ({ services, request: { caller, params, body } }) =>
    services.triggers.pause(caller, params["name"] ?? "", envOf(body)),
  resumeTrigger: ({ services, request: { caller, params, body } }) =>
    services.triggers.resume(caller, params["name"] ?? "", envOf(body)),
} satisfies Partial<Handlers>;
