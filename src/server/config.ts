// Configuration: flags over environment over file (quarterdeck.yaml in the data folder's parent) over defaults, from one
// schema. The only reader of process.env. Every problem is reported at once.
import { readFileSync } from "node:fs";
import path from "node:path";
import { Type, type Static } from "typebox";
import { Compile } from "typebox/compile";
import { parse } from "yaml";
import { AppError, messageOf } from "../contract/errors.ts";
import type { FieldError } from "../contract/errors.ts";
import { faults } from "../contract/faults.ts";
import { LIMITS } from "../contract/limits.ts";
import { SHARDS } from "../contract/placement.ts";
import { Label } from "../contract/workers.ts";
import { REDACTION_LEVELS } from "../contract/redaction.ts";
import type { RedactionLevel } from "../contract/redaction.ts";
import { FIELD_ACTIONS } from "../kit/field-rules.ts";
import type { FieldAction } from "../kit/field-rules.ts";
import { PERMISSIONS } from "../contract/routes.ts";
import { isLoopback } from "../gateway/auth.ts";

export const Config = Type.Object(
  {
    role: Type.Union([Type.Literal("all"), Type.Literal("control"), Type.Literal("worker")], {
      description: "all: everything in one process; control: no jobs are run here; worker: nothing else is.",
    }),
    redis_url: Type.Union([Type.String({ pattern: "^rediss?://" }), Type.Null()], {
      description: "Queue of remote workers. Null: it is kept in this process.",
    }),
    queue_name: Type.String({
      pattern: "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$",
      description: "Tells installations apart that share a Redis.",
    }),
    control_url: Type.Union([Type.String({ pattern: "^https?://[^/,]+(,https?://[^/,]+)*$" }), Type.Null()], {
      description: "Where a worker gets its jobs; several control nodes are separated by commas.",
    }),
    labels: Type.Array(Label, { description: "What this worker can do that others cannot." }),
    shared: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
      description: "Folder that all control nodes see: keys, artifacts, witness. Null: the data folder.",
    }),
    advertise_url: Type.Union([Type.String({ pattern: "^https?://[^/]+$" }), Type.Null()], {
      description: "Where other control nodes reach this one. Null: the address it listens on.",
    }),
    data: Type.String({ minLength: 1, description: "Data folder (embedded database, keys, artifacts, witness)." }),
    host: Type.String({ minLength: 1 }),
    port: Type.Integer({ minimum: 0, maximum: 65_535 }),
    host_names: Type.Array(Type.String(), { description: "Names this server may be called by, besides loopback." }),
    groups: Type.Integer({
      minimum: 1,
      maximum: SHARDS,
      description:
        "Groups of runs that control nodes share out; fixed when a database (not the embedded one) is set up.",
    }),
    database_url: Type.Union([Type.String(), Type.Null()]),
    database_admin_url: Type.Union([Type.String(), Type.Null()]),
    credentials: Type.Array(
      Type.Object(
        {
          principal: Type.String({ minLength: 1 }),
          token_sha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
          permissions: Type.Array(Type.Union([Type.Literal("*"), ...PERMISSIONS.map((value) => Type.Literal(value))])),
        },
        { additionalProperties: false },
      ),
    ),
    redact: Type.Unsafe<RedactionLevel>(
      Type.Union(
        REDACTION_LEVELS.map((level) => Type.Literal(level)),
        { description: "What is taken out of captured payloads: off, secrets, or personal data too." },
      ),
    ),
    fields: Type.Array(
      Type.Object(
        {
          type: Type.Optional(Type.String({ pattern: "^[a-z_.*]{1,64}$" })),
          path: Type.Optional(Type.String({ pattern: "^(/[^/]+)+$", maxLength: 512 })),
          do: Type.Unsafe<FieldAction>(Type.Union(FIELD_ACTIONS.map((action) => Type.Literal(action)))),
        },
        { additionalProperties: false },
      ),
      {
        maxItems: 500,
        description: "Rules for single fields of captured events: drop, hash_only, redact_required, raw_allowed.",
      },
    ),
    seal_after_ms: Type.Integer({
      minimum: 0,
      maximum: 30 * 24 * 3_600_000,
      description: "How long after its end a captured run takes what comes late; then it is sealed.",
    }),
    approval_webhook: Type.Union([Type.String({ pattern: "^https?://" }), Type.Null()]),
    private_origins: Type.Array(Type.String({ pattern: "^https?://[^/]+$" })),
    stdio_tools: Type.Union([Type.Boolean(), Type.Null()], {
      description: "Whether manifests may start processes (MCP over stdio). Null: only while there are no credentials.",
    }),
    concurrency: Type.Integer({ minimum: 1, maximum: 10_000 }),
    recordings: Type.Union([Type.String(), Type.Null()], { description: "Folder of recordings for recorded models." }),
    project: Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$" }),
  },
  { additionalProperties: false },
);
export type Config = Static<typeof Config>;

