import { expect, test } from "vitest";
import { Line } from "./line.ts";

const all = <T>(line: Line<T>): T[] => {
  const out: T[] = [];
  for (let next = line.shift(); next !== undefined; next = line.shift()) out.push(next);
  return out;
};

test("higher priorities come first, and within one who came first", () => {
  const line = new Line<string>();
  for (const [item, priority] of [
    ["a5", 5],
    ["b9", 9],
    ["c0", 0],
    ["d5", 5],
    ["e9", 9],
  ] as const)
    line.push(item, priority);
  expect(line.size).toBe(5);
  expect(all(line)).toEqual(["b9", "e9", "a5", "d5", "c0"]);
  expect([line.size, line.shift()]).toEqual([0, undefined]);
});

test("who had their turn is before the others of their priority, and not before higher ones", () => {
  const line = new Line<string>();
  line.push("a", 5);
  line.push("z", 6);
  line.putBack(["x", "y"], 5);
  expect(all(line)).toEqual(["z", "x", "y", "a"]);
});

test("who is taken out is told in order, also after a part is gone", () => {
  const line = new Line<number>();
  for (let i = 0; i < 3_000; i++) line.push(i, i % 2);
  for (let i = 0; i < 1_400; i++) line.shift();
  const dropped = line.drop((item) => item % 3 === 0);
  expect(dropped.every((item) => item % 3 === 0)).toBe(true);
  expect(dropped.length + line.size).toBe(1_600);
  const rest = all(line);
  expect(rest).toEqual([...rest.filter((item) => item % 2 === 1), ...rest.filter((item) => item % 2 === 0)]);
  expect(rest[0]).toBe(2_801);
});
