// The protocol's own conformance suite against the gateway, in the current revision and the one before: every scenario that
// concerns what the gateway offers. Those of logging, subscriptions to resources, sampling, elicitation and tasks do not: it offers
// none of these.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const SUITE = path.join(import.meta.dirname, "../../node_modules/@modelcontextprotocol/conformance/dist/index.js");
const OLD_NODE = path.join(import.meta.dirname, "../support/old-node.mjs");
const SERVER = path.join(import.meta.dirname, "../support/mcp-conformance.mjs");
const TOOLS = [...readFileSync(SERVER, "utf8").matchAll(/^ {2}((?:test|json)_\w+):/gm)].map(([, name]) => name ?? "");
const BOTH = [
  "tools-list",
  "tools-call-simple-text",
  "tools-call-image",
  "tools-call-audio",
  "tools-call-embedded-resource",
  "tools-call-mixed-content",
  "tools-call-error",
  "json-schema-2020-12",
  "dns-rebinding-protection",
  "resources-list",
  "resources-read-text",
  "resources-read-binary",
  "resources-templates-read",
  "prompts-list",
  "prompts-get-simple",
  "prompts-get-with-args",
  "prompts-get-embedded-resource",
  "prompts-get-with-image",
  "completion-complete",
];
const PREVIOUS = ["server-initialize", "ping", ...BOTH];
/** `server-stateless` apart: it wants a tool that asks its client for a model, and a change of the tools in its middle. */
const CURRENT = [
  ...BOTH,
  "http-header-validation",
  "http-custom-header-server-validation",
  "input-required-result-unsupported-methods",
  "input-required-result-ignore-extra-params",
  "server-sse-multiple-streams",
  "sep-2164-resource-not-found",
];
const run = promisify(execFile);
let data: string;
let server: Running;

beforeAll(async () => {
  data = tempFolder("qd-conformance");
  server = await startUp(data);
  await server.client.apply(`
kind: Tool
metadata: { name: suite }
spec:
  kind: mcp
  transport: stdio
  command: ["${process.execPath}", "${SERVER}"]
  tools: [${TOOLS.map((name) => `{ name: ${name}, effect_class: read }`).join(", ")}]
  resources: true
  prompts: true
  completions: true
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`);
});
afterAll(async () => {
  await server.stop();
  remove(data);
});

async function report(scenario: string, revision: string): Promise<string> {
  const url = `${server.url}/mcp/servers/suite`;
  const args = ["server", "--url", url, "--scenario", scenario, "--spec-version", revision];
  const { stdout } = await run(process.execPath, ["--import", OLD_NODE, SUITE, ...args], {
    cwd: data,
    timeout: 60_000,
  }).catch((error: { stdout: string; stderr: string }) => ({ stdout: error.stdout + error.stderr }));
  return stdout;
}

test.each([
  ...PREVIOUS.map((scenario) => ["2025-11-25", scenario] as const),
  ...CURRENT.map((scenario) => ["2026-07-28", scenario] as const),
])("%s: %s", async (revision, scenario) => {
  expect(await report(scenario, revision)).toMatch(/Passed: [1-9]\d*\/\d+, 0 failed/);
});

test("2026-07-28: server-stateless, but for what it asks of tools that nobody offers here", async () => {
  const said = await report("server-stateless", "2026-07-28");
  const failed = [...said.matchAll(/\[(sep-[\w-]+)\s*\] \S*FAILURE/g)].map(([, check]) => check);
  expect(failed).toEqual(["sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"]);
  expect(said).toMatch(/Passed: 26\/28/);
});
