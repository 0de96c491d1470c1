// Spans as runs: the dialects attribute by attribute, any order of arrival, once each, and when a trace has ended.
import { beforeEach, describe, expect, test } from "vitest";
import { CaptureWorld } from "../../../test/support/capture-world.ts";
import { attributes, id, span, TRACE } from "../../../test/support/otlp-spans.ts";
import type { SpanOf } from "../../../test/support/otlp-spans.ts";
import type { JsonObject } from "../../kit/json.ts";
import type { StoredEvent } from "../../contract/events.ts";
import { LIMITS } from "../../contract/limits.ts";
import { Interner, trace } from "../../core/trace.ts";
import { spansOfJson } from "./decode-json.ts";

let world: CaptureWorld;
beforeEach(async () => void (world = await new CaptureWorld().open()));

const send = (spans: object[], resource: JsonObject = { "service.name": "desk" }) =>
  world.otlp.traces(
    world.caller,
    spansOfJson({ resourceSpans: [{ resource: { attributes: attributes(resource) }, scopeSpans: [{ spans }] }] }),
  );
const run = () => [...world.store.runs.values()][0];
const events = (): Promise<StoredEvent[]> => world.events(run()?.run_id ?? "");
const dataOf = async (type: string): Promise<JsonObject> =>
  (await events()).find((event) => event.type === type)?.data ?? {};

const ASKED = [{ role: "user", content: "Where is it?" }];

