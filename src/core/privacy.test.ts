import { expect, test } from "vitest";
import { privacyRisk } from "./privacy.ts";

const event = (seq: number, data = {}, said?: Record<string, never>) => ({
  seq,
  type: "tool.requested" as const,
  data,
  ...(said ? { origin: { said } } : {}),
});
const failed = { redaction: { status: "failed" } };

test("a payload that could not be looked at makes its run a risk, in what an event holds and in what was said of it", () => {
  expect(privacyRisk([event(1), event(2, { redaction: { status: "redacted" } })])).toEqual([]);
  expect(privacyRisk([event(1), event(2, failed), event(3, {}, failed as never)])).toEqual([2, 3]);
});

test("who took the risk on did so for what there was then", () => {
  const override = { seq: 3, type: "privacy.overridden" as const, data: { reason: "r" } };
  expect(privacyRisk([event(2, failed), override])).toEqual([]);
  expect(privacyRisk([event(2, failed), override, event(4, failed)])).toEqual([4]);
});
