import { openapiDocument } from "../openapi.ts";
import type { Handlers } from "../handlers.ts";

export const systemHandlers = {
  status: ({ services, request }) => services.status(request.caller),
  live: async () => ({ status: "ok" }),
  ready: async ({ services }) => ({ status: "ok", checks: await services.ready() }),
  openapi: async ({ services }) => openapiDocument(services.version),
} satisfies Partial<Handlers>;
