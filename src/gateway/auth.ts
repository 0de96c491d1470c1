// Who is calling, and may they. One place: every route's permission is checked here before its handler runs.
// Without credentials configured only loopback is served; the caller is then whoever they say (Quarterdeck-Principal),
// because whoever can reach the loopback socket of this user could read the data folder too.
import { secretsEqual, sha256Hex } from "../kit/hash.ts";
import { AppError } from "../contract/errors.ts";
import { NAME_PATTERN } from "../contract/paths.ts";
import { WORKER_TOKEN_PREFIX } from "../contract/workers.ts";
import type { Permission } from "../contract/routes.ts";

export interface Credential {
  readonly principal: string;
  /** SHA-256 of the token, hex: the token itself is kept nowhere. */
  readonly token_sha256: string;
  readonly permissions: readonly (Permission | "*")[];
}

export interface Principal {
  readonly id: string;
  readonly permissions: readonly (Permission | "*")[];
}

const NAME = new RegExp(NAME_PATTERN);
export const LOCAL_PRINCIPAL = "local-operator";

export class Authenticator {
  private readonly credentials: readonly Credential[];
  private readonly worker: (token: string) => { name: string } | null;

  constructor(credentials: readonly Credential[], worker: (token: string) => { name: string } | null) {
    this.credentials = credentials;
    this.worker = worker;
  }

  /** Throws AUTH_REQUIRED. */
  authenticate(headers: { authorization?: string | undefined; principal?: string | undefined }): Principal {
    const token = /^Bearer ([\x21-\x7e]{1,512})$/i.exec(headers.authorization ?? "")?.[1];
    // A worker is itself, also where everybody else is trusted: its lease must not be another's.
    if (token?.startsWith(WORKER_TOKEN_PREFIX)) {
      const worker = this.worker(token);
      if (!worker) throw new AppError("AUTH_REQUIRED", "This worker's token is not known here, or it was revoked");
      return { id: worker.name, permissions: ["workers:execute"] };
    }
    if (this.credentials.length === 0) return this.local(headers.principal);
    if (token === undefined) throw new AppError("AUTH_REQUIRED", "This server needs a bearer token");
    const hash = sha256Hex(token);
    let found: Credential | null = null;
    // All are compared, so the time tells nothing about which.
    for (const credential of this.credentials) if (secretsEqual(credential.token_sha256, hash)) found = credential;
    if (!found) throw new AppError("AUTH_REQUIRED", "The token is not known here");
    return { id: found.principal, permissions: found.permissions };
  }

  private local(principal: string | undefined): Principal {
    const id = principal ?? LOCAL_PRINCIPAL;
    if (!NAME.test(id)) throw new AppError("VALIDATION_ERROR", `Quarterdeck-Principal must fit ${NAME_PATTERN}`);
    return { id, permissions: ["*"] };
  }
}

/** Whether a credential permits it. Jobs are another matter: `authorise`. */
export function isAllowed({ permissions }: Principal, permission: Permission): boolean {
  return permission === "public" || permissions.includes("*") || permissions.includes(permission);
}

/** Throws AUTH_FORBIDDEN. */
export function authorise(principal: Principal, permission: Permission): void {
  // Jobs go to workers' own credentials alone: `*` is for people, and has no labels that could bind it.
  if (permission === "workers:execute" && !principal.permissions.includes(permission))
    throw new AppError(
      "AUTH_FORBIDDEN",
      "Only a worker's own token may do this; make one: quarterdeck workers mint NAME",
      {
        details: { permission },
      },
    );
  if (isAllowed(principal, permission)) return;
  throw new AppError("AUTH_FORBIDDEN", `${principal.id} lacks the permission ${permission}`, {
    details: { permission },
  });
}

const LOOPBACK = new Set(["127.0.0.1", "localhost", "[::1]", "::1"]);

export function isLoopback(host: string): boolean {
  return LOOPBACK.has(host);
}

/** Refuses requests that a web page made through a name of its own (DNS rebinding): Host and Origin must be ours. */
export function checkOrigin(
  headers: { host?: string | undefined; origin?: string | undefined },
  allowed: readonly string[],
): void {
  const host = (headers.host ?? "").replace(/:\d+$/, "");
  const good = (name: string) => isLoopback(name) || allowed.includes(name);
  if (!good(host))
    throw new AppError(
      "ORIGIN_FORBIDDEN",
      `The Host ${JSON.stringify(headers.host ?? "")} is not a name of this server`,
    );
  if (headers.origin === undefined) return;
  const origin = URL.canParse(headers.origin) ? new URL(headers.origin).hostname : "";
  if (!good(origin))
    throw new AppError("ORIGIN_FORBIDDEN", `The Origin ${JSON.stringify(headers.origin)} may not call this server`);
}
