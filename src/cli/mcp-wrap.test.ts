// Asking a server over stdio what it offers, in whichever revision of the protocol it speaks.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { offered } from "./mcp-wrap.ts";

const LIBRARY = `
import { McpServer } from "${import.meta.resolve("@modelcontextprotocol/server")}";
import { serveStdio } from "${import.meta.resolve("@modelcontextprotocol/server/stdio")}";
console.log("not a message");
serveStdio(() => {
  const server = new McpServer({ name: "s", version: "1" });
  for (const name of ["find", "burn"]) server.registerTool(name, { description: name }, () => ({ content: [] }));
  server.registerPrompt("ask", { description: "asks" }, () => ({ messages: [] }));
  return server;
}, { legacy: process.argv[2] });`;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "qd-wrap-"));
  writeFileSync(path.join(folder, "server.mjs"), LIBRARY);
});
afterAll(() => rmSync(folder, { recursive: true }));

test.each(["serve", "reject"])("a server that would %s the revisions before the current one", async (how) => {
  expect(await offered([process.execPath, "server.mjs", how], folder)).toEqual({
    tools: ["find", "burn"],
    resources: false,
    prompts: true,
    completions: false,
  });
});

test("one that ends, or is not there, is told apart", async () => {
  writeFileSync(path.join(folder, "end.mjs"), "process.exit(3);");
  await expect(offered([process.execPath, "end.mjs"], folder)).rejects.toThrow(/ended with 3 before/);
  await expect(offered(["no-such-command-here"], folder)).rejects.toThrow(/cannot be started/);
});
