// The HTTP server: every route of the table, in this order for each request: origin -> credential -> permission -> body
// read (strict JSON, fixed content type, size) -> schemas -> handler -> answer or problem document.
import { Readable } from "node:stream";
import Fastify from "fastify";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Compile } from "typebox/compile";
import type { TSchema } from "typebox";
import { assert } from "../kit/assert.ts";
import { isObject, parseJson, JsonSyntaxError } from "../kit/json.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { AppError, isAppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { ROUTES } from "../contract/routes.ts";
import { API_PREFIX } from "../contract/paths.ts";
import { OTLP_PROTOBUF } from "../contract/otlp.ts";
import type { Route, RouteId } from "../contract/routes.ts";
import { Authenticator, authorise, checkOrigin } from "./auth.ts";
import type { Credential } from "./auth.ts";
import { Forwarder, PART } from "./forward.ts";
import { gather } from "./gather.ts";
import { HANDLERS } from "./handlers.ts";
import type { Handlers, StreamId } from "./handlers.ts";
import { Idempotency } from "./idempotency.ts";
import { faults } from "../contract/faults.ts";
import type { Validator } from "../contract/faults.ts";
import { mountHooks } from "./hooks.ts";
import { mountMcp } from "./mcp.ts";
import { mountOtlp } from "./otlp.ts";
import { Placement } from "./placement.ts";
import type { Place } from "./placement.ts";
import { mountProxy } from "./proxy.ts";
import { problemOf, toAppError } from "./problem.ts";
import type { Request, Services } from "./services.ts";
import { STREAMS } from "./streams.ts";

export interface GatewayOptions {
  readonly credentials: readonly Credential[];
  readonly host_names: readonly string[];
  /** Also checks what is answered; on in tests. */
  readonly check_answers?: boolean;
}

/** Query text to the types that the schema names; text that is no number stays text and is refused by the schema. */
function typedQuery(query: unknown, schema: TSchema | undefined): Record<string, Json> {
  const properties = schema && "properties" in schema && isObject(schema.properties) ? schema.properties : {};
  const out: Record<string, Json> = {};
  for (const [key, value] of Object.entries(query as Record<string, string | string[]>)) {
    const text = Array.isArray(value) ? value.join(",") : value;
    const declared = properties[key];
    const isInteger = isObject(declared) && declared["type"] === "integer" && /^-?\d{1,15}$/.test(text);
    out[key] = isInteger ? Number(text) : text;
  }
  return out;
}

/** Aborted when the connection closes before the answer. */
function goneOf(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once("close", () => {
    if (!reply.raw.writableEnded) controller.abort();
  });
  return controller.signal;
}

class RouteRunner {
  private readonly body: Validator | null;
  private readonly query: Validator;
  private readonly params: Validator | null;
  private readonly response: Validator;
  private readonly id: RouteId;
  private readonly route: Route;
  private readonly gateway: Gateway;

  constructor(gateway: Gateway, id: RouteId) {
    this.gateway = gateway;
    this.id = id;
    this.route = ROUTES[id];
    const closed = { type: "object", additionalProperties: false } as unknown as TSchema;
    this.body = this.route.body && !this.route.accepts ? Compile(this.route.body) : null;
    this.query = Compile(this.route.query ?? closed);
    this.params = this.route.params ? Compile(this.route.params) : null;
    this.response = Compile(this.route.response);
  }

  async handle(req: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { services, options, authenticator } = this.gateway;
    checkOrigin(req.headers, options.host_names);
    const header = req.headers["quarterdeck-principal"];
    const isPublic = this.route.permission === "public";
    const principal = isPublic
      ? { id: "anonymous", permissions: [] }
      : authenticator.authenticate({
          authorization: req.headers.authorization,
          principal: typeof header === "string" ? header : undefined,
        });
    authorise(principal, this.route.permission);
    const request = this.checked(req, reply, principal.id);
    if (this.id in STREAMS) return STREAMS[this.id as StreamId](services, request, { req, reply });
    const handler = HANDLERS[this.id as keyof Handlers];
    const key = req.headers["idempotency-key"];
    if (!this.route.idempotent || typeof key !== "string") {
      const own = await handler({ services, request });
      return this.answer(reply, this.route.status, await this.gateway.gathered(this.id, req, own), false);
    }
    const keyed = {
      tenant_id: request.caller.tenant_id,
      principal: principal.id,
      route: this.id,
      key,
      body: [request.params, request.body] as Json,
    };
    const done = await this.gateway.idempotency.run(keyed, this.route.status, (seed) =>
      handler({ services, request, seed }),
    );
    return this.answer(reply, done.status, done.body, done.replayed);
  }

