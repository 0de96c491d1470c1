// Observed events over the in-memory journal: order, numbers, gaps, what is refused and how.
import { beforeEach, describe, expect, test } from "vitest";
import { CaptureWorld } from "../../test/support/capture-world.ts";
import { freshRun, TENANT } from "../../test/support/engine.ts";
import { Prng } from "../../test/sim/sim.ts";
import type { JsonObject } from "../kit/json.ts";
import { isAppError } from "../contract/errors.ts";
import type { StoredEvent } from "../contract/events.ts";
import { OBSERVED } from "../contract/ingest.ts";
import type { IngestAnswer } from "../contract/ingest.ts";
import { LIMITS } from "../contract/limits.ts";

/** Put together here, so that no scanner takes this file for a leak. */
const LEAKED = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
let world: CaptureWorld;
beforeEach(async () => void (world = await new CaptureWorld().open()));

type Sent = JsonObject & { type: string };
const started: Sent = { type: "run.started", data: { agent: "helper", input: "hello" } };
const numbered = (events: readonly Sent[], from = 1) => events.map((event, i) => ({ sequence_no: from + i, ...event }));
const send = (run_id: string, events: readonly object[], producer_id = "prd_1") =>
  world.ingest.add(world.caller, run_id, { producer_id, events: [...events] });
const statuses = (answer: IngestAnswer) => answer.items.map((item) => item.error?.code ?? item.status);
const events = (run_id: string) => world.events(run_id);
const types = (run_id: string) => world.types(run_id);

const CALLS: Sent[] = [
  started,
  { type: "step.started", step_id: "plan", data: { name: "plan" } },
  { type: "model.requested", step_id: "m1", parent_step_id: "plan", data: { model: "m-1", request: { messages: [] } } },
  {
    type: "model.completed",
    step_id: "m1",
    data: { content: "Look.", usage: { input_tokens: 7, output_tokens: 3 }, cost_micro_usd: 12 },
  },
  { type: "tool.requested", step_id: "t1", call: { call_id: "call_1" }, data: { tool: "search", args: { q: "x" } } },
  { type: "tool.completed", step_id: "t1", call: { call_id: "call_1" }, data: { result: "found" } },
  { type: "step.ended", step_id: "plan", data: {} },
  { type: "run.succeeded", data: { output: "done" } },
];

test("what names tell is not recorded, and what belongs together still does", async () => {
  const run_id = freshRun();
  const [tool, user] = [`t-${LEAKED}`, `of ${LEAKED}`];
  const actor = { kind: "user", id: user };
  const sent: Sent[] = [
    { type: "run.started", data: { agent: "helper", input: "hello", correlation: user } },
    { type: "step.started", step_id: tool, actor, data: { name: "plan" } },
    {
      type: "tool.requested",
      step_id: "t1",
      parent_step_id: tool,
      call: { call_id: LEAKED },
      data: { tool: "x", args: {} },
    },
    { type: "tool.completed", step_id: "t1", call: { call_id: LEAKED }, data: { result: "found" } },
    { type: "step.ended", step_id: tool, data: {} },
  ];
  for (const event of numbered(sent)) expect(statuses(await send(run_id, [event]))).toEqual(["committed"]);
  expect(JSON.stringify(await events(run_id))).not.toContain(LEAKED);
  const [started_, plan, asked, answered, ended] = await events(run_id);
  expect(started_?.data["correlation"]).toBe(plan?.actor?.id);
  expect(plan).toMatchObject({ step: 1, origin: { step: expect.stringMatching(/^redacted-[0-9a-f]{24}$/) } });
  expect([asked?.parent, asked?.call, ended?.step]).toEqual([1, answered?.call, 1]);
  expect(statuses(await send(run_id, numbered(sent)))).toEqual(sent.map(() => "duplicate"));
});

test("a run that others observed is a run like any other", async () => {
  const run_id = freshRun();
  const answer = await send(run_id, numbered(CALLS));
  expect(statuses(answer)).toEqual(CALLS.map(() => "committed"));
  expect(answer).toMatchObject({ state: "succeeded", missing: [] });
  expect(world.store.runs.get(run_id)).toMatchObject({
    kind: "captured",
    target: "helper@1",
    state: "succeeded",
    steps: 3,
    tokens: 10,
    cost_micro_usd: 12,
    requester: "ada",
  });
  const [, , asked] = await events(run_id);
  expect(asked).toMatchObject({ step: 2, parent: 1, origin: { from: "prd_1/1/3", step: "m1" } });
  expect(asked?.data["signature"]).toMatch(/^[0-9a-f]{64}$/);
});

