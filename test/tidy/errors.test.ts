// Every error code is reached: those that the end-to-end tests do not reach are reached here, and none is left out.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { lockDataFolder } from "../../src/adapters/embedded-postgres/data-folder.ts";
import { FileBlobStore } from "../../src/adapters/files/blob-store.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import type { Catalog, WorkflowSpec } from "../../src/contract/catalog.ts";
import { ERRORS, isAppError } from "../../src/contract/errors.ts";
import type { ErrorCode } from "../../src/contract/errors.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import { decide } from "../../src/core/decide.ts";
import { Policy } from "../../src/core/policy.ts";
import { emptyRun } from "../../src/core/run-state.ts";
import { Authenticator, authorise } from "../../src/gateway/auth.ts";
import { toAppError } from "../../src/gateway/problem.ts";
import { Client } from "../../src/sdk/client.ts";
import { loadConfig } from "../../src/server/config.ts";
import { EngineHost } from "../../src/server/engine-host.ts";
import { Runs } from "../../src/orchestrator/runs.ts";
import { freshRun, openEngine, seams, silent, startData, TENANT } from "../support/engine.ts";
import { remove, tempFolder } from "../support/processes.ts";

const flow: WorkflowSpec = {
  name: "w",
  version: 1,
  digest: "d",
  nodes: [{ id: "a", kind: "wait", needs: [], delay_ms: 60_000, on_error: "fail" }],
  dependents: [[]],
  output: null,
  budget: {},
  deadline_ms: null,
};
const catalog: Catalog = {
  agent: () => null,
  workflow: () => flow,
  tool: () => null,
  toolsMatching: () => [],
  model: () => null,
  budgets: () => [],
  intent: () => null,
  modelOf: () => null,
  price: () => null,
};
const policy = new Policy({ policies: [] });
const engine = () =>
  openEngine({ catalog, policy, queue: () => ({ dispatch: () => undefined, abort: () => undefined }) });
const start = (run_id: string) => ({
  tenant_id: TENANT,
  run_id,
  command: { type: "start" as const, data: startData("workflow", "w") },
});
const ada = { id: "ada", kind: "user" as const };

async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
    return "none";
  } catch (error) {
    return isAppError(error) ? error.code : `not ours: ${String(error)}`;
  }
}

const REACH: Partial<Record<ErrorCode, () => unknown>> = {
  CONFIG_INVALID: () => loadConfig({ port: -1 }, {}),
  AUTH_REQUIRED: () =>
    new Authenticator([{ principal: "a", token_sha256: "0".repeat(64), permissions: [] }], () => null).authenticate({}),
  AUTH_FORBIDDEN: () => authorise({ id: "a", permissions: ["runs:read"] }, "runs:execute"),
  RUN_EXISTS: async () => {
    const h = await engine();
    const id = freshRun();
    await h.engine.start(start(id));
    await h.engine.start(start(id));
  },
  APPROVAL_RESOLVED: async () => {
    const h = await engine();
    const id = freshRun();
    await h.engine.start(start(id));
    await h.engine.command(TENANT, id, { type: "approve", number: 1, decision: "approved", note: "", actor: ada });
  },
  STALE_RESULT: () => {
    const outcome = { ok: true as const, kind: "tool" as const, result: 1 };
    const result = { tenant_id: "t", run_id: "r", step: 1, attempt: 1, kind: "tool" as const, duration_ms: 1, outcome };
    const ctx = { now_us: 1, random: () => 0, catalog, policy, ledger: { check: () => null, moved: () => [] } };
    decide(emptyRun("t", "r"), { type: "result", result }, ctx);
  },
  ARTIFACT_CORRUPT: async () => {
    const folder = tempFolder("qd-blob");
    try {
      const blobs = new FileBlobStore(folder);
      const digest = await blobs.put(TENANT, Buffer.from("as it was"));
      const hex = digest.slice("sha256:".length);
      writeFileSync(path.join(folder, TENANT, hex.slice(0, 2), hex.slice(2)), "changed");
      await blobs.get(TENANT, digest);
    } finally {
      remove(folder);
    }
  },
  INTERNAL_ERROR: () => {
    throw toAppError(new Error("unknown"));
  },
  DATABASE_UNAVAILABLE: () =>
    new EngineHost({
      clock: systemClock,
      log: silent,
      create: () => expect.fail("not made"),
      reviveDatabase: async () => undefined,
      onFenced: () => undefined,
    }).current(),
  DATA_FOLDER_IN_USE: async () => {
    const folder = tempFolder("qd-lock");
    const release = await lockDataFolder(folder);
    try {
      await lockDataFolder(folder);
    } finally {
      await release();
      remove(folder);
    }
  },
  FENCED: async () => {
    const h = await engine();
    const id = freshRun();
    await h.engine.start(start(id));
    await h.store.acquireGroup(0, "another");
    await h.engine.command(TENANT, id, { type: "cancel", reason: "", actor: ada }).catch(() => null);
    await h.engine.start(start(freshRun()));
  },
  SHUTTING_DOWN: async () => {
    const h = await engine();
    await h.engine.close();
    await h.engine.start(start(freshRun()));
  },
  OVERLOADED: async () => {
    const h = await engine();
    Reflect.set(h.engine, "actors", { size: LIMITS.open_runs_max, has: () => false });
    await h.engine.start(start(freshRun()));
  },
  DEPENDENCY_UNAVAILABLE: () => new Client({ url: "http://127.0.0.1:1" }).getRun("x"),
};

test("jobs are leased with a worker's credential alone: not even an operator who may do everything gets them", () => {
  const all = { id: "root", permissions: ["*"] as const };
  expect(() => authorise(all, "workers:write")).not.toThrow();
  expect(() => authorise(all, "workers:execute")).toThrow("worker's own token");
  expect(() => authorise({ id: "w", permissions: ["workers:execute"] }, "workers:execute")).not.toThrow();
});

test.each(Object.keys(REACH) as ErrorCode[])("%s is reached", async (code) => {
  expect(await codeOf(() => REACH[code]?.())).toBe(code);
});

test.each([
  [LIMITS.queue_depth_max - 1, "none"],
  [LIMITS.queue_depth_max, "OVERLOADED"],
])("with %i jobs waiting for workers a start is answered with %s", async (waiting, code) => {
  const h = await engine();
  const runs = new Runs({
    engine: () => h.engine,
    store: h.store,
    db: { transaction: () => expect.fail("not asked") } as never,
    governance: { of: () => ({ catalog, policy }) },
    waitingJobs: () => waiting,
    ...seams,
  });
  const caller = { tenant_id: TENANT, project: "p", principal: "ada" };
  expect(await codeOf(() => runs.start(caller, { workflow: "no such" }))).toBe(code);
});

test("one open run below the limit is taken", async () => {
  const h = await engine();
  const actors = new Map();
  Object.defineProperty(actors, "size", { value: LIMITS.open_runs_max - 1 });
  Reflect.set(h.engine, "actors", actors);
  expect((await h.engine.start(start(freshRun()))).state).toBe("waiting");
});

test("no code of the table is left without a test", () => {
  const root = path.resolve(import.meta.dirname, "../..");
  const tests = (folder: string): string[] =>
    readdirSync(path.join(root, folder)).flatMap((name) => {
      const at = `${folder}/${name}`;
      if (statSync(path.join(root, at)).isDirectory()) return tests(at);
      return at.endsWith(".test.ts") ? [readFileSync(path.join(root, at), "utf8")] : [];
    });
  const all = [...tests("src"), ...tests("test")].join("\n");
  expect(Object.keys(ERRORS).filter((code) => !all.includes(code))).toEqual([]);
});
