import { expect, test } from "vitest";
import { seams, TENANT } from "../../test/support/engine.ts";
import { decodeBody } from "../core/chain.ts";
import { importRecorded } from "./import.ts";

const caller = { tenant_id: TENANT, project: "default", principal: "ada" };
const events = async (format: string, value: unknown) =>
  (await importRecorded({ format, text: JSON.stringify(value), caller, seams })).flatMap((run) =>
    run.rows.flatMap((row) => decodeBody(row.body)).map(({ type, data }) => ({ type, data })),
  );

test("a transcript of Anthropic's Messages", async () => {
  const found = await events("anthropic-messages", {
    model: "claude",
    system: "Be brief.",
    messages: [
      { role: "user", content: "What is the weather?" },
      {
        role: "assistant",
        content: [
          { type: "text", text: "I look." },
          { type: "tool_use", id: "t1", name: "weather", input: { city: "Bonn" } },
        ],
      },
      {
        role: "user",
        content: [{ type: "tool_result", tool_use_id: "t1", content: [{ type: "text", text: "rain" }] }],
      },
      { role: "assistant", content: "It rains." },
    ],
  });
  expect(found.map(({ type }) => type)).toEqual([
    "run.started",
    "model.requested",
    "model.completed",
    "tool.requested",
    "tool.completed",
    "model.requested",
    "model.completed",
    "run.succeeded",
  ]);
  expect(found[0]?.data).toMatchObject({ instructions: "Be brief.", input: "What is the weather?", model: "claude" });
  expect([found[3]?.data, found[4]?.data]).toMatchObject([
    { tool: "weather", args: { city: "Bonn" } },
    { result: "rain" },
  ]);
  expect(found.at(-1)?.data).toMatchObject({ output: "It rains." });
});

test("an id of a call that tells something is recorded as its digest, in the call and in its result", async () => {
  const id = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
  const [run] = await importRecorded({
    format: "anthropic-messages",
    text: JSON.stringify({
      model: "claude",
      messages: [
        { role: "user", content: "What is the weather?" },
        { role: "assistant", content: [{ type: "tool_use", id, name: "weather", input: {} }] },
        { role: "user", content: [{ type: "tool_result", tool_use_id: id, content: "rain" }] },
      ],
    }),
    caller,
    seams,
  });
  const text = (run?.rows ?? []).map((row) => row.body.toString()).join("\n");
  expect(text).not.toContain(id);
  const calls = text.split("\n").flatMap((line) => (JSON.parse(line) as { call?: string }).call ?? []);
  expect([calls.length, new Set(calls).size]).toEqual([2, 1]);
});

test("an ATIF trajectory", async () => {
  const found = await events("atif", {
    schema_version: "ATIF-v1.7",
    trajectory_id: "x",
    agent: { name: "a", model_name: "m" },
    steps: [
      { step_id: 1, source: "user", message: "go" },
      {
        step_id: 2,
        source: "agent",
        message: "",
        timestamp: "2026-01-01T00:00:00Z",
        tool_calls: [{ tool_call_id: "c", function_name: "run", arguments: { cmd: "ls" } }],
        observation: { results: [{ source_call_id: "c", content: "a.txt" }] },
        metrics: { prompt_tokens: 5, completion_tokens: 2, cost_usd: 0.01 },
      },
      { step_id: 3, source: "agent", message: "done" },
    ],
  });
  const completed = found.filter(({ type }) => type === "model.completed");
  expect(completed[0]?.data).toMatchObject({ cost_micro_usd: 10_000, usage: { input_tokens: 5, output_tokens: 2 } });
  expect(found.find(({ type }) => type === "tool.completed")?.data).toMatchObject({ result: "a.txt" });
  expect(found.at(-1)?.data).toMatchObject({ output: "done" });
});

test("secrets in an import are not stored", async () => {
  const secret = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
  const found = await events("openai-chat", {
    messages: [
      { role: "user", content: `my token is ${secret}` },
      { role: "assistant", content: "ok" },
    ],
  });
  expect(JSON.stringify(found)).not.toContain(secret);
  expect(found[0]?.data).toMatchObject({
    input: "my token is [redacted:github]",
    redaction: { status: "redacted", rules: ["github"], paths: ["/input"] },
  });
});
