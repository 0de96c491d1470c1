// Limits that schemas hold, at n and at n + 1. Limits of a running part are tested beside that part.
import { expect, test } from "vitest";
import { Compile } from "typebox/compile";
import type { TSchema } from "typebox";
import { parseJson } from "../kit/json.ts";
import { readManifests } from "../orchestrator/manifests.ts";
import { AppError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { ROUTES } from "./routes.ts";
import { LeaseRequest, MintWorker } from "./workers.ts";
import { ResolveStep, StartRun } from "./runs.ts";

const labels = (n: number) => ({
  workflow: "w",
  labels: Object.fromEntries(Array.from({ length: n }, (_, i) => [`l${i}`, "x"])),
});

test.each<[string, TSchema, (n: number) => unknown, number]>([
  ["labels of a run", StartRun, labels, LIMITS.labels_max],
  ["deadline of a run", StartRun, (deadline_ms) => ({ workflow: "w", deadline_ms }), LIMITS.run_deadline_ms_max],
  ["note of an approval", ROUTES.approve.body, (n) => ({ note: "n".repeat(n) }), LIMITS.note_chars_max],
  ["reason of a cancellation", ROUTES.cancelRun.body, (n) => ({ reason: "n".repeat(n) }), LIMITS.note_chars_max],
  [
    "message of a resolution",
    ResolveStep,
    (n) => ({ outcome: "failed", message: "n".repeat(n) }),
    LIMITS.note_chars_max,
  ],
  [
    "jobs in one lease",
    LeaseRequest,
    (max) => ({ instance: "i", labels: [], max, wait_ms: 0 }),
    LIMITS.worker_batch_max,
  ],
  [
    "time a lease waits",
    LeaseRequest,
    (wait_ms) => ({ instance: "i", labels: [], max: 1, wait_ms }),
    LIMITS.worker_wait_ms_max,
  ],
  [
    "labels of a worker",
    MintWorker,
    (n) => ({ name: "w", labels: Array.from({ length: n }, (_, i) => `l${i}`) }),
    LIMITS.labels_max,
  ],
  ["page of runs", ROUTES.listRuns.query, (limit) => ({ limit }), LIMITS.page_size_max],
  ["page of events", ROUTES.listEvents.query, (limit) => ({ limit }), LIMITS.events_page_max],
])("%s: n is taken, n + 1 is refused", (_what, schema, value, n) => {
  const validator = Compile(schema);
  expect([validator.Check(value(n)), validator.Check(value(n + 1))]).toEqual([true, false]);
});

const tool = (field: string) => (n: number) =>
  `kind: Tool\nmetadata: { name: t }\nspec: { kind: builtin, builtin: noop, ${field}: ${n} }`;
const agent = (field: string) => (n: number) =>
  `kind: Agent\nmetadata: { name: a }\nspec: { model: m, instructions: x, ${field}: ${n} }`;
const rule = (n: number) =>
  `kind: Policy\nmetadata: { name: p }\nspec: { rules: [{ id: r, effect: require_approval, approval_ttl_ms: ${n} }] }`;

test.each<[string, (n: number) => string, number]>([
  ["attempts of a tool", tool("attempts_max"), LIMITS.attempts_max],
  ["timeout of a tool", tool("timeout_ms"), LIMITS.tool_timeout_ms_max],
  ["turns of an agent", agent("turns_max"), LIMITS.model_turns_max],
  ["deadline of an agent", agent("deadline_ms"), LIMITS.run_deadline_ms_max],
  ["time an approval waits", rule, LIMITS.approval_ttl_ms_max],
])("%s: n is taken, n + 1 is refused", (_what, text, n) => {
  expect(readManifests(text(n))).toHaveLength(1);
  expect(() => readManifests(text(n + 1))).toThrow(AppError);
});

test("JSON is read down to the depth limit", () => {
  const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
  expect(parseJson(nested(LIMITS.json_depth_max), LIMITS.json_depth_max)).toBeInstanceOf(Array);
  expect(() => parseJson(nested(LIMITS.json_depth_max + 1), LIMITS.json_depth_max)).toThrow("deep");
});
