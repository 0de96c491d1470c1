// Who may send a webhook: signatures as their senders make them.
import { expect, test } from "vitest";
import type { WebhookSpec } from "../contract/triggers.ts";
import type { ErrorCode } from "../contract/errors.ts";
import { isAppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { checkDelivery } from "./webhooks.ts";

const STANDARD: WebhookSpec = { secret: "env:HOOK" };
// The example of the Standard Webhooks specification.
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SENT = {
  headers: {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
  },
  body: Buffer.from('{"test": 2432232314}'),
};
const NOW_US = 1_614_265_330_000_000;

const refusal = (check: () => unknown): [ErrorCode, string] => {
  try {
    check();
  } catch (error) {
    if (isAppError(error)) return [error.code, error.message];
    throw error;
  }
  throw new Error("it was taken");
};
const taken = (headers: Record<string, string | undefined>, now_us = NOW_US, body = SENT.body) =>
  checkDelivery(STANDARD, SECRET, { headers: { ...SENT.headers, ...headers }, body }, now_us);

test("what the specification's own example signs is taken, also beside the signature of another secret", () => {
  expect(taken({})).toBe("msg_p5jXN8AQM9LWM0D4loKWxJek");
  expect(taken({ "webhook-signature": `v1,AAAA ${SENT.headers["webhook-signature"]}` })).toBe(
    SENT.headers["webhook-id"],
  );
});

test("another body, id, time or secret is not", () => {
  for (const check of [
    () => taken({}, NOW_US, Buffer.from('{"test": 2432232315}')),
    () => taken({ "webhook-id": "msg_other" }),
    () => taken({ "webhook-timestamp": "1614265331" }),
    () => taken({ "webhook-signature": SENT.headers["webhook-signature"].replace("v1,", "v2,") }),
    () => checkDelivery(STANDARD, "whsec_AAAA", SENT, NOW_US),
  ])
    expect(refusal(check)[0]).toBe("AUTH_REQUIRED");
});

test("a signature is good for as long as clocks may differ, and no longer", () => {
  const skew_us = LIMITS.webhook_skew_ms * 1000;
  expect(taken({}, NOW_US + skew_us)).toBe(SENT.headers["webhook-id"]);
  for (const off of [skew_us + 1, -skew_us - 1])
    expect(refusal(() => taken({}, NOW_US + off))).toEqual([
      "AUTH_REQUIRED",
      expect.stringContaining("not within 300 s"),
    ]);
});

test("a header that is missing is named", () => {
  for (const name of Object.keys(SENT.headers))
    expect(refusal(() => taken({ [name]: undefined }))).toEqual(["VALIDATION_ERROR", expect.stringContaining(name)]);
});

test("GitHub's signature over the body, with the id of the delivery", () => {
  const github: WebhookSpec = { secret: "env:HOOK", scheme: "github" };
  // The example of GitHub's documentation.
  const headers = {
    "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
  };
  const body = Buffer.from("Hello, World!");
  const check = (sent: Record<string, string>, secret = "It's a Secret to Everybody") =>
    checkDelivery(github, secret, { headers: sent, body }, NOW_US);
  expect(check(headers)).toBe(headers["x-github-delivery"]);
  expect(refusal(() => check(headers, "another"))[0]).toBe("AUTH_REQUIRED");
  expect(refusal(() => check({ "x-github-delivery": "a" }))).toEqual([
    "VALIDATION_ERROR",
    expect.stringContaining("x-hub-signature-256"),
  ]);
});
