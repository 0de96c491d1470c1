import { expect, test } from "vitest";
import { openaiChat } from "./openai-chat.ts";

const event = (value: object) => ({ name: "", data: JSON.stringify(value) });
const chunk = (index: number, delta: object, finish_reason: string | null = null) =>
  event({ id: "x", model: "m", choices: [{ index, delta, finish_reason }] });

test("of several choices in a stream the first is the answer, whatever order they come in; all count as output", () => {
  const assembler = openaiChat.assembler({ n: 2 });
  const call = (piece: string) => ({ tool_calls: [{ index: 0, id: "c", function: { name: "f", arguments: piece } }] });
  for (const part of [
    chunk(1, { role: "assistant", content: "other " }),
    chunk(0, { content: "first " }),
    chunk(1, call('{"b":1}')),
    chunk(0, { content: "answer" }),
    chunk(0, call('{"a":')),
    chunk(0, call("1}")),
    chunk(1, { content: "words" }, "length"),
    chunk(0, {}, "stop"),
  ])
    assembler.push(part);
  expect(assembler.answer()).toMatchObject({
    content: "first answer",
    finish_reason: "stop",
    tool_calls: [{ id: "c", name: "f", arguments: '{"a":1}' }],
  });
  expect(assembler.output_bytes).toBe('other first answerwords{"b":1}{"a":1}'.length);
});

test("thoughts and refusals count as output: a stream of them is cut too", () => {
  const assembler = openaiChat.assembler({});
  assembler.push(chunk(0, { role: "assistant", reasoning_content: "think" }));
  assembler.push(chunk(0, { refusal: "no" }));
  expect(assembler.output_bytes).toBe("thinkno".length);
  expect(assembler.answer().content).toBe("");
});