test("a batch that is sent twice changes nothing and is answered as the first time", async () => {
  const run_id = freshRun();
  const first = await send(run_id, numbered(CALLS.slice(0, 4)));
  const again = await send(run_id, numbered(CALLS.slice(0, 4)));
  expect(statuses(again)).toEqual(["duplicate", "duplicate", "duplicate", "duplicate"]);
  expect(again.items.map((item) => item.event_id)).toEqual(first.items.map((item) => item.event_id));
  expect((await events(run_id)).length).toBe(4);
  await send(run_id, numbered(CALLS.slice(4), 5));
  // Also when the run has ended, and after another process has taken it over.
  await world.open();
  expect(statuses(await send(run_id, numbered(CALLS)))).toEqual(CALLS.map(() => "duplicate"));
  expect((await events(run_id)).length).toBe(CALLS.length);
  expect(world.engine.openRuns).toBe(0);
});

test("numbers belong to a producer of a run", async () => {
  const [a, b] = [freshRun(), freshRun()];
  for (const run_id of [a, b]) expect(statuses(await send(run_id, numbered([started])))).toEqual(["committed"]);
  const note: Sent = { type: "memory.read", data: { store: "notes" } };
  expect(statuses(await send(a, numbered([note]), "prd_2"))).toEqual(["committed"]);
  const later = await world.ingest.add(world.caller, a, {
    producer_id: "prd_1",
    producer_epoch: 2,
    events: numbered([note]),
  });
  expect(statuses(later)).toEqual(["committed"]);
  expect(await types(a)).toEqual(["run.started", "memory.read", "memory.read"]);
});

test("the same number with other content is refused, and both are on record by their digests", async () => {
  const run_id = freshRun();
  await send(run_id, numbered(CALLS.slice(0, 2)));
  const other = { sequence_no: 2, type: "step.started", step_id: "plan", data: { name: "other" } };
  expect((await send(run_id, [other])).items[0]).toMatchObject({
    status: "rejected",
    error: { code: "EVENT_CONFLICT", status: 409, retryable: false },
  });
  expect((await events(run_id)).at(-1)).toMatchObject({ type: "journal.conflict", data: { no: 2, producer: "prd_1" } });
});

test("an id that another event of the run has is refused, also of another producer and after a restart; the same event again is one", async () => {
  const run_id = freshRun();
  const note = (id?: string) => ({ type: "memory.read", ...(id === undefined ? {} : { id }), data: { store: "s" } });
  await send(run_id, numbered([started, note("evt-a"), note("evt-b"), note(), note()]));
  expect(statuses(await send(run_id, numbered([note("evt-a"), note("evt-c")], 6)))).toEqual(["ID_REUSED", "committed"]);
  expect(statuses(await send(run_id, numbered([note("evt-a")], 2)))).toEqual(["duplicate"]);
  await world.open();
  expect(statuses(await send(run_id, numbered([note("evt-b"), note("evt-d"), note("evt-d")]), "prd_2"))).toEqual([
    "ID_REUSED",
    "committed",
    "ID_REUSED",
  ]);
  // Two events whose ids both held a secret are two.
  expect(statuses(await send(run_id, numbered([note(LEAKED), note(`${LEAKED}!`)]), "prd_3"))).toEqual([
    "committed",
    "committed",
  ]);
});