const DEFAULTS: Config = {
  role: "all",
  shared: null,
  advertise_url: null,
  redis_url: null,
  queue_name: "default",
  control_url: null,
  labels: [],
  data: ".quarterdeck",
  host: "127.0.0.1",
  port: 7800,
  host_names: [],
  groups: 8,
  database_url: null,
  database_admin_url: null,
  credentials: [],
  redact: "secrets",
  fields: [],
  seal_after_ms: LIMITS.seal_after_ms,
  approval_webhook: null,
  private_origins: [],
  stdio_tools: null,
  concurrency: 256,
  recordings: null,
  project: "default",
};

const ENV: Readonly<Record<string, keyof Config>> = {
  QUARTERDECK_ROLE: "role",
  QUARTERDECK_SHARED: "shared",
  QUARTERDECK_ADVERTISE_URL: "advertise_url",
  QUARTERDECK_GROUPS: "groups",
  REDIS_URL: "redis_url",
  QUARTERDECK_QUEUE_NAME: "queue_name",
  QUARTERDECK_CONTROL_URL: "control_url",
  QUARTERDECK_LABELS: "labels",
  QUARTERDECK_DATA: "data",
  QUARTERDECK_HOST: "host",
  QUARTERDECK_PORT: "port",
  DATABASE_URL: "database_url",
  DATABASE_ADMIN_URL: "database_admin_url",
  QUARTERDECK_REDACT: "redact",
  QUARTERDECK_SEAL_AFTER_MS: "seal_after_ms",
  QUARTERDECK_APPROVAL_WEBHOOK: "approval_webhook",
  QUARTERDECK_PRIVATE_ORIGINS: "private_origins",
  QUARTERDECK_CONCURRENCY: "concurrency",
};

const NUMBERS: ReadonlySet<string> = new Set(["port", "concurrency", "groups", "seal_after_ms"]);
const LISTS: ReadonlySet<string> = new Set(["private_origins", "labels"]);

const validator = Compile(Config);

function fromEnv(env: NodeJS.ProcessEnv): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [name, key] of Object.entries(ENV)) {
    const value = env[name];
    if (value === undefined || value === "") continue;
    const isNumber = NUMBERS.has(key);
    out[key] = isNumber ? Number(value) : LISTS.has(key) ? value.split(",") : value;
  }
  return out;
}

function fromFile(file: string | undefined): Record<string, unknown> {
  const target = file ?? "quarterdeck.config.yaml";
  let text: string;
  try {
    text = readFileSync(target, "utf8");
  } catch (cause) {
    if (file === undefined) return {};
    throw new AppError("CONFIG_INVALID", `The configuration file ${file} cannot be read: ${messageOf(cause)}`);
  }
  const value: unknown = parse(text);
  if (typeof value !== "object" || value === null) throw new AppError("CONFIG_INVALID", `${target} is no mapping`);
  return value as Record<string, unknown>;
}

/** Reads the configuration. Throws CONFIG_INVALID naming each setting that is wrong. */
export function loadConfig(flags: Record<string, unknown> = {}, env: NodeJS.ProcessEnv = process.env): Config {
  const given = Object.fromEntries(
    Object.entries(flags).filter(([key, value]) => value !== undefined && key !== "config"),
  );
  const merged = { ...DEFAULTS, ...fromFile(flags["config"] as string | undefined), ...fromEnv(env), ...given };
  const errors: FieldError[] = faults(validator, merged, "");
  const config = merged;
  if (errors.length === 0 && config.role === "worker" && config.control_url === null)
    errors.push({
      pointer: "/control_url",
      message: "a worker needs the address of its control plane (--control URL)",
    });
  if (errors.length === 0 && !isLoopback(config.host) && config.credentials.length === 0) {
    errors.push({
      pointer: "/host",
      message: `${config.host} is not loopback; configure credentials first, or use 127.0.0.1`,
    });
  }
  if (errors.length > 0) {
    throw new AppError("CONFIG_INVALID", errors.map((e) => `${e.pointer || "/"} ${e.message}`).join("; "), { errors });
  }
  const shared = config.shared === null ? null : path.resolve(config.shared);
  return { ...config, shared, data: path.resolve(config.data) };
}

/** A worker's credential. It comes by environment alone: a file of settings is read by too many. */
export function workerToken(): string {
  const token = process.env["QUARTERDECK_WORKER_TOKEN"] ?? "";
  if (token === "")
    throw new AppError(
      "CONFIG_INVALID",
      "QUARTERDECK_WORKER_TOKEN is not set; mint one with: quarterdeck workers mint NAME",
    );
  return token;
}

/** Environment for secrets; read at the moment of use. */
export function secretEnvironment(): Readonly<Record<string, string | undefined>> {
  return process.env;
}

/** Set by chaos tests alone; see crash-points.ts. */
export function crashSetting(): string | undefined {
  return process.env["QUARTERDECK_CRASH_AT"];
}
