// Which control node answers a request, where several own the runs of some groups each. What is about a run goes to the owner
// of its group; what begins one may begin anywhere, unless the request can be repeated: then its key says where.
import type { FastifyRequest } from "fastify";
import { groupOf, groupOfName, groupOfSeed, SIGNER_GROUP } from "../contract/placement.ts";
import { AGENT_HEADER, SESSION_HEADER } from "../contract/proxy.ts";
import { HOOKS_PREFIX, MCP_OBSERVE, MCP_PREFIX, PROXY_PREFIX } from "../contract/paths.ts";
import type { Route, RouteId } from "../contract/routes.ts";
import { sessionName } from "../capture/captures.ts";
import { isAppError } from "../contract/errors.ts";
import type { Authenticator } from "./auth.ts";
import { seedBytes } from "./idempotency.ts";
import { credentialOf, textOf } from "./proxy.ts";

/** A group's owner, whoever owns runs, or this node whatever it owns. */
export type Place = number | "anywhere" | "here";

/** Ids of runs, and of what is inside them. */
const PLACED = /^(run|apr|stp|evt)_[0-7][0-9a-hjkmnp-tv-z]{25}$/;

export class Placement {
  private readonly groups: number;
  private readonly authenticator: Authenticator;

  constructor(groups: number, authenticator: Authenticator) {
    this.groups = groups;
    this.authenticator = authenticator;
  }

  /** `route` is null for what is not in the route table: proxied calls, MCP, OTLP, and paths that are not served. */
  of(req: FastifyRequest, route: { id: RouteId; route: Route } | null): Place {
    if (route?.route.node === "each") return "here";
    if (route?.route.node === "signer") return this.part(req) ?? SIGNER_GROUP;
    if (route?.route.idempotent) return this.begun(req, route.id);
    for (const value of Object.values(req.params ?? {}))
      if (typeof value === "string" && PLACED.test(value)) return groupOf(value, this.groups);
    if (route) return "anywhere";
    return this.captured(req);
  }

  /** One node's part of what another was asked for. */
  private part(req: FastifyRequest): number | null {
    const groups = textOf((req.query as Record<string, string | undefined> | undefined)?.["groups"]);
    return groups === undefined ? null : Number(groups.split(",")[0]) % this.groups;
  }

  private begun(req: FastifyRequest, id: RouteId): Place {
    const key = textOf(req.headers["idempotency-key"]);
    const principal = key === undefined ? null : this.principal(req, req.headers.authorization);
    if (key === undefined || principal === null) return "anywhere";
    return groupOfSeed(seedBytes({ route: id, principal, key }), this.groups);
  }

  /** Calls of a session belong together, whoever is asked first. */
  private captured(req: FastifyRequest): Place {
    const url = req.routeOptions.url ?? "";
    if (url === MCP_OBSERVE) return "here";
    if (url.startsWith(`${HOOKS_PREFIX}/`)) return "anywhere";
    if (!url.startsWith(PROXY_PREFIX) && !url.startsWith(MCP_PREFIX)) return "here";
    const principal = this.principal(req, credentialOf(req));
    if (principal === null) return "here";
    const agent = textOf(req.headers[AGENT_HEADER]);
    const session = textOf(req.headers[SESSION_HEADER]);
    return groupOfName(sessionName(principal, { agent, session }), this.groups);
  }

  /** Null for who is refused anyway: this node says so as well as another. */
  private principal(req: FastifyRequest, authorization: string | undefined): string | null {
    try {
      const principal = textOf(req.headers["quarterdeck-principal"]);
      return this.authenticator.authenticate({ authorization, principal }).id;
    } catch (error) {
      if (isAppError(error)) return null;
      throw error;
    }
  }
}