describe("dialects", () => {
  test.each<[string, JsonObject, SpanOf["events"]?]>([
    [
      "OTel GenAI, current names",
      {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.response.model": "gpt-x-1",
        "gen_ai.input.messages": JSON.stringify([{ role: "user", parts: [{ type: "text", content: "Where is it?" }] }]),
        "gen_ai.output.messages": JSON.stringify([
          {
            role: "assistant",
            parts: [
              { type: "text", content: "There." },
              { type: "tool_call", id: "c1", name: "find", arguments: { q: 1 } },
            ],
          },
        ]),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["stop"],
      },
    ],
    [
      "OTel GenAI, messages as span events",
      {
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.usage.prompt_tokens": 11,
        "gen_ai.usage.completion_tokens": 3,
      },
      [
        { name: "gen_ai.user.message", attributes: { content: "Where is it?" } },
        {
          name: "gen_ai.choice",
          attributes: {
            finish_reason: "stop",
            message: JSON.stringify({
              content: "There.",
              role: "assistant",
              tool_calls: [{ id: "c1", function: { name: "find", arguments: '{"q":1}' } }],
            }),
          },
        },
      ],
    ],
    [
      "Traceloop",
      {
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-x",
        "llm.request.type": "chat",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Where is it?",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "There.",
        "gen_ai.completion.0.finish_reason": "stop",
        "gen_ai.completion.0.tool_calls.0.id": "c1",
        "gen_ai.completion.0.tool_calls.0.name": "find",
        "gen_ai.completion.0.tool_calls.0.arguments": '{"q":1}',
        "gen_ai.usage.prompt_tokens": 11,
        "gen_ai.usage.completion_tokens": 3,
      },
    ],
    [
      "OpenInference",
      {
        "openinference.span.kind": "LLM",
        "llm.provider": "openai",
        "llm.model_name": "gpt-x",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.contents.0.message_content.text": "Where is it?",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "There.",
        "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "find",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"q":1}',
        "llm.token_count.prompt": 11,
        "llm.token_count.completion": 3,
        "llm.cost.total": 0.0021,
      },
    ],
    [
      "Vercel AI SDK",
      {
        "ai.operationId": "ai.generateText.doGenerate",
        "operation.name": "ai.generateText.doGenerate",
        "ai.model.id": "gpt-x",
        "ai.model.provider": "openai",
        "ai.prompt.messages": JSON.stringify(ASKED),
        "ai.response.text": "There.",
        "ai.response.toolCalls": JSON.stringify([{ toolCallId: "c1", toolName: "find", input: '{"q":1}' }]),
        "ai.response.finishReason": "stop",
        "ai.usage.promptTokens": 11,
        "ai.usage.completionTokens": 3,
      },
    ],
  ])("%s: a model call", async (_name, given, told) => {
    expect(await send([span({ n: 1, attributes: given, ...(told ? { events: told } : {}) })])).toEqual({
      rejected: 0,
      message: "",
    });
    expect(await dataOf("model.requested")).toMatchObject({
      model: "gpt-x",
      provider: "openai",
      request: { messages: ASKED },
    });
    const answer = await dataOf("model.completed");
    expect(answer).toMatchObject({ content: "There.", usage: { input_tokens: 11, output_tokens: 3 }, duration_ms: 5 });
    expect(answer["tool_calls"]).toMatchObject([{ id: "c1", name: "find" }]);
    expect(JSON.parse(String((answer["tool_calls"] as JsonObject[])[0]?.["arguments"]))).toEqual({ q: 1 });
    expect(run()).toMatchObject({ kind: "captured", target: "desk@1", tokens: 14, external_id: `otel:${TRACE}` });
  });

  test.each<[string, JsonObject]>([
    [
      "OTel GenAI",
      {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "find",
        "gen_ai.tool.call.arguments": '{"q":1}',
        "gen_ai.tool.call.result": '{"at":"home"}',
      },
    ],
    [
      "OpenInference",
      {
        "openinference.span.kind": "TOOL",
        "tool.name": "find",
        "input.value": '{"q":1}',
        "output.value": '{"at":"home"}',
      },
    ],
    [
      "Traceloop",
      {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "find",
        "traceloop.entity.input": '{"q":1}',
        "traceloop.entity.output": '{"at":"home"}',
      },
    ],
    [
      "Vercel AI SDK",
      {
        "ai.operationId": "ai.toolCall",
        "ai.toolCall.name": "find",
        "ai.toolCall.args": '{"q":1}',
        "ai.toolCall.result": '{"at":"home"}',
      },
    ],
    [
      "MCP",
      {
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "find",
        "gen_ai.tool.call.arguments": '{"q":1}',
        "gen_ai.tool.call.result": '{"at":"home"}',
      },
    ],
  ])("%s: a tool call", async (_name, given) => {
    await send([span({ n: 1, attributes: given })]);
    expect(await dataOf("tool.requested")).toMatchObject({ tool: "find", args: { q: 1 } });
    expect(await dataOf("tool.completed")).toMatchObject({ result: { at: "home" } });
  });

  test("a tool's own span and the protocol's below it are one tool call", async () => {
    await send([
      span({ n: 1, attributes: { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find" }, for: 20 }),
      span({ n: 2, parent: 1, attributes: { "mcp.method.name": "tools/call", "gen_ai.tool.name": "find" } }),
    ]);
    const types = await world.types(run()?.run_id ?? "");
    expect(types.filter((type) => type === "tool.requested")).toHaveLength(1);
    expect(types.filter((type) => type === "step.started")).toHaveLength(1);
  });

  test("retrievals, judgements and prompts", async () => {
    await send([
      span({
        n: 1,
        name: "docs",
        attributes: {
          "openinference.span.kind": "RETRIEVER",
          "input.value": "where",
          "retrieval.documents.0.document.id": "d7",
          "retrieval.documents.0.document.score": 0.9,
          "retrieval.documents.1.document.id": "d3",
          "retrieval.documents.1.document.score": 0.4,
        },
      }),
      span({ n: 2, name: "pii", attributes: { "openinference.span.kind": "GUARDRAIL" }, error: "blocked" }),
      span({ n: 3, name: "score", attributes: { "openinference.span.kind": "EVALUATOR", "eval.score": 0.5 } }),
      span({
        n: 4,
        name: "p",
        attributes: {
          "openinference.span.kind": "PROMPT",
          "llm.prompt_template.template": "Hi {name}",
          "output.value": "Hi Ada",
        },
      }),
    ]);
    expect((await dataOf("retrieval.completed"))["documents"]).toMatchObject([
      { id: "d7", rank: 1, score: 0.9 },
      { id: "d3", rank: 2 },
    ]);
    expect(await dataOf("safety.decided")).toMatchObject({ category: "pii", decision: "block" });
    expect(await dataOf("evaluation.recorded")).toMatchObject({ name: "score", score: 0.5 });
    expect(await dataOf("prompt.rendered")).toMatchObject({ template: "Hi {name}", rendered: "Hi Ada" });
  });

  test("what failed, and what nobody asked for, is kept", async () => {
    await send([
      span({
        n: 1,
        error: "no quota",
        attributes: {
          "gen_ai.operation.name": "chat",
          "gen_ai.request.model": "m",
          "error.type": "429",
          "acme.shelf": 7,
        },
      }),
      span({
        n: 2,
        attributes: { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "error.type": "tool_error" },
      }),
    ]);
    expect(await dataOf("model.failed")).toMatchObject({
      code: "429",
      message: "no quota",
      attributes: { "acme.shelf": 7 },
    });
    expect(await dataOf("tool.completed")).toMatchObject({ is_error: true });
  });
});

describe("a trace", () => {
  const agent = { "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper", "session.id": "s-1" };
  const family = () => [
    span({
      n: 1,
      at: 0,
      for: 100,
      name: "root",
      attributes: { ...agent, "input.value": "hello", "output.value": "bye" },
    }),
    span({
      n: 2,
      at: 10,
      for: 20,
      parent: 1,
      attributes: { "gen_ai.operation.name": "chat", "gen_ai.request.model": "m" },
    }),
    span({
      n: 3,
      at: 40,
      for: 20,
      parent: 1,
      attributes: { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t" },
    }),
  ];

  test("is in the order of its times, whatever the order of its spans", async () => {
    await send(family().toReversed());
    expect(await world.types(run()?.run_id ?? "")).toEqual([
      "run.started",
      "agent.started",
      "model.requested",
      "model.completed",
      "tool.requested",
      "tool.completed",
      "agent.ended",
      "run.output",
    ]);
    const [started] = await events();
    expect(started?.data).toMatchObject({
      correlation: "s-1",
      fidelity: "span",
      input: "hello",
      labels: { session: "s-1" },
    });
    expect(
      (await events()).filter((event) => event.type.startsWith("model.")).every((event) => event.parent === 1),
    ).toBe(true);
  });

  test("may come in parts, children first and twice, and after a restart", async () => {
    const [root, model, tool] = family();
    await send([model as object]);
    await send([model as object, tool as object]);
    await world.open();
    expect(await send([tool as object, root as object])).toEqual({ rejected: 0, message: "" });
    expect(await send(family())).toEqual({ rejected: 0, message: "" });
    expect(world.store.runs.size).toBe(1);
    const list = await events();
    expect(list).toHaveLength(8);
    const step = (type: string) => list.find((event) => event.type === type);
    expect(step("model.requested")?.parent).toBe(step("agent.started")?.step);
  });

  test("has ended when its root has and nothing more comes", async () => {
    await send(family());
    await world.clock.pass(LIMITS.trace_quiet_ms + 1_000);
    expect(run()).toMatchObject({ state: "succeeded", reason: null });
    const traced = trace(
      [{ run_id: "r", started: (await events())[0] as StoredEvent, events: await events(), program: null }],
      new Interner(),
    );
    expect(traced).toMatchObject({ state: "succeeded", output: "bye", input: "hello" });
    expect(traced.items.map((item) => `${item.path} ${item.kind} ${item.name}`)).toEqual([
      " input ",
      "helper model m",
      "helper tool t",
    ]);
    // What was sent before changes nothing; what is new came too late, and is told so.
    expect(await send(family())).toEqual({ rejected: 0, message: "" });
    const late = await send([span({ n: 9, parent: 1 })]);
    expect(late.rejected).toBe(1);
    expect(late.message).toContain("succeeded");
  });

  test("fails when its root does", async () => {
    await send([span({ n: 1, error: "boom", attributes: agent })]);
    await world.clock.pass(LIMITS.trace_quiet_ms + 1_000);
    expect(run()).toMatchObject({ state: "failed", reason: "root_failed" });
  });

  test("is a run of its own; several may come together", async () => {
    const traces = ["1", "2", "3"].map((c) => c.repeat(32));
    const spans = traces.flatMap((of) => [span({ n: 1, trace: of }), span({ n: 2, parent: 1, trace: of })]);
    await send(spans);
    expect(new Set([...world.store.runs.values()].map((one) => one.external_id))).toEqual(
      new Set(traces.map((of) => `otel:${of}`)),
    );
  });

  test("spans that cannot be read do not cost the others", async () => {
    const result = await send([
      span({ n: 1 }),
      { name: "lost", spanId: id(2) },
      { ...span({ n: 3 }), traceId: "0".repeat(32) },
    ]);
    expect(result.rejected).toBe(2);
    expect(result.message).toContain('"lost"');
    expect((await events()).filter((event) => event.type === "step.started")).toHaveLength(1);
  });
});
