import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseJson, parseJsonStrictly } from "./json.ts";

/** A value, or what is said of it and where. */
function outcome(read: () => unknown): unknown {
  try {
    return { value: read() };
  } catch (error) {
    return { error: String(error) };
  }
}

const agree = (text: string, depth_max = 20) =>
  expect(outcome(() => parseJson(text, depth_max))).toEqual(outcome(() => parseJsonStrictly(text, depth_max)));

describe("the fast way and the strict reader agree", () => {
  test("on any document, however it is spaced", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), fc.constantFrom(0, 1, 4, "\t"), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        agree(text);
        expect(parseJson(text)).toEqual(parseJsonStrictly(text));
      }),
      { numRuns: 500 },
    );
  });

  test("on documents with a piece put in or taken out", () => {
    const pieces = [
      '"',
      "\\",
      "{",
      "}",
      "[",
      "]",
      ":",
      ",",
      '"a":1,',
      '"a":1,"a":2',
      "1e999",
      "-0",
      "\\u0000",
      "\\ud800",
      "\u0000",
      "\ud800",
      " ",
      "\u00a0",
      "//",
      "tru",
      "01",
    ];
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(...pieces), fc.nat(), fc.nat(3), (value, piece, at, cut) => {
        const text = JSON.stringify(value);
        const place = at % (text.length + 1);
        agree(text.slice(0, place) + piece + text.slice(place + cut));
      }),
      { numRuns: 3_000 },
    );
  });

  test.each([
    ['{"a":1,"a":1}', "duplicate key"],
    ['{"a":{"b":1,"c":":","b":2}}', "duplicate key"],
    ['{"\\u0061":1,"a":2}', "duplicate key"],
    ['["\\u0000"]', "NUL"],
    ['["\\ud800"]', "lone surrogate"],
    ['["\ud800"]', "lone surrogate"],
    ["[1e999]", "out of range"],
    ["[[[[]]]]", "nesting deeper than 3"],
    ['{"a":"b', "malformed string"],
    ["", "unexpected end"],
  ])("%s is refused: %s", (text, why) => {
    agree(text, 3);
    expect(() => parseJson(text, 3)).toThrow(why);
  });

  test("a key of a prototype is data", () => {
    const value = parseJson('{"__proto__":{"a":1}}') as object;
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
    expect(Object.hasOwn(value, "__proto__")).toBe(true);
  });
});
