// Which recorded call answers a replayed process: over the in-memory journal, with calls put in as the proxy does.
import { beforeEach, expect, test } from "vitest";
import { ReplayWorld } from "../../test/support/replay-world.ts";
import { seams } from "../../test/support/engine.ts";
import type { JsonObject } from "../kit/json.ts";
import { AppError } from "../contract/errors.ts";
import { Captures } from "./captures.ts";
import { Quarantine } from "./quarantine.ts";
import { Redactor } from "./redact.ts";

const MODEL = `
kind: Model
metadata: { name: m }
spec: { provider: openai, model: m-1, prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`;
let world: ReplayWorld;
let captures: Captures;

beforeEach(async () => {
  world = new ReplayWorld(MODEL, () => ({ ok: true, kind: "tool", result: null }));
  await world.engine.open();
  captures = make();
});

function make(): Captures {
  const none = {
    get: () => Promise.reject(new AppError("NOT_FOUND", "there are none")),
    put: () => Promise.reject(new Error("there are none")),
  };
  return new Captures({
    owner: () => world.engine,
    store: world.store,
    tenantKey: () => new Uint8Array(32),
    blobs: none,
    quarantine: new Quarantine({ blobs: none, tenantKey: () => new Uint8Array(32), ...seams }),
    redactor: new Redactor("secrets"),
    external: async (_caller, ids) =>
      [...world.store.runs.values()].filter((run) => run.external_id !== null && ids.includes(run.external_id)),
    find: async (_caller, run_id) => world.engine.peek(run_id) ?? world.store.runs.get(run_id) ?? null,
    ...seams,
  });
}

const requestOf = (question: string): JsonObject => ({ messages: [{ role: "user", content: question }], model: "m-1" });
const signatureOf = (question: string) =>
  captures.signature(world.caller.tenant_id, { api: "openai.chat", model: "m-1", request: requestOf(question) });
const recordedOf = (question: string) => ({
  api: "openai.chat",
  request: requestOf(question),
  signature: signatureOf(question),
});

/** Begins a call of a captured run; what is returned ends it. */
async function begin(run_id: string, id: string, question: string): Promise<(answer: string) => Promise<void>> {
  const { catalog } = world.shelf.of({ ...world.caller, env: "dev" });
  const route = catalog.model("m");
  if (!route) throw new Error("no model");
  const { tenant_id } = world.caller;
  const bound = { micro: 100, tokens: 100 };
  const call = { call: id, route, max_output_tokens: 10, bound, recorded: recordedOf(question) };
  const drafts = await world.engine.decided(tenant_id, run_id, { type: "call", call });
  const step = drafts.find((draft) => draft.call === id)?.step ?? 0;
  return (answer) =>
    world.engine.result({
      tenant_id,
      run_id,
      step,
      attempt: 1,
      kind: "model",
      duration_ms: 1,
      outcome: {
        ok: true,
        kind: "model",
        content: answer,
        tool_calls: [],
        finish_reason: "stop",
        usage: { input_tokens: 1, output_tokens: 1 },
        response_model: "m-1",
        recorded: { raw: answer, status: 200 },
      },
    });
}

async function replayOf(run_id: string) {
  await captures.end(world.caller, run_id, 0);
  const replay = await captures.start(world.caller, { replay_of: run_id });
  let n = 0;
  const ask = (question: string) =>
    captures.replayed(world.caller, replay.run_id, {
      id: `again_${(n += 1)}`,
      kind: "model",
      signatures: [signatureOf(question)],
      requested: recordedOf(question),
    });
  return { replay_id: replay.run_id, ask };
}

test("equal calls one after the other get their answers in recorded order", async () => {
  const { run_id } = await captures.start(world.caller, {});
  await (
    await begin(run_id, "a", "roll")
  )("four");
  await (
    await begin(run_id, "b", "roll")
  )("six");
  const { replay_id, ask } = await replayOf(run_id);
  expect((await ask("roll")).completed["raw"]).toBe("four");
  expect((await ask("roll")).completed["raw"]).toBe("six");
  expect(await captures.end(world.caller, replay_id, 0)).toMatchObject({
    state: "succeeded",
    steps: 2,
    cost_micro_usd: 0,
  });
});

test("equal calls in flight together with different answers stop the replay: which is which cannot be told", async () => {
  const { run_id } = await captures.start(world.caller, {});
  const [first, second] = [await begin(run_id, "a", "roll"), await begin(run_id, "b", "roll")];
  await second("six");
  await first("four");
  const { replay_id, ask } = await replayOf(run_id);
  await expect(ask("roll")).rejects.toMatchObject({
    code: "REPLAY_REFUSED",
    details: { reason: "ambiguous_signature" },
  });
  expect(world.store.runs.get(replay_id)).toMatchObject({ state: "failed", reason: "ambiguous_signature" });
});

test("equal calls in flight together with the same answer are no trouble, nor are different calls", async () => {
  const { run_id } = await captures.start(world.caller, {});
  const calls = [await begin(run_id, "a", "roll"), await begin(run_id, "b", "roll"), await begin(run_id, "c", "draw")];
  await calls[2]?.("ace");
  await calls[0]?.("four");
  await calls[1]?.("four");
  const { ask } = await replayOf(run_id);
  expect((await ask("draw")).completed["raw"]).toBe("ace");
  expect((await ask("roll")).completed["raw"]).toBe("four");
  expect((await ask("roll")).completed["raw"]).toBe("four");
});