  private checked(req: FastifyRequest, reply: FastifyReply, principal: string): Request {
    const { services } = this.gateway;
    const raw = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
    const query = typedQuery(req.query, this.route.query);
    const body = this.body ? this.json(raw) : null;
    const errors = [
      ...(this.params ? faults(this.params, req.params, "/params") : []),
      ...faults(this.query, query, "/query"),
      ...(this.body ? faults(this.body, body, "") : []),
    ];
    if (errors.length > 0) {
      const [first] = errors;
      throw new AppError("VALIDATION_ERROR", `${first?.pointer || "/"} ${first?.message}`, { errors });
    }
    const caller = { tenant_id: services.tenant_id, project: services.project, principal };
    const gone = this.route.waits ? goneOf(reply) : null;
    return { caller, params: req.params as Record<string, string>, query, body, raw, gone };
  }

  private json(raw: Buffer): Json {
    if (raw.length === 0) return {};
    try {
      return parseJson(new TextDecoder("utf-8", { fatal: true }).decode(raw), LIMITS.json_depth_max);
    } catch (error) {
      const message = error instanceof JsonSyntaxError ? error.message : "the body is not UTF-8";
      throw new AppError("VALIDATION_ERROR", `The body is no acceptable JSON: ${message}`, {
        errors: [{ pointer: "", message }],
        cause: error,
      });
    }
  }

  private async answer(reply: FastifyReply, status: number, value: unknown, replayed: boolean): Promise<void> {
    if (this.gateway.options.check_answers) {
      const wrong = faults(this.response, value, "");
      assert(wrong.length === 0, `the answer of ${this.id} does not fit its schema`, { wrong: JSON.stringify(wrong) });
    }
    if (replayed) void reply.header("idempotency-replayed", "true");
    await reply.code(status).type("application/json").send(JSON.stringify(value));
  }
}

/** How long requests may take to end when the server stops. */
const CLOSE_MS = 2_000;

export class Gateway {
  readonly services: Services;
  readonly options: GatewayOptions;
  readonly authenticator: Authenticator;
  readonly idempotency: Idempotency;
  readonly app: FastifyInstance;
  private readonly forwarder: Forwarder;
  private readonly placement: Placement;
  /** Operations by method and path. */
  private readonly routes = new Map<string, { id: RouteId; route: Route }>();

  constructor(services: Services, options: GatewayOptions) {
    this.services = services;
    this.options = options;
    this.authenticator = new Authenticator(options.credentials, (token) => services.workers.authenticate(token));
    this.idempotency = new Idempotency(services.db, services.clock);
    this.app = Fastify({
      bodyLimit: LIMITS.request_bytes_max,
      requestIdHeader: false,
      genReqId: () => services.requestId(),
      forceCloseConnections: "idle",
      // What comes on an open connection while the server ends is answered like everything else, not by the framework.
      return503OnClosing: false,
      routerOptions: { maxParamLength: 128 },
    });
    this.forwarder = new Forwarder((place) => services.owner(place), services.clock);
    this.placement = new Placement(services.groups, this.authenticator);
    this.parsers();
    this.errors();
    this.forwarding();
    this.app.addHook("onResponse", async (req, reply) => {
      services.observe(req.routeOptions.url ?? "none", reply.statusCode, reply.elapsedTime);
    });
    for (const id of Object.keys(ROUTES) as RouteId[]) this.mount(id);
    const doors = { authenticator: this.authenticator, host_names: options.host_names };
    mountProxy(this.app, services, doors);
    mountHooks(this.app, services);
    mountMcp(this.app, services, doors);
    mountOtlp(this.app, services, { ...doors, forwarder: this.forwarder });
  }

  private placeOf(req: FastifyRequest): Place {
    return this.placement.of(req, this.routes.get(`${req.method} ${req.routeOptions.url ?? ""}`) ?? null);
  }

