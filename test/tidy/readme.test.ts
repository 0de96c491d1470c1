// What the README shows can be applied as it stands.
import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { readManifests } from "../../src/orchestrator/manifests.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");

test("the manifests in the README are manifests, and its triggers start what the starter project has", () => {
  const readme = readFileSync(path.join(ROOT, "README.md"), "utf8");
  const shown = [...readme.matchAll(/```yaml\n(kind:[\s\S]*?)```/g)].flatMap(([, text = ""]) => readManifests(text));
  expect(shown.map(({ kind }) => kind)).toEqual(["Trigger", "Trigger", "Trigger", "Intent"]);
  const starter = readManifests(readFileSync(path.join(ROOT, "examples/starter/project.yaml"), "utf8"));
  const nightly = shown.find(({ name }) => name === "nightly");
  const workflows = starter.filter(({ kind }) => kind === "Workflow").map(({ name }) => name);
  expect(workflows).toContain((nightly?.spec as { workflow?: string } | undefined)?.workflow);
});
