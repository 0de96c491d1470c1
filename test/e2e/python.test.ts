// The Python file: parents of branches that run together, a server that is away, and fail-closed.
import { spawn, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import { remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.py");
const hasPython = spawnSync("python3", ["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]).status === 0;
if (!hasPython) console.warn("SKIPPED: there is no python3 of version 3.9 or later; install it to run this suite");
let data: string;
let folder: string;
let server: Running;
beforeAll(async () => {
  data = tempFolder("qd-python");
  folder = tempFolder("qd-python-spill");
  server = await startUp(data);
});
afterAll(async () => {
  await server.stop();
  remove(data);
  remove(folder);
});

interface Told {
  readonly first: string;
  readonly figures: { recorded: number; acknowledged: number; spilled: number; lost: number };
  readonly problems: string[];
}

async function python(what: string, spill = "kept", url = server.url): Promise<Told> {
  const env = { PATH: process.env["PATH"], QUARTERDECK_URL: url };
  const child = spawn("python3", [AGENT, what, path.join(folder, spill)], { env });
  let out = "";
  let errors = "";
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  const code = await new Promise((resolve) => child.once("close", resolve));
  expect([code, errors]).toEqual([0, ""]);
  const lines = out.trim().split("\n");
  return { first: lines[0] ?? "", ...(JSON.parse(lines.at(-1) ?? "{}") as Omit<Told, "first">) };
}

/** The run that `whole` makes, told as it should be. */
function isWhole(list: readonly Event[]): void {
  expect(list[0]).toMatchObject({ type: "run.started", data: { input: "go", labels: { team: "a" } } });
  expect(list.at(-1)).toMatchObject({ type: "run.succeeded", data: { output: "done" } });
  const names = new Map(
    list.flatMap((event) => (event.type === "step.started" ? [[event.step_id, event.data["name"]]] : [])),
  );
  const parentOf = (event: Event) => names.get(event.parent_step_id);
  for (const side of ["left", "right"]) {
    const tool = list.find((event) => event.data["tool"] === `tool.${side}`);
    expect(tool && parentOf(tool)).toBe(side);
  }
  expect(
    list
      .filter((event) => event.type === "model.requested")
      .map((event) => parentOf(event))
      .toSorted((a, b) => String(a).localeCompare(String(b))),
  ).toEqual(["left", "right"]);
  expect(list.filter((event) => event.data["tool"] === "thread").every((event) => parentOf(event) === "threads")).toBe(
    true,
  );
  expect(list.filter((event) => event.type === "tool.completed")).toHaveLength(22);
  expect(list.find((event) => event.type === "tool.failed")?.data).toMatchObject({ code: "ZeroDivisionError" });
  expect(list.find((event) => event.type === "retrieval.completed")?.data).toMatchObject({
    documents: [{ id: "d1", rank: 1 }],
  });
  expect(list.some((event) => event.type.startsWith("journal."))).toBe(false);
}

test.skipIf(!hasPython)("steps, calls and branches are on record as they happened", async () => {
  const { first, figures, problems } = await python("whole");
  expect(problems).toEqual([]);
  const { items } = await server.client.events(first);
  expect(figures).toEqual({ recorded: items.length, acknowledged: items.length, spilled: 0, lost: 0 });
  isWhole(items);
  expect(await server.client.getRun(first)).toMatchObject({ state: "succeeded", tokens: 10, target: "snake@1" });
});

test.skipIf(!hasPython)(
  "without a server the program goes on, and the next process sends what it has left",
  async () => {
    const away = await python("whole", "away", "http://127.0.0.1:9");
    expect(away.figures).toMatchObject({ acknowledged: 0, lost: 0, spilled: away.figures.recorded });
    // As a process leaves it that took it over, wrote a line in part and died.
    const [kept = ""] = readdirSync(path.join(folder, "away"));
    const at = path.join(folder, "away", kept);
    writeFileSync(`${at}.999999999-0a`, `{"events": [{"ty\n${readFileSync(at, "utf8")}`);
    rmSync(at);
    expect((await python("nothing", "away")).problems).toEqual([expect.stringContaining("was cut off")]);
    expect(readdirSync(path.join(folder, "away"))).toEqual([]);
    isWhole((await server.client.events(away.first)).items);
  },
);

test.skipIf(!hasPython)("fail-closed: no call is made that nobody heard of", async () => {
  const { first } = await python("closed", "closed", "http://127.0.0.1:9");
  expect(JSON.parse(first)).toMatchObject({ made: 0, refused: expect.stringContaining("does not answer") });
  expect((await python("closed", "open")).problems).toEqual([]);
});
