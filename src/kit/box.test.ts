import { expect, test } from "vitest";
import { systemRandom } from "../adapters/system/system.ts";
import { BOX_KEY_BYTES, boxed, unboxed } from "./box.ts";

const key = systemRandom.bytes(BOX_KEY_BYTES);
const text = Buffer.from("what nobody else may read");

test("a box gives back what was put in, to its key alone", () => {
  const box = boxed(key, systemRandom, text);
  expect(box.includes("nobody")).toBe(false);
  expect(unboxed(key, box)).toEqual(text);
  expect(() => unboxed(systemRandom.bytes(BOX_KEY_BYTES), box)).toThrow();
  // The same content is another box each time.
  expect(boxed(key, systemRandom, text)).not.toEqual(box);
});

test("a box of which any bit was changed, or that is not whole, is not opened", () => {
  const box = boxed(key, systemRandom, text);
  for (let at = 0; at < box.length; at++) {
    const changed = Buffer.from(box);
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(() => unboxed(key, changed), String(at)).toThrow();
  }
  for (const length of [0, 11, 12, 27, box.length - 1]) expect(() => unboxed(key, box.subarray(0, length))).toThrow();
});