describe("order", () => {
  test.each([
    ["RUN_ALREADY_STARTED", [started]],
    ["CALL_NOT_OPEN", [{ type: "tool.completed", step_id: "t", data: { result: 1 } }]],
    [
      "CALL_OPEN",
      [
        { type: "tool.requested", step_id: "t", data: { tool: "x", args: {} } },
        { type: "tool.requested", step_id: "t", data: { tool: "x", args: {} } },
      ],
    ],
    [
      "CALL_NOT_OPEN",
      [
        { type: "tool.requested", step_id: "t", data: { tool: "x", args: {} } },
        { type: "tool.completed", step_id: "t", attempt: 2, data: { result: 1 } },
      ],
    ],
    ["PARENT_UNKNOWN", [{ type: "step.started", step_id: "s", parent_step_id: "nobody", data: { name: "s" } }]],
    ["VALIDATION_ERROR", [{ type: "tool.requested", data: { tool: "x", args: {} } }]],
    [
      "RUN_TERMINAL",
      [
        { type: "run.failed", data: { message: "no" } },
        { type: "memory.read", data: { store: "s" } },
      ],
    ],
    [
      "RUN_TERMINAL",
      [
        { type: "run.succeeded", data: {} },
        { type: "run.succeeded", data: {} },
      ],
    ],
    ["EVENT_TYPE_RESERVED", [{ type: "policy.decided", data: { decision: "allow" } }]],
    ["EVENT_TYPE_RESERVED", [{ type: "budget.exceeded", data: {} }]],
    ["TENANT_MISMATCH", [{ type: "memory.read", tenant_id: "ten_other", data: { store: "s" } }]],
    ["VERSION_UNSUPPORTED", [{ type: "memory.read", v: "2.0", data: { store: "s" } }]],
    ["VALIDATION_ERROR", [{ type: "memory.read", surprise: 1, data: { store: "s" } }]],
    ["VALIDATION_ERROR", [{ type: "memory.read", occurred_at: "yesterday", data: { store: "s" } }]],
  ] as [string, Sent[]][])("%s", async (code, sent) => {
    const run_id = freshRun();
    await send(run_id, numbered([started]));
    const answer = await send(run_id, numbered(sent, 2));
    expect(statuses(answer).at(-1)).toBe(code);
  });

  test("a run begins with run.started, or not at all", async () => {
    const run_id = freshRun();
    const early = send(run_id, numbered(CALLS.slice(1)));
    await expect(early).rejects.toSatisfy((error) => isAppError(error, "RUN_NOT_STARTED"));
    const unfit = send(run_id, [{ sequence_no: 1, type: "run.started", data: {} }]);
    await expect(unfit).rejects.toSatisfy((error) => isAppError(error, "VALIDATION_ERROR"));
    expect(world.engine.openRuns).toBe(0);
    expect(statuses(await send(run_id, numbered([started])))).toEqual(["committed"]);
  });

  test("what is refused leaves a gap in its place, does not hold up the rest, and can be sent corrected", async () => {
    const run_id = freshRun();
    const bad: Sent = { type: "memory.read", data: {} };
    const good: Sent = { type: "memory.read", data: { store: "s" } };
    const answer = await send(run_id, numbered([started, bad, good]));
    expect(statuses(answer)).toEqual(["committed", "VALIDATION_ERROR", "committed"]);
    expect(answer.items[1]?.error?.pointer).toBe("/data");
    expect(answer.items[1]?.error?.message).toContain("store");
    expect(await types(run_id)).toEqual(["run.started", "journal.gap", "memory.read"]);
    expect(statuses(await send(run_id, [{ sequence_no: 2, ...good }]))).toEqual(["committed"]);
    const [late, filled] = (await events(run_id)).slice(-2);
    expect(late).toMatchObject({ type: "memory.read", origin: { from: "prd_1/1/2", late: 1 } });
    expect(filled).toMatchObject({ type: "journal.gap_filled", data: { from: 2, to: 2 } });
    expect(statuses(await send(run_id, [{ sequence_no: 2, ...good }]))).toEqual(["duplicate"]);
  });

  test("a run that a person stopped takes no more calls, and says so of each", async () => {
    const run_id = freshRun();
    await send(run_id, numbered(CALLS.slice(0, 5)));
    await world.engine.command(TENANT, run_id, { type: "cancel", reason: "", actor: { id: "ada", kind: "user" } });
    const answer = await send(run_id, numbered(CALLS.slice(5), 6));
    expect([answer.state, ...statuses(answer)]).toEqual(["cancelled", "RUN_TERMINAL", "RUN_TERMINAL", "RUN_TERMINAL"]);
    const score: Sent = { type: "evaluation.recorded", data: { name: "helpful", score: 0 } };
    expect(statuses(await send(run_id, numbered([{ type: "run.succeeded", data: {} }, score], 12)))).toEqual([
      "RUN_TERMINAL",
      "committed",
    ]);
    expect(await world.staged.groups()).toEqual([]);
    expect((await types(run_id)).slice(-3)).toEqual(["run.cancelled", "journal.gap", "evaluation.recorded"]);
  });

  test("a run whose program waits for hours stays open; a session that falls silent does not", async () => {
    const run_id = freshRun();
    await send(run_id, numbered([started]));
    const session = await world.captures.runFor(world.caller, { agent: "desk", session: "s" });
    await world.clock.pass(LIMITS.capture_idle_ms + 1_000);
    expect(world.store.runs.get(session)).toMatchObject({ state: "succeeded", reason: "idle" });
    const later: Sent = { type: "memory.read", data: { store: "s" } };
    expect(statuses(await send(run_id, numbered([later], 2)))).toEqual(["committed"]);
    await world.clock.pass(LIMITS.capture_open_ms + 1_000);
    expect(world.store.runs.get(run_id)).toMatchObject({ state: "succeeded", reason: "idle" });
  });

  test("after the end come judgements, and nothing else", async () => {
    const run_id = freshRun();
    await send(run_id, numbered(CALLS));
    const score: Sent = { type: "evaluation.recorded", data: { name: "helpful", score: 1 } };
    expect(statuses(await send(run_id, numbered([score]), "judge"))).toEqual(["committed"]);
    expect(world.engine.openRuns).toBe(0);
    await world.clock.pass(LIMITS.seal_after_ms + 1);
    const note: Sent = { type: "memory.read", data: { store: "s" } };
    expect(statuses(await send(run_id, numbered([note]), "other"))).toEqual(["RUN_SEALED"]);
    expect(statuses(await send(run_id, numbered([score], 2), "judge"))).toEqual(["committed"]);
    expect(await types(run_id)).toEqual([
      ...CALLS.map((event) => event.type),
      "evaluation.recorded",
      "evaluation.recorded",
    ]);
  });
});

