import { expect, test } from "vitest";
import { Rate } from "./rate.ts";

test("what was marked counts for a minute, and is spread over the time since the first mark until then", () => {
  const rate = new Rate();
  rate.mark(10_000, 30);
  expect(rate.perSecond(10_900)).toBe(30);
  expect(rate.perSecond(12_000)).toBe(10);
  rate.mark(39_000, 30);
  expect(rate.perSecond(69_000)).toBe(1);
  // The first ones are a minute old.
  expect(rate.perSecond(70_000)).toBe(0.5);
  expect(rate.perSecond(99_000)).toBe(0);
});

test("after an hour of nothing there is nothing", () => {
  const rate = new Rate();
  rate.mark(0, 600);
  expect(rate.perSecond(3_600_000)).toBe(0);
  rate.mark(3_600_000, 60);
  expect(rate.perSecond(3_600_000)).toBe(1);
});
