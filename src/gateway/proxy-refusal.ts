// Errors of the proxy in the form of the provider whose API was asked, so that its SDK understands them.
import type { FastifyReply } from "fastify";
import { refusal } from "../capture/proxy-answer.ts";
import { ERRORS } from "../contract/errors.ts";
import type { WireApi } from "../contract/wire/wire.ts";
import { toAppError } from "./problem.ts";
import type { Services } from "./services.ts";

/** Answers with what went wrong; a connection on which something was sent already ends. */
export async function refuseAs(
  api: WireApi,
  { log }: Pick<Services, "log">,
  reply: FastifyReply,
  error: unknown,
): Promise<void> {
  const known = toAppError(error);
  if (known.code === "INTERNAL_ERROR")
    log.error("proxy.failed", { request_id: reply.request.id, error: String(known.cause) });
  if (reply.sent || reply.raw.headersSent) return void reply.raw.destroy();
  const { status, headers, body } = refusal(api, ERRORS[known.code].status, known.code, known.message);
  await reply.code(status).headers(headers).send(body);
}
