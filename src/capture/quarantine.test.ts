// What could not be looked at: nothing of it in plain sight, whole again for who may, and for its run alone.
import { expect, test } from "vitest";
import { systemRandom } from "../adapters/system/system.ts";
import { digestOf } from "../kit/hash.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { Quarantine, restored } from "./quarantine.ts";
import { markJson, Redactor } from "./redact.ts";

/** More encodings in each other than are undone. */
function layered(text: string): string {
  let layers = text;
  for (let n = 0; n < 12; n++) layers = Buffer.from(layers).toString("base64");
  return layers;
}
const WORDS = layered("nobody will see this, and it is long enough to be looked into");
const place = { tenant_id: "tnt_1", run_id: "run_1" };

function world() {
  const kept = new Map<string, Buffer>();
  const blobs = {
    put: async (_tenant: string, bytes: Uint8Array) => {
      const digest = digestOf(Buffer.from(bytes).toString("latin1"));
      kept.set(digest, Buffer.from(bytes));
      return digest;
    },
    get: async (_tenant: string, digest: string) => kept.get(digest) ?? Buffer.alloc(0),
  };
  const tenantKey = (tenant: string) => new Uint8Array(32).fill(tenant.length);
  return { kept, quarantine: new Quarantine({ blobs, tenantKey, random: systemRandom }) };
}

async function away(value: Json, at = "", redactor = new Redactor("secrets")) {
  const { kept, quarantine } = world();
  const { value: left, mark } = await quarantine.keep(place, redactor.payload(value, at, "model.requested"));
  if (!mark) throw new Error("it was looked at");
  return { kept, quarantine, left, mark: markJson(mark) };
}

test("it is kept encrypted, and opened again as it came", async () => {
  const value = { messages: [{ role: "user", content: WORDS }] };
  const { kept, quarantine, left, mark } = await away(value, "/request");
  expect(left).toBeNull();
  expect(mark).toMatchObject({ status: "failed", paths: ["/request"], quarantined: [{ at: "/request" }] });
  const [box] = [...kept.values()];
  expect(box?.toString("latin1")).not.toContain(WORDS.slice(0, 32));
  const opened = await quarantine.open(place, mark);
  expect(restored({ api: "x" }, opened)).toEqual({ api: "x", request: value });
  // The same twice gives different bytes: nobody can tell that it is the same.
  const again = await quarantine.keep(place, new Redactor("secrets").payload(value, "/request"));
  expect(again.mark?.quarantined?.[0]?.digest).not.toBe((mark["quarantined"] as JsonObject[])[0]?.["digest"]);
});

test("it opens for its run and tenant alone, and not when a byte is changed", async () => {
  const { kept, quarantine, mark } = await away({ text: WORDS });
  for (const other of [
    { ...place, run_id: "run_2" },
    { ...place, tenant_id: "tnt_10" },
  ])
    await expect(quarantine.open(other, mark)).rejects.toMatchObject({ code: "ARTIFACT_CORRUPT" });
  for (const box of kept.values()) box[20] = (box[20] ?? 0) ^ 1;
  await expect(quarantine.open(place, mark)).rejects.toMatchObject({ code: "ARTIFACT_CORRUPT" });
});

test("another run that is answered from it has its own", async () => {
  const { quarantine, mark } = await away({ text: WORDS });
  const opened = await quarantine.open(place, mark);
  const other = { ...place, run_id: "run_2" };
  const theirs = await quarantine.putAway(other, mark, opened);
  expect(await quarantine.open(other, theirs)).toEqual(opened);
  await expect(quarantine.open(place, theirs)).rejects.toMatchObject({ code: "ARTIFACT_CORRUPT" });
});

test("what a rule takes out is not kept there either", async () => {
  const rules = new Redactor("secrets", { fields: [{ path: "/request/diary", do: "drop" }] });
  const { quarantine, mark } = await away({ diary: "dear diary", text: WORDS }, "/request", rules);
  const [opened] = await quarantine.open(place, mark);
  expect(opened?.value).toEqual({ text: WORDS });
});

test("what could be looked at is no business of it, and marks that are none open nothing", async () => {
  const { kept, quarantine } = world();
  const seen = new Redactor("secrets").payload({ text: "plain" }, "");
  expect(await quarantine.keep(place, seen)).toBe(seen);
  expect(kept.size).toBe(0);
  for (const mark of [undefined, null, "x", {}, { quarantined: 3 }, { quarantined: [1, { at: "" }] }])
    expect(await quarantine.open(place, mark as Json)).toEqual([]);
});
