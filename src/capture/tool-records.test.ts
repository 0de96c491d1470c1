// What is recorded of the calls that foreign agents have made here.
import { expect, test } from "vitest";
import { systemRandom } from "../adapters/system/system.ts";
import { AppError } from "../contract/errors.ts";
import { newId } from "../contract/ids.ts";
import type { JobOutcome, JobResult } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { digestOf } from "../kit/hash.ts";
import type { JsonObject } from "../kit/json.ts";
import { seams, TENANT } from "../../test/support/engine.ts";
import { Quarantine } from "./quarantine.ts";
import { Redactor } from "./redact.ts";
import { ToolRecords } from "./tool-records.ts";

/** Put together here, so that no scanner takes this file for a leak. */
const SECRET = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
/** Deeper than anybody looks. */
const DEPTH = 200;
const run_id = newId("run", seams);
const place = { tenant_id: TENANT, run_id };
const stored = new Map<string, Buffer>();
const blobs = {
  put: async (_tenant: string, bytes: Uint8Array) => {
    const digest = digestOf(Buffer.from(bytes).toString("base64"));
    stored.set(digest, Buffer.from(bytes));
    return digest;
  },
  get: async (_tenant: string, digest: string) => {
    const found = stored.get(digest);
    if (!found) throw new AppError("NOT_FOUND", digest);
    return found;
  },
};
const make = (redactor = new Redactor("secrets")) =>
  new ToolRecords({
    redactor,
    blobs,
    quarantine: new Quarantine({ blobs, tenantKey: () => new Uint8Array(32), random: systemRandom }),
  });
const resultOf = (outcome: JobOutcome, step = 1): JobResult => ({
  ...place,
  step,
  attempt: 1,
  kind: "tool",
  duration_ms: 1,
  outcome,
});
const nested = (depth: number): JsonObject => (depth === 0 ? { s: SECRET } : { a: nested(depth - 1) });

test("arguments without a secret are recorded as they are; others redacted, with a box that only their run opens", async () => {
  const records = make();
  expect(await records.args(place, { city: "Kiel" }, "s")).toBeNull();
  const shown = await records.args(place, { city: "Kiel", key: SECRET }, "s");
  expect(shown).toMatchObject({ args: { city: "Kiel" }, signature: "s", redaction: { paths: ["/args/key"] } });
  expect(JSON.stringify(shown)).not.toContain(SECRET);
  const digest = String(shown?.args_box["digest"]);
  expect(await records.openArgs(place, digest)).toEqual({ city: "Kiel", key: SECRET });
  await expect(records.openArgs({ ...place, run_id: newId("run", seams) }, digest)).rejects.toMatchObject({
    code: "ARTIFACT_CORRUPT",
  });
});

test("rules for single fields of both events of a call hold for its arguments", async () => {
  const fields = [
    { type: "tool.proposed", path: "/args/a", do: "drop" },
    { type: "tool.requested", path: "/args/b", do: "hash_only" },
  ] as const;
  const shown = await make(new Redactor("off", { fields })).args(place, { a: 1, b: 2, c: 3 }, "s");
  expect(shown?.args).toEqual({ b: { hmac: expect.any(String) }, c: 3 });
});

test("what cannot be looked at is not recorded, and its run becomes a risk", async () => {
  const records = make();
  const deep = nested(DEPTH);
  const shown = await records.args(place, deep, "s");
  expect(shown).toMatchObject({ args: {}, redaction: { status: "failed" } });
  expect(await records.outcome(resultOf({ ok: true, kind: "tool", result: deep }))).toMatchObject({
    outcome: { result: null, recorded: { redaction: { status: "failed", quarantined: [{ at: "/result" }] } } },
  });
  expect(records.take({ run_id, step: 1, attempt: 1 })).toEqual(deep);
});

test("a result is recorded redacted and given once as it came; a clean one is left alone", async () => {
  const records = make();
  const clean = resultOf({ ok: true, kind: "tool", result: { n: 1 } });
  expect((await records.outcome(clean)).outcome).toEqual(clean.outcome);
  expect(records.take(clean)).toBeUndefined();
  const seen = await records.outcome(resultOf({ ok: true, kind: "tool", result: { key: SECRET } }));
  expect(seen.outcome).toMatchObject({ recorded: { redaction: { paths: ["/result/key"] } } });
  expect(JSON.stringify(seen)).not.toContain(SECRET);
  expect(records.take(seen)).toEqual({ key: SECRET });
  expect(records.take(seen)).toBeUndefined();
});

test("the message of a failure is recorded without a secret", async () => {
  const failure = { class: "permanent" as const, code: "http_400", message: `no ${SECRET}` };
  const { outcome } = await make().outcome(resultOf({ ok: false, failure }));
  expect(outcome).toMatchObject({
    failure: { code: "http_400" },
    recorded: { redaction: { paths: ["/message"] } },
  });
  expect(JSON.stringify(outcome)).not.toContain(SECRET);
});

test("results for those who wait take up so much memory at most, and go with their run", async () => {
  const records = make();
  const large = "x".repeat(LIMITS.raw_results_chars_max / 4);
  for (const step of [1, 2, 3, 4, 5])
    await records.outcome(resultOf({ ok: true, kind: "tool", result: { key: SECRET, large } }, step));
  const held = [1, 2, 3, 4, 5].filter((step) => records.take({ run_id, step, attempt: 1 }) !== undefined);
  expect(held).toEqual([3, 4, 5]);
  const kept = await records.outcome(resultOf({ ok: true, kind: "tool", result: SECRET }));
  records.forget((id) => id === run_id);
  expect(records.take(kept)).toBeUndefined();
});

test("a result that cannot be read or kept is an outcome that nobody knows, not one that is waited for", async () => {
  const unknown = { ok: false, failure: { class: "unknown_outcome", code: "result_lost" } };
  const key = Buffer.alloc(32).toString("base64");
  const result_box = { bytes: 9_000, digest: "sha256:gone", key };
  const gone = await make().outcome(resultOf({ ok: true, kind: "tool", result: null, result_box }));
  expect(gone.outcome).toMatchObject(unknown);
  const digest = await blobs.put(TENANT, Buffer.from("no box at all, and long enough"));
  const spoilt = await make().outcome(
    resultOf({ ok: true, kind: "tool", result: null, result_box: { ...result_box, digest } }),
  );
  expect(spoilt.outcome).toMatchObject(unknown);
});
