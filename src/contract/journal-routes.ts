// Routes of the journal as a whole: verify, export, import. Part of the route table (routes.ts).
import { Type, type Static } from "typebox";
import { COMMON_ERRORS } from "./errors.ts";
import { Name } from "./ids.ts";
import type { Route } from "./routes.ts";

/** `minimal`: the journal and what governed it; `full`: the artifacts too. */
export const EXPORT_PROFILES = ["minimal", "full"] as const;
export type ExportProfile = (typeof EXPORT_PROFILES)[number];

const Text = Type.String();
const VerifyResult = Type.Object({
  runs: Type.Integer(),
  events: Type.Integer(),
  appends: Type.Integer(),
  checkpoints: Type.Integer(),
  faults: Type.Array(Type.String()),
  ok: Type.Boolean(),
});

export const EVENT_PROOF_FORMAT = "quarterdeck/event-proof/v1";
export const EventProof = Type.Object({
  format: Type.Literal(EVENT_PROOF_FORMAT),
  tenant_id: Type.String(),
  run_id: Type.String(),
  seq: Type.Integer({ minimum: 1 }),
  event: Type.String({ description: "The event as it is stored, byte for byte." }),
  path: Type.Array(Type.String(), { description: "Hashes from the event's leaf to the root, hex." }),
  seal: Type.Object({
    key_id: Type.String(),
    last_seq: Type.Integer(),
    root: Type.String(),
    signature: Type.String(),
  }),
  public_key: Type.String({ description: "PEM; who trusts it needs nothing else." }),
});
export type EventProof = Static<typeof EventProof>;

export const JOURNAL_ROUTES = {
  proveEvent: {
    method: "GET",
    path: "/runs/:id/events/:seq/proof",
    permission: "journal:export",
    summary: "Shows that one event stands in a sealed run, and nothing else of the run.",
    params: Type.Object(
      { id: Type.String({ maxLength: 64 }), seq: Type.String({ pattern: "^[1-9]\\d{0,8}$" }) },
      { additionalProperties: false },
    ),
    status: 200,
    response: EventProof,
    errors: [...COMMON_ERRORS, "NOT_FOUND", "CONFLICT", "PRIVACY_RISK"],
  },
  verify: {
    method: "POST",
    path: "/journal/verify",
    permission: "journal:verify",
    tool: "verify_journal",
    summary: "Verifies the chain of one run, or every chain and checkpoint.",
    node: "signer",
    body: Type.Object({ run_id: Type.Optional(Type.String({ maxLength: 64 })) }, { additionalProperties: false }),
    status: 200,
    response: VerifyResult,
    errors: [...COMMON_ERRORS, "NOT_FOUND"],
  },
  exportJournal: {
    method: "GET",
    path: "/journal/export",
    permission: "journal:export",
    summary: "Exports one run, or everything as a backup.",
    node: "signer",
    query: Type.Object(
      {
        run_id: Type.Optional(Type.String({ maxLength: 64 })),
        profile: Type.Optional(Type.Union(EXPORT_PROFILES.map((profile) => Type.Literal(profile)))),
      },
      { additionalProperties: false },
    ),
    status: 200,
    response: Text,
    produces: "application/x-ndjson",
    errors: [...COMMON_ERRORS, "NOT_FOUND", "ARTIFACT_MISSING", "PRIVACY_RISK"],
  },
  importJournal: {
    method: "POST",
    path: "/journal/import",
    permission: "journal:import",
    summary: "Imports an export file; refused whole when one byte is wrong.",
    node: "signer",
    query: Type.Object(
      {
        groups: Type.Optional(
          Type.String({ pattern: "^\\d{1,2}(,\\d{1,2})*$", description: "Only runs of these shard groups." }),
        ),
        budgets: Type.Optional(Type.Union([Type.Literal("true"), Type.Literal("false")])),
      },
      { additionalProperties: false },
    ),
    body: Text,
    accepts: "application/x-ndjson",
    status: 200,
    response: Type.Object({
      runs: Type.Integer(),
      events: Type.Integer(),
      artifacts: Type.Integer(),
      skipped: Type.Integer(),
      elsewhere: Type.Array(Type.Integer(), { description: "Groups of runs that were left to other nodes." }),
    }),
    errors: [...COMMON_ERRORS, "IMPORT_INVALID", "PAYLOAD_TOO_LARGE"],
  },
  importRuns: {
    method: "POST",
    path: "/journal/import/:format",
    permission: "journal:import",
    summary: "Imports recorded runs of other systems as captured runs; docs/capture.md has the formats.",
    params: Type.Object({ format: Name }, { additionalProperties: false }),
    body: Text,
    accepts: "application/x-ndjson",
    status: 200,
    response: Type.Object({
      runs: Type.Array(
        Type.Object({ run_id: Type.String(), key: Type.String(), events: Type.Integer(), fidelity: Type.String() }),
      ),
    }),
    errors: [...COMMON_ERRORS, "IMPORT_INVALID", "PAYLOAD_TOO_LARGE"],
  },
} as const satisfies Record<string, Route>;
