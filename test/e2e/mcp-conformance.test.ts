// The protocol's own conformance suite against the gateway: every scenario of its active list that concerns what the gateway
// offers. Those of prompts, resources, completion, logging, sampling and elicitation do not: it offers none of these.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const SUITE = path.join(import.meta.dirname, "../../node_modules/@modelcontextprotocol/conformance/dist/index.js");
const SERVER = path.join(import.meta.dirname, "../support/mcp-conformance.mjs");
const TOOLS = [...readFileSync(SERVER, "utf8").matchAll(/^ {2}((?:test|json)_\w+):/gm)].map(([, name]) => name ?? "");
const SCENARIOS = [
  "server-initialize",
  "ping",
  "tools-list",
  "tools-call-simple-text",
  "tools-call-image",
  "tools-call-audio",
  "tools-call-embedded-resource",
  "tools-call-mixed-content",
  "tools-call-error",
  "json-schema-2020-12",
  "dns-rebinding-protection",
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

test.each(SCENARIOS)("%s", async (scenario) => {
  const url = `${server.url}/mcp/servers/suite`;
  const options = { cwd: data, timeout: 60_000 };
  const { stdout } = await run(
    process.execPath,
    [SUITE, "server", "--url", url, "--scenario", scenario],
    options,
  ).catch((error: { stdout: string; stderr: string }) => Promise.reject(new Error(error.stdout + error.stderr)));
  expect(stdout).toMatch(/Passed: [1-9]\d*\/\d+, 0 failed/);
});