describe("numbers that come too early", () => {
  const notes = (count: number): Sent[] =>
    Array.from({ length: count }, (_, n) => ({ type: "memory.written", data: { store: "s", n } }));

  test("a run whose events come in any order is the run they came in order", async () => {
    const all = numbered([started, ...notes(1_000)]);
    const inOrder = freshRun();
    await send(inOrder, all);
    const shuffled = freshRun();
    const random = new Prng(4);
    const order = all.map((event) => event.sequence_no);
    // Within windows of 200, so that no more wait than may.
    for (let from = 0; from < order.length; from += 200)
      for (let i = Math.min(order.length, from + 200) - 1; i > from; i--) {
        const j = from + random.int(i - from + 1);
        [order[i], order[j]] = [order[j] as number, order[i] as number];
      }
    while (order.length > 0) {
      const part = order.splice(0, 1 + random.int(40)).map((no) => all[no - 1] as object);
      const answer = await send(shuffled, part);
      expect(answer.items.every((item) => item.status === "committed" || item.status === "staged")).toBe(true);
    }
    const plain = (list: StoredEvent[]) => list.map(({ type, data, seq }) => ({ data, seq, type }));
    expect(plain(await events(shuffled))).toEqual(plain(await events(inOrder)));
    expect(await world.staged.groups()).toEqual([]);
  });

  test("they wait across a restart", async () => {
    const run_id = freshRun();
    const all = numbered([started, ...notes(4)]);
    await send(run_id, all.slice(0, 1));
    expect(statuses(await send(run_id, all.slice(2)))).toEqual(["staged", "staged", "staged"]);
    await world.open();
    const answer = await send(run_id, all.slice(1, 2));
    expect(statuses(answer)).toEqual(["committed"]);
    expect((await events(run_id)).length).toBe(5);
  });

  test("finalize says what is missing; with force the gap goes on record", async () => {
    const run_id = freshRun();
    const all = numbered([started, ...notes(6)]);
    await send(run_id, [...all.slice(0, 2), ...all.slice(3, 4), ...all.slice(6)]);
    const ranges = [
      { from: 3, to: 3 },
      { from: 5, to: 6 },
    ];
    await expect(world.ingest.finalize(world.caller, run_id, {})).rejects.toMatchObject({
      code: "EVENTS_MISSING",
      details: { missing: [{ producer_id: "prd_1", producer_epoch: 1, ranges }] },
    });
    expect((await world.ingest.finalize(world.caller, run_id, { force: true, output: "so far" })).state).toBe(
      "succeeded",
    );
    const gaps = (await events(run_id)).filter((event) => event.type === "journal.gap").map((event) => event.data);
    expect(gaps).toMatchObject([
      { from: 3, to: 3, reason: "forced" },
      { from: 5, to: 6, reason: "forced" },
    ]);
  });

  test("what does not come in time is given up on record, and the run is incomplete", async () => {
    const run_id = freshRun();
    const all = numbered([started, ...notes(2), { type: "run.succeeded", data: {} }]);
    await send(run_id, [all[0] as object, all[2] as object, all[3] as object]);
    await world.clock.pass(LIMITS.gap_wait_ms + 1);
    expect(await types(run_id)).toEqual(["run.started", "journal.gap", "memory.written", "run.succeeded"]);
    expect(world.store.runs.get(run_id)).toMatchObject({ state: "succeeded", reason: "incomplete" });
    // What was missing may still come, for a while.
    expect(statuses(await send(run_id, all.slice(1, 2)))).toEqual(["committed"]);
    await world.clock.pass(LIMITS.seal_after_ms);
    expect(await types(run_id)).toHaveLength(6);
  });

  test("no more wait than may", async () => {
    const run_id = freshRun();
    await send(run_id, numbered([started]));
    const answer = await send(run_id, numbered(notes(LIMITS.staged_events_max), 3));
    expect(answer.items.every((item) => item.status === "staged")).toBe(true);
    const over = await send(run_id, numbered(notes(1), LIMITS.staged_events_max + 3));
    expect(over.items[0]?.error).toMatchObject({ code: "EVENTS_MISSING", retryable: true });
    expect(over.missing).toEqual([{ producer_id: "prd_1", producer_epoch: 1, ranges: [{ from: 2, to: 2 }] }]);
  });
});

