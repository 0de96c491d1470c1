import { expect, test } from "vitest";
import { seams } from "../../test/support/engine.ts";
import { decodeId, derivedId } from "../kit/ids.ts";
import { idBytes, newId, PREFIXES, seededId } from "./ids.ts";
import { groupOf, groupOfName, groupOfSeed, placedRunId, shardOf, SHARDS } from "./placement.ts";

test("the shard of an id is six of its random bits", () => {
  for (let n = 0; n < 500; n++) {
    const id = newId("run", seams);
    expect(shardOf(id)).toBe((decodeId("run", id)?.[11] ?? 0) % SHARDS);
  }
  for (const id of ["run_x", "", "run_!!!!!!!!!!!!!!!!!!!!!!!!!!"]) expect(shardOf(id)).toBe(0);
});

test("what is inside a run is placed with it", () => {
  const run_id = newId("run", seams);
  for (const prefix of [PREFIXES.step, PREFIXES.approval, PREFIXES.event])
    for (const n of [1, 77, 2 ** 31])
      expect(shardOf(derivedId(prefix, idBytes("run", run_id), n))).toBe(shardOf(run_id));
});

test("a request's seed says where its run will be, and a name where it is looked for", () => {
  for (let n = 0; n < 200; n++) {
    const bytes = seams.random.bytes(32);
    expect(groupOfSeed(bytes, 8)).toBe(groupOf(seededId("run", { created_us: 1_700_000_000_000_000, bytes }), 8));
  }
  expect(groupOfName("session:ada/bot/1", 8)).toBe(groupOfName("session:ada/bot/1", 8));
  const groups = new Set(Array.from({ length: 200 }, (_, n) => groupOfName(`otel:${n}`, 8)));
  expect(groups.size).toBe(8);
});

test("groups are evenly filled, and an id can be made for any of them", () => {
  const counts = Array.from({ length: 8 }, () => 0);
  for (let n = 0; n < 8_000; n++) {
    const group = groupOf(newId("run", seams), 8);
    counts[group] = (counts[group] ?? 0) + 1;
  }
  for (const count of counts) expect(count).toBeGreaterThan(800);
  for (let group = 0; group < 64; group++)
    expect(
      groupOf(
        placedRunId(seams, 64, (other) => other === group),
        64,
      ),
    ).toBe(group);
  expect(groupOf(newId("run", seams), 1)).toBe(0);
});