test("an answer whose bytes were not kept is not made up", async () => {
  const { run_id } = await captures.start(world.caller, {});
  const done = await begin(run_id, "a", "roll");
  await done("four");
  const row = world.store.rows.findIndex((one) => one.body.includes('"raw":"four"'));
  const before = world.store.rows[row];
  if (!before) throw new Error("no outcome");
  Object.assign(before, { body: Buffer.from(before.body.toString().replace('"raw":"four"', '"raw_withheld":true')) });
  const { ask } = await replayOf(run_id);
  await expect(ask("roll")).rejects.toMatchObject({ details: { reason: "privacy_risk" } });
});

test("a replay goes on where it was when the server has started anew; it never becomes a live run", async () => {
  const { run_id } = await captures.start(world.caller, {});
  for (const [id, answer] of [
    ["a", "four"],
    ["b", "six"],
    ["c", "two"],
  ] as const)
    await (
      await begin(run_id, id, "roll")
    )(answer);
  const { replay_id, ask } = await replayOf(run_id);
  expect((await ask("roll")).completed["raw"]).toBe("four");
  await world.restart();
  captures = make();
  // Two calls that come together take it up once.
  const taken = [
    captures.runFor(world.caller, { run_id: replay_id }),
    captures.runFor(world.caller, { run_id: replay_id }),
  ];
  expect(await Promise.all(taken)).toEqual([replay_id, replay_id]);
  expect(captures.isReplay(replay_id)).toBe(true);
  expect((await ask("roll")).completed["raw"]).toBe("six");
  await world.restart();
  captures = make();
  // One recorded call was not made: that is seen also by who has not begun the replay.
  expect(await captures.end(world.caller, replay_id, 0)).toMatchObject({
    state: "failed",
    reason: "signature_mismatch",
  });
});

test("runs of other kinds take no calls of a process", async () => {
  const { run_id } = await captures.start(world.caller, {});
  await (
    await begin(run_id, "a", "roll")
  )("four");
  const { replay_id } = await replayOf(run_id);
  const row = world.store.rows.find((one) => one.run_id === replay_id);
  Object.assign(row ?? {}, {
    body: Buffer.from(row?.body.toString().replace('"kind":"captured","name"', '"kind":"agent","name"') ?? ""),
  });
  captures = make();
  await expect(captures.runFor(world.caller, { run_id: replay_id })).rejects.toMatchObject({ code: "REPLAY_REFUSED" });
});

test("a captured run that nobody adds to has ended; one with a call in flight has not", async () => {
  const { run_id } = await captures.start(world.caller, {});
  await begin(run_id, "a", "roll");
  await world.restart();
  // After a crash the outcome of the call is not known, and nobody here makes it again.
  expect(world.calls).toEqual([]);
  await expect(captures.end(world.caller, run_id, 0)).resolves.toMatchObject({ state: "succeeded", steps: 1 });
});

test("calls of one session are one run: those that come together, and those after a restart", async () => {
  const session = { agent: "desk", session: "s-1" };
  const [one, two] = await Promise.all([
    captures.runFor(world.caller, session),
    captures.runFor(world.caller, session),
  ]);
  expect(two).toBe(one);
  await world.restart();
  captures = make();
  expect(await captures.runFor(world.caller, session)).toBe(one);
  expect(await captures.runFor(world.caller, { ...session, session: "s-2" })).not.toBe(one);
  await captures.end(world.caller, one, 0);
  expect(await captures.runFor(world.caller, session)).not.toBe(one);
});

test("a session whose name tells something is recorded without it, and found again, also by the next process", async () => {
  const session = ["xoxb", "23984754863", "2348975623112"].join("-");
  const run_id = await captures.runFor(world.caller, { agent: "desk", session });
  expect(await captures.runFor(world.caller, { agent: "desk", session })).toBe(run_id);
  expect(await make().runFor(world.caller, { agent: "desk", session })).toBe(run_id);
  expect(await captures.runFor(world.caller, { agent: "desk", session: `${session}1` })).not.toBe(run_id);
  const rows = await world.store.readRun(world.caller.tenant_id, run_id, 1, 10);
  const text = rows.map((row) => row.body.toString()).join("\n") + JSON.stringify([...world.store.runs.values()]);
  expect(text).not.toContain(session);
  expect(text).toContain("[redacted:slack]");
});

test("what earlier versions did not record is asked anew, and only where a recording has none of it", async () => {
  const { run_id } = await captures.start(world.caller, {});
  await (
    await begin(run_id, "a", "roll")
  )("four");
  const { replay_id } = await replayOf(run_id);
  const call = { kind: "tool" as const, tool: "shelf.list_tools", args: {} };
  expect(await captures.answer(world.caller, replay_id, { ...call, optional: true })).toEqual({
    ended: "none",
    data: {},
  });
  await expect(captures.answer(world.caller, replay_id, call)).rejects.toMatchObject({ code: "REPLAY_REFUSED" });
});

test("a replay is as far, in the time of its recording, as the last answer that it gave", async () => {
  const { run_id } = await captures.start(world.caller, {});
  for (const answer of ["four", "six"]) {
    await seams.clock.sleep(2);
    const done = await begin(run_id, answer, "roll");
    await done(answer);
  }
  expect(await captures.momentOf(world.caller, run_id)).toBeNull();
  const { replay_id, ask } = await replayOf(run_id);
  const moments = [await captures.momentOf(world.caller, replay_id)];
  const found = [await ask("roll"), await ask("roll")];
  moments.push(await captures.momentOf(world.caller, replay_id));
  expect(moments[0]).toBeLessThan(found[0]?.at_us ?? 0);
  expect(moments[1]).toBe(found[1]?.at_us);
  captures = make();
  expect(await captures.momentOf(world.caller, replay_id)).toBe(found[1]?.at_us);
});
