import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { ERRORS } from "../contract/errors.ts";
import { PERMISSIONS, ROUTES } from "../contract/routes.ts";
import type { Route } from "../contract/routes.ts";
import { VERSION } from "../server/version.ts";
import { openapiDocument } from "./openapi.ts";

const root = path.resolve(import.meta.dirname, "../..");

test("openapi.json in the repository is the route table's (npm run generate)", () => {
  expect(JSON.parse(readFileSync(path.join(root, "openapi.json"), "utf8"))).toEqual(openapiDocument(VERSION));
});

test("every route has a permission and known errors; only probes are public", () => {
  for (const [id, route] of Object.entries(ROUTES) as [string, Route][]) {
    expect(PERMISSIONS, id).toContain(route.permission);
    for (const code of route.errors) expect(Object.keys(ERRORS), id).toContain(code);
    if (route.permission === "public") expect(["live", "ready", "openapi"]).toContain(id);
  }
});

test("docs/errors.md lists exactly the error table (npm run generate)", () => {
  const text = readFileSync(path.join(root, "docs/errors.md"), "utf8");
  const rows = [...text.matchAll(/^\| `([A-Z_]+)` \| (\d+) \| (\d) \|/gm)].map((match) => [
    match[1],
    Number(match[2]),
    Number(match[3]),
  ]);
  expect(rows).toEqual(Object.entries(ERRORS).map(([code, row]) => [code, row.status, row.exit]));
});
