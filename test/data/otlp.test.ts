// Real exports of several systems: each is read, or refused in words; none breaks anything. As JSON, as it was recorded.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { spansOfJson } from "../../src/capture/otlp/decode-json.ts";
import { CaptureWorld } from "../support/capture-world.ts";

const FOLDER = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs/otlp-export-samples",
);
const present = existsSync(FOLDER);
if (!present) console.warn(`SKIPPED: the recorded exports are not there (${FOLDER}); set QUARTERDECK_SHARED_DATA`);
const files = present ? readdirSync(FOLDER).filter((name) => name.endsWith(".json")) : [];
const load = (file: string) => (JSON.parse(readFileSync(path.join(FOLDER, file), "utf8")) as { otlp: unknown }).otlp;

describe.skipIf(!present)("recorded exports", () => {
  test.each(files)("%s", async (file) => {
    const world = await new CaptureWorld().open();
    const exported = spansOfJson(load(file));
    const result = await world.otlp.traces(world.caller, exported);
    expect(result.rejected).toBe(exported.faults.length);
    for (const run of world.store.runs.values()) {
      const events = await world.events(run.run_id);
      expect(events[0]?.data["fidelity"]).toBe("span");
      expect(events.length).toBeGreaterThan(1);
    }
    expect(world.store.runs.size).toBe(new Set(exported.items.map((span) => span.trace_id)).size);
  });

  test("a model call in the words of Semantic Kernel", async () => {
    const world = await new CaptureWorld().open();
    await world.otlp.traces(world.caller, spansOfJson(load("06_Microsoft-SemanticKernel.json")));
    const [run] = world.store.runs.values();
    const events = await world.events(run?.run_id ?? "");
    expect(events.find((event) => event.type === "model.requested")?.data).toMatchObject({
      model: "gpt-4-0613",
      request: { messages: [{ role: "system" }, { role: "user", content: "What is the capital of France?" }] },
    });
    expect(events.find((event) => event.type === "model.completed")?.data).toMatchObject({
      content: "The capital of France is Paris.",
      finish_reasons: ["stop"],
    });
  });
});
