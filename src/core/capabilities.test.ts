// What tools need, what agents may make use of: derived from manifests, and held at the gate, on record.
import { expect, test } from "vitest";
import { readManifests } from "../orchestrator/manifests.ts";
import { BUILTINS } from "../worker/builtin-tool.ts";
import type { RegistryItem } from "../contract/manifests.ts";
import { agent, calls, finish, open, result, says, tool } from "../../test/support/scripted-engine.ts";
import { buildCatalog } from "./catalog.ts";

const MCP = (transport: string) => `
kind: Tool
metadata: { name: ${transport.slice(0, transport.indexOf(","))} }
spec: { kind: mcp, transport: ${transport}, tools: [{ name: use }, { name: train, requires: [gpu] }], resources: true }
---`;
const MANIFESTS = `${MCP('stdio, command: ["serve"]')}${MCP('http, url: "https://tools.example"')}
kind: Tool
metadata: { name: web }
spec: { kind: http, method: GET, url: "https://web.example/", input_schema: { type: object }, requires: [gpu, network] }
---
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Tool
metadata: { name: read }
spec: { kind: builtin, builtin: file_read, root: /tmp }
---
kind: Agent
metadata: { name: offline }
spec: { model: m, tools: ["*"], capabilities: [fs, subprocess] }
---
kind: Agent
metadata: { name: free }
spec: { model: m, tools: ["*"] }
`;

function catalog() {
  const definitions = ["use", "train"].map((name) => ({
    name,
    description: "",
    input_schema: {},
    output_schema: null,
    digest: name,
  }));
  const items = readManifests(MANIFESTS).map(({ kind, name, spec }): RegistryItem => {
    const stored = kind === "Tool" ? { ...(spec as object), definitions } : spec;
    return { kind, name, version: 1, digest: "d", state: "released", spec: stored, created_by: "t", created_at_us: 0 };
  });
  return buildCatalog({ items, current: new Map(items.map(({ kind, name }) => [`${kind}/${name}`, 1])) }, BUILTINS);
}

test("what a tool needs follows from its kind, and from what its manifest adds", () => {
  const of = (name: string) => catalog().tool(name)?.requires;
  expect(["noop", "read", "web"].map(of)).toEqual([undefined, ["fs"], ["gpu", "network"]]);
  expect(["stdio.use", "stdio.train", "stdio.read_resource"].map(of)).toEqual([
    ["subprocess"],
    ["gpu", "subprocess"],
    ["subprocess"],
  ]);
  expect(["http.use", "http.train", "http.read_resource"].map(of)).toEqual([
    ["network"],
    ["gpu", "network"],
    ["network"],
  ]);
});

test("a model is offered only what its agent may make use of; an agent that says nothing is offered all", () => {
  const offered = (name: string) => {
    const found = catalog();
    const { tools = [], capabilities } = found.agent(name) ?? {};
    return found.toolsMatching(tools, capabilities).map((one) => one.name);
  };
  expect(offered("offline")).toEqual([
    "noop",
    "read",
    "stdio.list_resource_templates",
    "stdio.list_resources",
    "stdio.read_resource",
    "stdio.use",
  ]);
  expect(offered("free")).toContain("http.train");
});

test("a call that needs more is denied, on record with what it needs, and is not made", async () => {
  const world = {
    agent: agent({ capabilities: ["fs"] }),
    tools: [tool("t.net", { requires: ["network"] }), tool("t.disk", { requires: ["fs"] })],
  };
  const h = await open(world, (job) => {
    if (job.kind === "tool") return result(job.tool.name);
    return job.messages.length === 2
      ? says(null, [calls("t.net", "{}", "a"), calls("t.disk", "{}", "b")])
      : says("done");
  });
  const { id, state } = await finish(h, "agent");
  expect(state).toBe("succeeded");
  const events = h.events(id);
  expect(events.find(({ type }) => type === "tool.denied")?.data).toEqual({
    message: "The tool t.net is not available: capability_missing (it needs network).",
    reason: "capability_missing",
  });
  expect(events.find(({ type, data }) => type === "policy.decided" && data["decision"] === "deny")?.data).toMatchObject(
    {
      reason: "capability_missing",
      rules: [],
    },
  );
  expect(h.jobs.flatMap((job) => (job.kind === "tool" ? [job.tool.name] : []))).toEqual(["t.disk"]);
});

test("a capability that there is none of is refused in the manifest", () => {
  const text = "kind: Agent\nmetadata: { name: a }\nspec: { model: m, capabilities: [everything] }\n";
  expect(() => readManifests(text)).toThrow("/spec/capabilities/0");
});
