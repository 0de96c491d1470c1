// What the servers of MCP tools say of them now, beside what was pinned; and the routes to look and to approve.
import { Type, type Static } from "typebox";
import { COMMON_ERRORS } from "./errors.ts";
import { Name } from "./ids.ts";
import { Applied } from "./manifests.ts";
import type { Route } from "./routes.ts";

const Definition = Type.Object({
  description: Type.String(),
  input_schema: Type.Unknown(),
  output_schema: Type.Unknown(),
  digest: Type.String(),
});
const Digest = Type.String({ pattern: "^sha256:[0-9a-f]{64}$" });

export const ToolReview = Type.Object({
  name: Type.String(),
  version: Type.Integer({ description: "The version that was applied last." }),
  digest: Type.String({ description: "Of all definitions as they are now: what an approval is bound to." }),
  changed: Type.Boolean({ description: "Calls of changed tools are refused until somebody approves." }),
  tools: Type.Array(
    Type.Object({
      name: Type.String(),
      status: Type.Union([Type.Literal("same"), Type.Literal("changed"), Type.Literal("missing")]),
      pinned: Definition,
      current: Type.Union([Definition, Type.Null()]),
    }),
  ),
});
export type ToolReview = Static<typeof ToolReview>;

const errors = [...COMMON_ERRORS, "NOT_FOUND", "DEPENDENCY_UNAVAILABLE"] as const;
const params = Type.Object({ name: Name }, { additionalProperties: false });

export const TOOL_ROUTES = {
  reviewTool: {
    method: "POST",
    path: "/tools/:name/review",
    permission: "registry:write",
    summary: "Asks the server of an MCP tool for its definitions, and compares them with the pinned ones.",
    params,
    status: 200,
    response: ToolReview,
    errors,
  },
  approveTool: {
    method: "POST",
    path: "/tools/:name/approve",
    permission: "registry:write",
    summary: "Pins the definitions of an MCP tool as they are now, when they are those that were reviewed.",
    params,
    body: Type.Object({ digest: Digest }, { additionalProperties: false }),
    status: 200,
    response: Applied,
    errors: [...errors, "CONFLICT"],
  },
} as const satisfies Record<string, Route>;