  /** Adds what other nodes have to say to an answer, unless they are who asks. */
  async gathered(id: RouteId, req: FastifyRequest, own: unknown): Promise<unknown> {
    const { services, forwarder } = this;
    const urls = services.peers();
    if (urls.length === 0 || req.headers[PART] !== undefined) return own;
    const body = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
    const [path = "/"] = req.url.split("?");
    return gather(id, own, {
      urls,
      ownerOf: (group) => services.owner(group).url,
      ask: async (url, query) => {
        // An answer that has to be put together must not wait for a node that is frozen; an import has to be whole.
        const asked =
          query === undefined
            ? { path: req.url, body, part: "all", wait_ms: LIMITS.gather_wait_ms }
            : { path: `${path}?${query}`, body, part: "all" };
        return JSON.parse((await forwarder.ask(url, req, asked)).body.toString("utf8")) as unknown;
      },
      clock: services.clock,
    });
  }

  /** Requests that the owner of a run must answer go there; probes and figures are each node's own. */
  private forwarding(): void {
    const { services, options, forwarder } = this;
    this.app.addHook("preParsing", async (req, reply, payload) => {
      const place = this.placeOf(req);
      if (place === "here" || services.owner(place).isSelf) return payload;
      checkOrigin(req.headers, options.host_names);
      const body = await forwarder.forward(req, reply, place);
      return body === null ? payload : Readable.from(body.length > 0 ? [body] : []);
    });
  }

  private mount(id: RouteId): void {
    const route: Route = ROUTES[id];
    const runner = new RouteRunner(this, id);
    const large = route.accepts === "application/x-ndjson" || route.accepts === "application/octet-stream";
    const config = large ? { bodyLimit: LIMITS.artifact_bytes_max } : {};
    const handler = async (req: FastifyRequest, reply: FastifyReply) => {
      this.requireType(req, route);
      try {
        await runner.handle(req, reply);
      } catch (error) {
        const place = isAppError(error) ? this.placeOf(req) : "here";
        if (!isAppError(error) || place === "here" || this.services.owner(place).isSelf) throw error;
        await this.forwarder.again(req, reply, error, place);
      }
    };
    this.app.route({ method: route.method, url: API_PREFIX + route.path, handler, ...config });
    for (const url of [API_PREFIX + route.path, route.path]) this.routes.set(`${route.method} ${url}`, { id, route });
    if (route.permission === "public") this.app.route({ method: route.method, url: route.path, handler, ...config });
  }

  /** The content type is fixed by the route: a body can never be taken for something else. */
  private requireType(req: FastifyRequest, route: Route): void {
    if (!route.body || !Buffer.isBuffer(req.body) || req.body.length === 0) return;
    const type = (req.headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase();
    const wanted = route.accepts ?? "application/json";
    if (type !== wanted)
      throw new AppError("UNSUPPORTED_MEDIA_TYPE", `The content type is ${type}; this route takes ${wanted}`);
  }

  private parsers(): void {
    this.app.removeAllContentTypeParsers();
    const types = [
      "application/json",
      "application/yaml",
      "application/x-ndjson",
      "application/octet-stream",
      OTLP_PROTOBUF,
    ];
    this.app.addContentTypeParser(types, { parseAs: "buffer" }, (_req, body, done) => done(null, body));
  }

  private errors(): void {
    this.app.setErrorHandler(async (error, req, reply) => {
      const known = toAppError(error);
      if (known.code === "INTERNAL_ERROR") {
        const cause = known.cause instanceof Error ? known.cause : null;
        this.services.log.error("request.failed", {
          request_id: req.id,
          route: req.routeOptions.url,
          error: cause?.message,
          stack: cause?.stack,
        });
      }
      const problem = problemOf(known, req.id);
      await reply
        .code(problem.status)
        .headers(problem.headers)
        .type("application/problem+json")
        .send(Buffer.from(JSON.stringify(problem.body)));
    });
    this.app.setNotFoundHandler(async (req, reply) => {
      const problem = problemOf(
        new AppError("NOT_FOUND", `There is no ${req.method} ${req.url.split("?")[0]}`),
        req.id,
      );
      await reply
        .code(problem.status)
        .type("application/problem+json")
        .send(Buffer.from(JSON.stringify(problem.body)));
    });
  }

  async listen(host: string, port: number): Promise<{ port: number }> {
    await this.app.listen({ host, port });
    const address = this.app.server.address();
    return { port: typeof address === "object" && address ? address.port : port };
  }

  async close(): Promise<void> {
    const timer = this.services.clock.timer(CLOSE_MS, () => this.app.server.closeAllConnections());
    await this.app.close();
    timer.cancel();
  }
}

export type { JsonObject };