describe("fields", () => {
  const required = Object.entries(OBSERVED).flatMap(([type, schema]) =>
    ((schema as { required?: string[] }).required ?? []).map((field) => [type, field] as const),
  );

  test.each(required)("%s needs %s", async (type, field) => {
    const run_id = freshRun();
    const bad = { sequence_no: 1, type, step_id: "s", data: {} };
    if (type === "run.started") {
      await expect(send(run_id, [bad])).rejects.toMatchObject({
        code: "VALIDATION_ERROR",
        message: expect.stringContaining(field),
      });
      return;
    }
    await send(run_id, numbered([started]));
    const [item] = (await send(run_id, [{ ...bad, sequence_no: 2 }])).items;
    expect(item?.error?.code).toBe("VALIDATION_ERROR");
    expect(item?.error?.message).toContain(field);
  });

  test("an unknown type is kept as it is", async () => {
    const run_id = freshRun();
    const own: Sent = { type: "billing.counted", data: { cents: 3 }, ext: { "com.acme.x": [1] } };
    expect(statuses(await send(run_id, numbered([started, own])))).toEqual(["committed", "committed"]);
    expect((await events(run_id))[1]).toMatchObject({
      data: { cents: 3 },
      origin: { said: { ext: { "com.acme.x": [1] } } },
    });
  });

  test("the version before is read", async () => {
    const run_id = freshRun();
    const old = (sequence_no: number, event_type: string, payload: object, step_id?: string) => ({
      schema_version: "0.9",
      sequence_no,
      event_type,
      timestamp_utc: "2026-01-02T03:04:05Z",
      actor_type: "sdk",
      payload,
      ...(step_id === undefined ? {} : { step_id }),
    });
    const answer = await send(run_id, [
      old(1, "run_started", { app_id: "desk", environment: "prod", entrypoint_name: "main" }),
      old(2, "model_called", { provider: "openai", model_id: "m-1" }, "m"),
      old(3, "model_result", { finish_reason: "stop", token_usage: { prompt_tokens: 5, completion_tokens: 2 } }, "m"),
      old(4, "retrieval_executed", { candidate_list: [], query_text_ref: "q", top_k: 3 }, "r"),
      old(5, "tool_called", { name: "search", call_signature_hash: "h" }, "t"),
      old(6, "tool_result", { name: "search", status: "timeout", error_class: "Timeout" }, "t"),
      old(7, "final_output", { output: "done" }),
      old(8, "run_completed", { status: "ok", total_steps: 2 }),
    ]);
    expect(statuses(answer)).toEqual(answer.items.map(() => "committed"));
    expect(world.store.runs.get(run_id)).toMatchObject({
      state: "succeeded",
      env: "prod",
      tokens: 7,
      target: "desk@1",
    });
    expect((await events(run_id))[1]?.occurred).toBe(Date.parse("2026-01-02T03:04:05Z") * 1000);
  });

  test("secrets are taken out before anything is stored, also of what waits", async () => {
    const run_id = freshRun();
    const leaky: Sent = {
      type: "tool.requested",
      step_id: "t",
      data: { tool: "x", args: { token: LEAKED } },
      ext: { k: LEAKED },
    };
    await send(run_id, numbered([started]));
    await send(run_id, [{ sequence_no: 3, ...leaky, step_id: "u" }]);
    expect(
      JSON.stringify(await world.staged.read({ tenant_id: TENANT, run_id, producer: "prd_1", epoch: 1 })),
    ).not.toContain(LEAKED);
    await send(run_id, [{ sequence_no: 2, ...leaky }]);
    const stored = await events(run_id);
    expect(stored).toHaveLength(3);
    expect(JSON.stringify(stored)).not.toContain(LEAKED);
    expect(stored[1]?.data["redaction"]).toMatchObject({ status: "redacted" });
  });

  test("large payloads are artifacts; what is too large besides is refused", async () => {
    const run_id = freshRun();
    const result = "x".repeat(20_000);
    const many = Object.fromEntries(Array.from({ length: 400 }, (_, i) => [`k${i}`, "y".repeat(200)]));
    const answer = await send(
      run_id,
      numbered([
        started,
        { type: "tool.requested", step_id: "t", data: { tool: "x", args: {} } },
        { type: "tool.completed", step_id: "t", data: { result } },
        { type: "memory.written", data: { store: "s", ...many } },
      ]),
    );
    expect(statuses(answer)).toEqual(["committed", "committed", "committed", "PAYLOAD_TOO_LARGE"]);
    const [digest] = world.blobs.keys();
    expect((await events(run_id))[2]?.data["result_ref"]).toEqual({ bytes: 20_000, digest });
    expect(Buffer.from(world.blobs.get(digest ?? "") ?? []).toString()).toBe(result);
  });
});

