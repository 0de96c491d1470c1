// OpenAPI 3.1 from the route table. TypeBox schemas are JSON Schema 2020-12, which 3.1 uses as it is.
import type { TSchema } from "typebox";
import { ERRORS } from "../contract/errors.ts";
import type { ErrorCode } from "../contract/errors.ts";
import { ROUTES } from "../contract/routes.ts";
import { API_PREFIX } from "../contract/paths.ts";
import type { Route } from "../contract/routes.ts";
import type { JsonObject } from "../kit/json.ts";

const plain = (schema: TSchema): JsonObject => {
  const copy = JSON.parse(JSON.stringify(schema)) as JsonObject;
  delete copy["$id"];
  return copy;
};

const PROBLEM: JsonObject = {
  type: "object",
  required: ["type", "title", "status", "code", "detail", "request_id", "retryable"],
  properties: {
    type: { type: "string" },
    title: { type: "string" },
    status: { type: "integer" },
    code: { type: "string", enum: Object.keys(ERRORS) },
    detail: { type: "string" },
    remedy: { type: "string" },
    request_id: { type: "string" },
    retryable: { type: "boolean" },
    errors: {
      type: "array",
      items: {
        type: "object",
        properties: { pointer: { type: "string" }, message: { type: "string" }, line: { type: "integer" } },
      },
    },
    details: { type: "object" },
  },
};

function parameters(route: Route): JsonObject[] {
  const of = (schema: TSchema | undefined, where: string): JsonObject[] => {
    const properties = (schema ? plain(schema)["properties"] : {}) as Record<string, JsonObject>;
    return Object.entries(properties).map(([name, value]) => {
      return { name, in: where, required: where === "path", schema: value };
    });
  };
  const key: JsonObject[] = route.idempotent
    ? [{ name: "Idempotency-Key", in: "header", required: false, schema: { type: "string" } }]
    : [];
  return [...of(route.params, "path"), ...of(route.query, "query"), ...key];
}

function errorResponses(codes: readonly ErrorCode[]): JsonObject {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of new Set(codes))
    byStatus.set(ERRORS[code].status, [...(byStatus.get(ERRORS[code].status) ?? []), code]);
  return Object.fromEntries(
    [...byStatus]
      .sort(([a], [b]) => a - b)
      .map(([status, list]) => [
        String(status),
        {
          description: list.map((code) => `${code}: ${ERRORS[code].title}.`).join(" "),
          content: { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } },
        },
      ]),
  );
}

function operation(id: string, route: Route): JsonObject {
  const body: JsonObject = route.body
    ? {
        requestBody: {
          required: true,
          content: { [route.accepts ?? "application/json"]: { schema: plain(route.body) } },
        },
      }
    : {};
  return {
    operationId: id,
    summary: route.summary,
    "x-permission": route.permission,
    ...(route.permission === "public" ? { security: [] } : {}),
    parameters: parameters(route),
    ...body,
    responses: {
      [String(route.status)]: {
        description: "Done.",
        content: { [route.produces ?? "application/json"]: { schema: plain(route.response) } },
      },
      ...errorResponses(route.errors),
    },
  };
}

/** The whole document; the same for the same program, so it can be kept in the repository and compared. */
export function openapiDocument(version: string): JsonObject {
  const paths: Record<string, JsonObject> = {};
  for (const [id, route] of Object.entries(ROUTES) as [string, Route][]) {
    const path = (API_PREFIX + route.path).replaceAll(/:([a-z_]+)/g, "{$1}");
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(id, route) };
  }
  return {
    openapi: "3.1.0",
    info: { title: "Quarterdeck", version, license: { name: "Apache-2.0", identifier: "Apache-2.0" } },
    servers: [{ url: "/" }],
    security: [{ bearer: [] }],
    paths,
    components: { schemas: { Problem: PROBLEM }, securitySchemes: { bearer: { type: "http", scheme: "bearer" } } },
  };
}
