// Routes of the journal as a whole: verify, export, import. Part of the route table (routes.ts).
import { Type } from "typebox";
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

export const JOURNAL_ROUTES = {
  verify: {
    method: "POST",
    path: "/journal/verify",
    permission: "journal:verify",
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
