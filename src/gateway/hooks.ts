// Webhooks: the one door without a credential. Who may send is who can sign (orchestrator/webhooks.ts), so nothing is read of
// a body before its signature is. An answer of 2xx says that the fire is written down.
import type { FastifyInstance } from "fastify";
import { LIMITS } from "../contract/limits.ts";
import { HOOKS_PREFIX } from "../contract/paths.ts";
import { textOf } from "./proxy.ts";
import type { Services } from "./services.ts";

export function mountHooks(app: FastifyInstance, services: Services): void {
  void app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    // Senders say all kinds of types; the body is JSON, or text.
    scope.addContentTypeParser("*", { parseAs: "buffer" }, (_req, body, done) => done(null, body));
    scope.route<{ Params: { env: string; name: string } }>({
      method: "POST",
      url: `${HOOKS_PREFIX}/:env/:name`,
      bodyLimit: LIMITS.webhook_bytes_max,
      handler: async (req, reply) => {
        const { env, name } = req.params;
        const { tenant_id, project } = services;
        const headers = Object.fromEntries(Object.entries(req.headers).map(([key, value]) => [key, textOf(value)]));
        const body = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
        const fire = await services.triggers.webhook({ tenant_id, project }, name, env, { headers, body });
        await reply.code(202).type("application/json").send(JSON.stringify(fire));
      },
    });
  });
}
