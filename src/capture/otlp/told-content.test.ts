// What exporters send apart from its span, before or after it: messages as log records, and two spans of one call.
import { beforeEach, describe, expect, test } from "vitest";
import { CaptureWorld } from "../../../test/support/capture-world.ts";
import { anyValue, id, span, TRACE } from "../../../test/support/otlp-spans.ts";
import type { StoredEvent } from "../../contract/events.ts";
import type { JsonObject } from "../../kit/json.ts";
import { logsOfJson, spansOfJson } from "./decode-json.ts";
import { ToldContent } from "./told-content.ts";

let world: CaptureWorld;
beforeEach(async () => void (world = await new CaptureWorld().open()));

const send = (spans: object[]) =>
  world.otlp.traces(world.caller, spansOfJson({ resourceSpans: [{ scopeSpans: [{ spans }] }] }));
const events = (): Promise<StoredEvent[]> => world.events([...world.store.runs.values()][0]?.run_id ?? "");
const dataOf = async (type: string): Promise<JsonObject> =>
  (await events()).find((event) => event.type === type)?.data ?? {};

describe("what comes apart", () => {
  const log = (n: number, name: string, body: JsonObject, at = 0): object => ({
    traceId: TRACE,
    spanId: id(n),
    eventName: name,
    timeUnixNano: String(BigInt(1_790_000_000_000 + at) * 1_000_000n),
    body: anyValue(body),
  });
  const sendLogs = (records: object[]) =>
    world.otlp.logs(world.caller, logsOfJson({ resourceLogs: [{ scopeLogs: [{ logRecords: records }] }] }));
  const chat = (n: number) =>
    span({ n, attributes: { "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-x" } });

  test("messages that came as log records before their span stand in its call", async () => {
    await sendLogs([
      log(
        1,
        "gen_ai.choice",
        { index: 0, finish_reason: "stop", message: { role: "assistant", content: "There." } },
        9,
      ),
      log(1, "gen_ai.system.message", { content: "Be brief." }, 1),
      log(1, "gen_ai.user.message", { content: "Where is it?" }, 2),
      log(2, "gen_ai.client.inference.operation.details", {
        "gen_ai.input.messages": [{ role: "user", parts: [{ type: "text", content: "And when?" }] }],
        "gen_ai.output.messages": [{ role: "assistant", parts: [{ type: "text", content: "Now." }] }],
      }),
    ]);
    await send([chat(1), chat(2), chat(3)]);
    const calls = (await events()).filter(({ type }) => type === "model.requested" || type === "model.completed");
    expect(
      calls.map(({ data }) => (data["request"] as JsonObject | undefined)?.["messages"] ?? data["content"]),
    ).toEqual([
      [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Where is it?" },
      ],
      "There.",
      [{ role: "user", content: "And when?" }],
      "Now.",
      [],
      null,
    ]);
    // They stand by themselves too: they were acknowledged before anybody knew of a span.
    expect((await events()).filter(({ type }) => type === "wire.message")).toHaveLength(4);
  });

  test("those that come after their span, or after a restart, stand beside it", async () => {
    await send([chat(1)]);
    await sendLogs([log(1, "gen_ai.user.message", { content: "Where is it?" })]);
    expect((await dataOf("model.requested"))["request"]).toEqual({ messages: [] });
    expect((await dataOf("wire.message"))["body"]).toEqual({ content: "Where is it?" });
  });

  test("no more is kept than may be, and each span's own", () => {
    const told = new ToldContent(1_100);
    const record = (span_id: string, content: string) => ({
      trace_id: TRACE,
      span_id,
      name: "gen_ai.user.message",
      time_us: 0,
      severity: "",
      body: { content },
      attributes: {},
      scope: "",
      resource: {},
    });
    told.keep("t", [record("a", "x".repeat(100)), record("b", "y".repeat(100)), record("", "no span")]);
    expect(told.take("t", { trace_id: TRACE, span_id: "a" })).toEqual([]);
    expect(told.take("other", { trace_id: TRACE, span_id: "b" })).toEqual([]);
    expect(told.take("t", { trace_id: TRACE, span_id: "b" })).toHaveLength(1);
    expect(told.take("t", { trace_id: TRACE, span_id: "b" })).toEqual([]);
    // What is larger than all of it is not kept, and does not stay in the way.
    told.keep("t", [record("c", "z".repeat(1_000)), record("d", "small")]);
    expect(told.take("t", { trace_id: TRACE, span_id: "d" })).toHaveLength(1);
  });

  test.each([
    ["in one export", [[1, 2]]],
    ["the outer first", [[1], [2]]],
    ["the inner first", [[2], [1]]],
  ])("a tool's span and the protocol's below it are one call: %s", async (_name, exports) => {
    const spans: Record<number, object> = {
      1: span({ n: 1, for: 50, attributes: { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find" } }),
      2: span({ n: 2, parent: 1, attributes: { "mcp.method.name": "tools/call", "gen_ai.tool.name": "find" } }),
    };
    for (const part of exports) await send(part.flatMap((n) => spans[n] ?? []));
    const types = (await events()).map(({ type }) => type);
    expect(types.filter((type) => type === "tool.requested")).toHaveLength(1);
    expect(types.filter((type) => type === "tool.completed")).toHaveLength(1);
    expect(types.filter((type) => type === "step.ended")).toHaveLength(1);
  });
});