test("a program that asks with what was redacted is answered, and its replay says no more than the recording", async () => {
  const run_id = freshRun();
  const args = { token: LEAKED, unit: "mm" };
  const request = { messages: [{ role: "user", content: `use ${LEAKED}` }], model: "m-1" };
  await send(
    run_id,
    numbered([
      started,
      { type: "tool.requested", step_id: "t1", data: { tool: "measure", args } },
      { type: "tool.completed", step_id: "t1", data: { result: 7 } },
      { type: "model.requested", step_id: "m1", data: { model: "m-1", request } },
      { type: "model.completed", step_id: "m1", data: { content: "Seven." } },
      { type: "run.succeeded", data: {} },
    ]),
  );
  const replay = await world.captures.start(world.caller, { replay_of: run_id });
  const ask = (call: Parameters<typeof world.captures.answer>[2]) =>
    world.captures.answer(world.caller, replay.run_id, call);
  expect(await ask({ kind: "tool", tool: "measure", args })).toMatchObject({ data: { result: 7 } });
  expect(await ask({ kind: "model", model: "m-1", request })).toMatchObject({ data: { content: "Seven." } });
  const asked = (await events(replay.run_id)).filter(({ type }) => type.endsWith(".requested"));
  expect(asked.map(({ data }) => data["redaction"])).toEqual([
    expect.objectContaining({ paths: ["/args/token"] }),
    expect.objectContaining({ paths: ["/request/messages/0/content"] }),
  ]);
  expect(JSON.stringify(asked)).not.toContain(LEAKED);
  // The replay can be replayed in its turn.
  await world.captures.end(world.caller, replay.run_id, 0);
});
