// Recorded runs of other systems: each file imports, verifies, and loses no text of what was said or done.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { importRecorded } from "../../src/capture/import.ts";
import { Redactor } from "../../src/capture/redact.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { verifyRun } from "../../src/journal/verify.ts";
import { seams, TENANT } from "../support/engine.ts";

const RUNS = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs",
);
const present = existsSync(RUNS);
if (!present) console.warn(`SKIPPED: the recorded runs are not there (${RUNS}); set QUARTERDECK_SHARED_DATA`);
const caller = { tenant_id: TENANT, project: "default", principal: "ada" };

const files = (folder: string, wanted: RegExp): string[] =>
  present
    ? readdirSync(path.join(RUNS, folder), { recursive: true })
        .map(String)
        .filter((name) => wanted.test(name))
        .map((name) => `${folder}/${name}`)
    : [];
const load = async (format: string, file: string) => {
  const text = readFileSync(path.join(RUNS, file), "utf8");
  const runs = await importRecorded({ format, text, caller, seams, redactor: new Redactor("off") });
  return runs.map((run) => {
    expect(verifyRun(run.rows)).toMatchObject({ events: run.rows.at(-1)?.last_seq });
    return { ...run, events: run.rows.flatMap((row) => decodeBody(row.body)) };
  });
};
type Loaded = Awaited<ReturnType<typeof load>>[number];
const count = (run: Loaded | undefined, type: string) => run?.events.filter((event) => event.type === type).length ?? 0;

describe.skipIf(!present)("importers", () => {
  test.each(files("tau2-activegraph", /results\.json$/))("tau2: %s", async (file) => {
    const source = JSON.parse(readFileSync(path.join(RUNS, file), "utf8")) as {
      simulations: { messages: { role: string; tool_calls: unknown[] | null }[] }[];
    };
    const runs = await load("tau2", file);
    expect(runs).toHaveLength(source.simulations.length);
    for (const [i, { messages }] of source.simulations.entries()) {
      expect(count(runs[i], "model.completed")).toBe(messages.filter((message) => message.role === "assistant").length);
      expect(count(runs[i], "tool.requested")).toBe(
        messages.reduce((sum, message) => sum + (message.tool_calls?.length ?? 0), 0),
      );
      expect(count(runs[i], "journal.import_note")).toBe(0);
    }
  });

  test.each(files("tau2-toolorchestra", /simulations\.jsonl$/))("tau2: %s", async (file) => {
    const lines = readFileSync(path.join(RUNS, file), "utf8").trim().split("\n");
    const runs = await load("tau2", file);
    expect(runs).toHaveLength(lines.length);
    expect(runs.every((run) => run.summary.steps > 0)).toBe(true);
  });

  test.each(files("swe-agent", /\.traj\.json$/))("SWE-agent: %s", async (file) => {
    const { trajectory } = JSON.parse(readFileSync(path.join(RUNS, file), "utf8")) as {
      trajectory: { action: string; observation: string }[];
    };
    const [run] = await load("swe-agent", file);
    expect(count(run, "model.completed")).toBe(trajectory.length);
    const commands = run?.events
      .filter((event) => event.type === "tool.requested")
      .map((event) => event.data["args"]) as { command: string }[];
    expect(commands.map(({ command }) => command)).toEqual(
      trajectory.map(({ action }) => action).filter((action) => action.trim() !== ""),
    );
    const results = run?.events.filter((event) => event.type === "tool.completed").map((event) => event.data["result"]);
    expect(results).toEqual(
      trajectory.filter(({ action }) => action.trim() !== "").map(({ observation }) => observation),
    );
  });

  test.each(files("openhands", /\.json$/))("OpenHands: %s", async (file) => {
    const source = JSON.parse(readFileSync(path.join(RUNS, file), "utf8")) as unknown[] | { history: unknown[] };
    const all = (Array.isArray(source) ? source : source.history).flat() as {
      action?: string;
      source?: string;
      observation?: string;
    }[];
    const [run] = await load("openhands", file);
    const acted = all.filter(
      (event) => event.action !== undefined && !["message", "finish", "system"].includes(event.action),
    );
    expect(count(run, "tool.requested")).toBe(acted.length);
    expect(count(run, "tool.completed") + count(run, "journal.import_note")).toBe(
      all.filter((event) => event.observation !== undefined).length,
    );
    expect(run?.summary.steps).toBeGreaterThan(0);
  });

  test.each(files("langfuse-framework-traces", /trace\.json$/))("Langfuse: %s", async (file) => {
    const { observations } = JSON.parse(readFileSync(path.join(RUNS, file), "utf8")) as {
      observations: { type: string }[];
    };
    const [run] = await load("langfuse", file);
    const of = (...types: string[]) => observations.filter(({ type }) => types.includes(type)).length;
    expect(run?.fidelity).toBe("span");
    expect(count(run, "model.completed")).toBe(of("GENERATION"));
    expect(count(run, "tool.completed")).toBe(of("TOOL", "RETRIEVER"));
    const said = run?.events.filter((event) => event.type === "model.completed").map((event) => event.data["content"]);
    expect(said?.every((content) => content === null || typeof content === "string")).toBe(true);
  });

  test.each(files("mcp-sessions-goose", /\.jsonl$/))("MCP sessions: %s", async (file) => {
    const [run, ...others] = await load("mcp-session", file);
    const calls = readFileSync(path.join(RUNS, file), "utf8").split('"tools/call"').length - 1;
    expect(others).toEqual([]);
    expect([count(run, "tool.requested"), count(run, "tool.completed")]).toEqual([calls, calls]);
    expect(run?.key).toMatch(/^[a-z-]+@[\d.]+$/);
    if (file.includes("goose-developer"))
      expect(run?.events.find((event) => event.type === "tool.completed")?.data).toMatchObject({
        is_error: true,
        result: { code: -32603 },
      });
    else
      expect(run?.events.find((event) => event.type === "tool.completed")?.data).toMatchObject({
        result: { structuredContent: { result: 5 } },
      });
  });

  test("a document of another format is refused with its line", async () => {
    for (const format of ["tau2", "swe-agent", "openhands", "langfuse", "anthropic-messages", "atif"])
      await expect(importRecorded({ format, text: '{"nothing": 1}', caller, seams })).rejects.toThrow(
        /line 1: this is no document of format/,
      );
  });
});
