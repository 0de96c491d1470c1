// OTLP/HTTP: spans and log records as exporters send them, JSON or protobuf, plain or gzip. Answers come in the type of the
// request; what was refused of an export is said as partial success, what was refused as a whole as google.rpc.Status.
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { OTLP_JSON, OTLP_LOGS_PATH, OTLP_PROTOBUF, OTLP_TRACES_PATH } from "../contract/otlp.ts";
import type { Exported, ExportedLog, ExportedSpan, ExportResult } from "../contract/otlp.ts";
import { logsOfJson, spansOfJson } from "../capture/otlp/decode-json.ts";
import { logsOfProto, spansOfProto } from "../capture/otlp/decode-proto.ts";
import type { Caller } from "../orchestrator/runs.ts";
import { authorise, checkOrigin } from "./auth.ts";
import type { Authenticator } from "./auth.ts";
import { PART } from "./forward.ts";
import type { Forwarder } from "./forward.ts";
import { resultHeader, takeParts } from "./otlp-parts.ts";
import { problemOf, toAppError } from "./problem.ts";
import { textOf } from "./proxy.ts";
import type { Services } from "./services.ts";

const inflate = promisify(gunzip);
/** Codes of google.rpc.Status for statuses of HTTP. */
const RPC_CODES: Readonly<Record<number, number>> = {
  400: 3,
  401: 16,
  403: 7,
  404: 5,
  409: 10,
  413: 8,
  415: 3,
  429: 8,
  503: 14,
};
const RPC_INTERNAL = 13;

interface Signal<T extends { readonly trace_id: string }> {
  readonly path: string;
  readonly rejected: string;
  readonly read: (body: Body) => Exported<T>;
  readonly take: (services: Services, caller: Caller, exported: Exported<T>) => Promise<ExportResult>;
}
interface Body {
  readonly json: unknown;
  /** Set where the body is protobuf. */
  readonly bytes: Uint8Array | null;
}

const TRACES: Signal<ExportedSpan> = {
  path: OTLP_TRACES_PATH,
  rejected: "rejectedSpans",
  read: ({ json, bytes }) => (bytes ? spansOfProto(bytes) : spansOfJson(json)),
  take: ({ otlp }, caller, exported) => otlp.traces(caller, exported),
};
const LOGS: Signal<ExportedLog> = {
  path: OTLP_LOGS_PATH,
  rejected: "rejectedLogRecords",
  read: ({ json, bytes }) => (bytes ? logsOfProto(bytes) : logsOfJson(json)),
  take: ({ otlp }, caller, exported) => otlp.logs(caller, exported),
};

function typeOf(req: FastifyRequest): string {
  return (req.headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
}

async function bodyOf(req: FastifyRequest, type: string): Promise<Body> {
  if (type !== OTLP_JSON && type !== OTLP_PROTOBUF)
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", `The content type is ${type}; send ${OTLP_PROTOBUF} or ${OTLP_JSON}`);
  let bytes = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
  const encoding = textOf(req.headers["content-encoding"]) ?? "identity";
  if (encoding === "gzip") bytes = await inflated(bytes);
  else if (encoding !== "identity")
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", `The content encoding is ${encoding}; send gzip or none`);
  if (type === OTLP_PROTOBUF) return { json: null, bytes };
  try {
    return { json: JSON.parse(bytes.toString("utf8")) as unknown, bytes: null };
  } catch (cause) {
    throw new AppError("VALIDATION_ERROR", "The body is no JSON", { cause });
  }
}

/** The limit holds for what comes out, not for what came in. */
async function inflated(bytes: Buffer): Promise<Buffer> {
  try {
    return await inflate(bytes, { maxOutputLength: LIMITS.otlp_bytes_max });
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : "";
    if (code === "ERR_BUFFER_TOO_LARGE")
      throw new AppError("PAYLOAD_TOO_LARGE", `The body inflates to more than ${LIMITS.otlp_bytes_max} bytes`, {
        cause,
      });
    throw new AppError("VALIDATION_ERROR", "The body is no gzip", { cause });
  }
}

function answerOf(type: string, field: string, { rejected, message }: ExportResult): string | Buffer {
  const isFull = rejected === 0 && message === "";
  if (type !== OTLP_PROTOBUF)
    return JSON.stringify(isFull ? {} : { partialSuccess: { [field]: String(rejected), errorMessage: message } });
  const writer = new BinaryWriter();
  if (!isFull) {
    writer.tag(1, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.Varint).int64(rejected);
    writer.tag(2, WireType.LengthDelimited).string(message);
    writer.join();
  }
  return Buffer.from(writer.finish());
}

async function refuse(
  reply: FastifyReply,
  type: string,
  error: unknown,
  services: Services,
  id: string,
): Promise<void> {
  const known = toAppError(error);
  if (known.code === "INTERNAL_ERROR")
    services.log.error("otlp.failed", { request_id: id, error: String(known.cause) });
  const problem = problemOf(known, id);
  const code = RPC_CODES[problem.status] ?? RPC_INTERNAL;
  const { message } = known;
  const isProto = type === OTLP_PROTOBUF;
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Varint).int32(code).tag(2, WireType.LengthDelimited).string(message);
  await reply
    .code(problem.status)
    .headers(problem.headers)
    .type(isProto ? OTLP_PROTOBUF : OTLP_JSON)
    .send(isProto ? Buffer.from(writer.finish()) : JSON.stringify({ code, message }));
}

interface Doors {
  readonly authenticator: Authenticator;
  readonly host_names: readonly string[];
  readonly forwarder: Forwarder;
}

export function mountOtlp(app: FastifyInstance, services: Services, given: Doors): void {
  mountSignal(app, services, given, TRACES);
  mountSignal(app, services, given, LOGS);
}

function mountSignal<T extends { readonly trace_id: string }>(
  app: FastifyInstance,
  services: Services,
  given: Doors,
  signal: Signal<T>,
): void {
  app.post(signal.path, { bodyLimit: LIMITS.otlp_bytes_max }, async (req, reply) => {
    const type = typeOf(req);
    try {
      checkOrigin(req.headers, given.host_names);
      const principal = given.authenticator.authenticate({
        authorization: req.headers.authorization,
        principal: textOf(req.headers["quarterdeck-principal"]),
      });
      authorise(principal, "events:write");
      const caller = { tenant_id: services.tenant_id, project: services.project, principal: principal.id };
      const exported = signal.read(await bodyOf(req, type));
      const take = (own: Exported<T>) => signal.take(services, caller, own);
      const result = await takeParts({ services, forwarder: given.forwarder, req }, exported, take);
      await reply
        .code(200)
        .headers(req.headers[PART] === undefined ? {} : resultHeader(result))
        .type(type)
        .send(answerOf(type, signal.rejected, result));
    } catch (error) {
      await refuse(reply, type, error, services, req.id);
    }
  });
}
