// Built-in tools, scoped to one folder each. A path is resolved through links before it is used, so neither `..` nor a
// link leads out of the folder.
import { mkdir, readdir, readFile, realpath, rename, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Capability } from "../contract/capabilities.ts";
import { LIMITS } from "../contract/limits.ts";
import type { JobOutcome, ToolJob } from "../contract/jobs.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Clock } from "../kit/clock.ts";
import { JobError } from "./pool.ts";
import type { JobContext } from "./pool.ts";

const object = (properties: JsonObject, required: string[]): JsonObject => ({
  type: "object",
  properties,
  required,
  additionalProperties: false,
});
const PATH = { type: "string", minLength: 1, description: "Path below the tool's folder." };

/** What each built-in takes and what it does to the world. */
export const BUILTINS: Record<
  string,
  {
    description: string;
    input_schema: JsonObject;
    effect_class: "read" | "write";
    idempotent: boolean;
    requires?: readonly Capability[];
  }
> = {
  noop: {
    description: "Does nothing and returns a fixed text.",
    input_schema: { type: "object" },
    effect_class: "read",
    idempotent: true,
  },
  sleep: {
    description: "Waits for some milliseconds.",
    input_schema: object({ ms: { type: "integer", minimum: 0, maximum: 60_000 } }, ["ms"]),
    effect_class: "read",
    idempotent: true,
  },
  file_read: {
    description: "Reads a text file.",
    input_schema: object({ path: PATH }, ["path"]),
    effect_class: "read",
    idempotent: true,
    requires: ["fs"],
  },
  file_list: {
    description: "Lists a folder.",
    input_schema: object({ path: PATH }, ["path"]),
    effect_class: "read",
    idempotent: true,
    requires: ["fs"],
  },
  file_write: {
    description: "Writes a text file, replacing what is there.",
    input_schema: object({ path: PATH, content: { type: "string" } }, ["path", "content"]),
    effect_class: "write",
    idempotent: true,
    requires: ["fs"],
  },
};

const refuse = (code: string, message: string): never => {
  throw new JobError({ class: "permanent", code, message });
};

/** The real path of a target inside the root. The target itself may not exist yet; its folder must be inside. */
async function inside(root: string, target: string): Promise<string> {
  const base = await realpath(root);
  if (target.includes("\0")) refuse("path_outside_root", "The path contains NUL.");
  const wanted = path.resolve(base, target);
  let existing = wanted;
  let rest = "";
  for (;;) {
    const found = await realpath(existing).catch(() => null);
    if (found !== null) {
      const full = path.join(found, rest);
      if (full === base || full.startsWith(base + path.sep)) return full;
      return refuse("path_outside_root", `${target} is outside of the tool's folder.`);
    }
    rest = path.join(path.basename(existing), rest);
    existing = path.dirname(existing);
  }
}

async function readText(file: string): Promise<string> {
  const facts = await stat(file).catch(() => null);
  if (!facts?.isFile()) return refuse("no_such_file", "There is no such file.");
  if (facts.size > LIMITS.tool_result_bytes_max)
    return refuse("file_too_large", `The file is larger than ${LIMITS.tool_result_bytes_max} bytes.`);
  return readFile(file, "utf8");
}

async function writeText(file: string, content: string): Promise<JsonObject> {
  await mkdir(path.dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  await writeFile(temporary, content);
  await rename(temporary, file);
  return { bytes: Buffer.byteLength(content) };
}

/** Sleeps until the time is over or the run is stopped. */
function nap(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      timer.cancel();
      reject(new JobError({ class: "cancelled", code: "cancelled", message: "The run was stopped." }));
    };
    const timer = clock.timer(ms, () => {
      signal.removeEventListener("abort", stop);
      resolve();
    });
    signal.addEventListener("abort", stop, { once: true });
  });
}

const NOOP_RESULT = "x".repeat(200);

export async function executeBuiltin(job: ToolJob, clock: Clock, context: JobContext): Promise<JobOutcome> {
  const { args, tool } = job;
  const name = String(tool.config["builtin"] ?? "");
  const root = String(tool.config["root"] ?? "");
  const at = async () => inside(root, String(args["path"]));
  let result: Json;
  switch (name) {
    case "noop":
      result = NOOP_RESULT;
      break;
    case "sleep":
      await nap(clock, Number(args["ms"]), context.signal);
      result = { slept_ms: Number(args["ms"]) };
      break;
    case "file_read":
      result = await readText(await at());
      break;
    case "file_list": {
      const entries = await readdir(await at(), { withFileTypes: true }).catch(() =>
        refuse("no_such_folder", "There is no such folder."),
      );
      result = entries.map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name)).sort();
      break;
    }
    case "file_write":
      result = await writeText(await at(), String(args["content"]));
      break;
    default:
      return refuse("unknown_builtin", `There is no built-in ${name}.`);
  }
  return { ok: true, kind: "tool", result };
}
