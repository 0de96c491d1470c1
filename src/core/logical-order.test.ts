import { expect, test } from "vitest";
import { logicalOrder } from "./logical-order.ts";

const late = (seq: number, behind: number, no: number, producer = "p/1") => ({ seq, behind, no, producer });

test.each([
  ["nothing came late", 4, [], [1, 2, 3, 4]],
  ["behind the one it belongs to", 5, [late(4, 1, 2)], [1, 4, 2, 3, 5]],
  ["by number, where the smaller one came later", 5, [late(4, 1, 4), late(5, 1, 2)], [1, 5, 4, 2, 3]],
  ["behind one that came late itself", 6, [late(4, 1, 4), late(5, 4, 5), late(6, 1, 2)], [1, 6, 4, 5, 2, 3]],
  ["the first of a producer: behind the beginning of the run", 3, [late(3, 0, 1, "q/1")], [1, 3, 2]],
  [
    "those of two producers one after the other",
    5,
    [late(4, 1, 9), late(5, 1, 1, "q/1"), late(3, 1, 8)],
    [1, 3, 4, 5, 2],
  ],
])("%s", (_name, last_seq, places, order) => {
  expect(logicalOrder(last_seq, places)).toEqual(order);
});

test("a long chain of late events needs no stack", () => {
  const n = 50_000;
  const places = Array.from({ length: n }, (_, i) => late(i + 3, i === 0 ? 1 : i + 2, i + 2));
  expect(logicalOrder(n + 2, places).slice(-2)).toEqual([n + 2, 2]);
});
