// What people are told of a value that does not fit: one fault for each mistake, in words about the form they meant.
import { Type } from "typebox";
import { Compile } from "typebox/compile";
import { expect, test } from "vitest";
import { faults } from "./faults.ts";

const closed = { additionalProperties: false };
const Step = Type.Union([
  Type.Object({ id: Type.String(), tool: Type.String(), args: Type.Optional(Type.Object({})) }, closed),
  Type.Object({ id: Type.String(), model: Type.String(), prompt: Type.String() }, closed),
  Type.Object({ id: Type.String(), wait_ms: Type.Integer({ minimum: 0 }) }, closed),
]);
const Spec = Compile(
  Type.Object(
    {
      steps: Type.Array(Step),
      mode: Type.Optional(Type.Union([Type.Literal("single"), Type.Literal("chat")])),
      port: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
    },
    closed,
  ),
);
const told = (value: unknown) => faults(Spec, value, "/spec").map(({ pointer, message }) => `${pointer} ${message}`);

test.each<[string, unknown, string[]]>([
  ["a field that nobody knows", { steps: [], z: 1 }, ["/spec does not know z"]],
  ["a field that is missing", {}, ["/spec needs steps"]],
  [
    "a form that is almost one of them",
    { steps: [{ id: "a", tool: "t", more: 1 }] },
    ["/spec/steps/0 does not know more"],
  ],
  [
    "a value of another type in one of the forms",
    { steps: [{ id: "a", tool: 5 }] },
    ["/spec/steps/0/tool must be string, not 5"],
  ],
  [
    "a form that is like none of them",
    { steps: [{ id: "a", delay_ms: 5 }] },
    ["/spec/steps/0 needs tool, or wait_ms", "/spec/steps/0 does not know delay_ms"],
  ],
  [
    "two items, each with a mistake of its own",
    {
      steps: [
        { id: "a", wait_ms: -1 },
        { id: "b", model: "m" },
      ],
    },
    ["/spec/steps/0/wait_ms must be >= 0", "/spec/steps/1 needs prompt"],
  ],
  ["a constant", { steps: [], mode: "talk" }, ['/spec/mode is "talk"; it must be one of single, chat']],
  ["a type or nothing", { steps: [], port: "x" }, ['/spec/port must be integer or null, not "x"']],
])("%s", (_name, value, expected) => {
  expect(told(value)).toEqual(expected);
});
