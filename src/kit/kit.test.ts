import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fullJitter } from "./backoff.ts";
import { parseRfc3339, rfc3339 } from "./clock.ts";
import { secretsEqual } from "./hash.ts";
import { decodeId, derivedId, derivedOrdinal, encodeId, uuidBytes, uuidText, uuidV7 } from "./ids.ts";
import { canonicalJson } from "./jcs.ts";
import { parseJson } from "./json.ts";
import { leafHash, merkleRoot, MerkleTree } from "./merkle.ts";
import { formatUsd, parseUsd, tokenCost } from "./money.ts";

describe("ids", () => {
  test("the TypeID of the specification's example", () => {
    // https://github.com/jetify-com/typeid: prefix_01h455vb4pex5vsknk084sn02q is 01890a5d-ac96-774b-bcce-b302099a8057
    const bytes = uuidBytes("01890a5d-ac96-774b-bcce-b302099a8057");
    expect(encodeId("prefix", bytes)).toBe("prefix_01h455vb4pex5vsknk084sn02q");
    expect(decodeId("prefix", "prefix_01h455vb4pex5vsknk084sn02q")?.equals(bytes)).toBe(true);
    expect(uuidText(bytes)).toBe("01890a5d-ac96-774b-bcce-b302099a8057");
  });

  test("any 16 bytes survive the round trip; another prefix or a bad character is no id", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
        const id = encodeId("run", bytes);
        expect(decodeId("run", id)).toEqual(Buffer.from(bytes));
        expect(decodeId("stp", id)).toBeNull();
      }),
    );
    for (const bad of [
      "",
      "run_",
      "run_8zzzzzzzzzzzzzzzzzzzzzzzzz",
      "run_01h455vb4pex5vsknk084sn02u",
      "run_01h455vb4pex5vsknk084sn02qq",
      "RUN_01h455vb4pex5vsknk084sn02q",
    ]) {
      expect(decodeId("run", bad)).toBeNull();
    }
  });

  test("ids of runs sort by time; ids inside a run are distinct and lead back to their number", () => {
    const random = new Uint8Array(10).fill(7);
    expect(encodeId("run", uuidV7(1000, random)) < encodeId("run", uuidV7(1001, random))).toBe(true);
    const run = uuidV7(5, random);
    const ids = Array.from({ length: 500 }, (_, n) => derivedId("stp", run, n));
    expect(new Set(ids).size).toBe(500);
    expect(ids.map((id) => derivedOrdinal("stp", run, id))).toEqual(Array.from({ length: 500 }, (_, n) => n));
    expect(derivedOrdinal("stp", uuidV7(6, random), ids[3] ?? "")).toBeNull();
  });
});

describe("canonical JSON", () => {
  test("the fast path and the slow path agree on any JSON value", () => {
    const sorted = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(sorted);
      if (typeof value !== "object" || value === null) return value;
      return new Map(
        Object.entries(value)
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .map(([k, v]) => [k, sorted(v)]),
      );
    };
    const print = (value: unknown): string => {
      if (value instanceof Map) return `{${[...value].map(([k, v]) => `${JSON.stringify(k)}:${print(v)}`).join(",")}}`;
      return Array.isArray(value) ? `[${value.map(print).join(",")}]` : JSON.stringify(value);
    };
    fc.assert(
      fc.property(fc.jsonValue(), (raw) => {
        const value = JSON.parse(JSON.stringify(raw).replaceAll("\\u0000", "")) as unknown;
        expect(canonicalJson(value)).toBe(print(sorted(value)));
      }),
      { numRuns: 500 },
    );
  });

  test("integer-like keys are put in text order, as V8 would not", () => {
    expect(canonicalJson({ "10": 1, "9": 2, a: 3 })).toBe('{"10":1,"9":2,"a":3}');
    expect(canonicalJson({ b: 1, a: { z: 1, y: [{ d: 1, c: 2 }] } })).toBe('{"a":{"y":[{"c":2,"d":1}],"z":1},"b":1}');
    expect(canonicalJson({ b: [{ "10": 1, "9": 2 }], a: null })).toBe('{"a":null,"b":[{"10":1,"9":2}]}');
  });

  test("keys that an object does not keep, none at all, and many", () => {
    const odd = JSON.parse('{"b":1,"__proto__":{"z":1,"a":[]},"":0}') as unknown;
    expect(canonicalJson(odd)).toBe('{"":0,"__proto__":{"a":[],"z":1},"b":1}');
    const names = Array.from({ length: 40 }, (_, i) => `k${String(39 - i).padStart(2, "0")}`);
    const many = Object.fromEntries(names.map((name) => [name, { z: name, a: 1 }]));
    const sorted = names.toReversed().map((name) => `"${name}":{"a":1,"z":"${name}"}`);
    expect(canonicalJson(many)).toBe(`{${sorted.join(",")}}`);
  });

  test.each([
    ["NaN", Number.NaN],
    ["infinity", Infinity],
    ["undefined", { a: undefined }],
    ["a BigInt", 1n],
    ["NUL", "a\0b"],
    ["a lone surrogate", "\ud800"],
    ["a key with NUL", { "\0": 1 }],
    ["a date", new Date(0)],
  ])("%s has no canonical form", (_name, value) => expect(() => canonicalJson(value)).toThrow());
});

describe("strict JSON", () => {
  test("it reads what JSON.parse reads, and gives the same", () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        if (text.includes("\\u0000")) return;
        expect(parseJson(text)).toEqual(JSON.parse(text));
      }),
      { numRuns: 500 },
    );
  });

  test.each([
    '{"a":1,"a":2}',
    '"\\u0000"',
    '"\\ud800"',
    "[1,]",
    "{a:1}",
    "01",
    "1e999",
    "",
    "nul",
    '{"a":1} x',
    "[".repeat(200),
    "\ufeff1",
  ])("%j is refused", (text) => expect(() => parseJson(text)).toThrow(/character/));

  test("a key __proto__ is data and reaches no prototype", () => {
    const value = parseJson('{"__proto__":{"polluted":1}}') as Record<string, unknown>;
    expect(Object.hasOwn(value, "__proto__")).toBe(true);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });
});

describe("money and time", () => {
  test("USD is exact to the micro-dollar, both ways", () => {
    expect(["0", "1", "0.000001", "12.5", "9007199254.740991"].map((text) => parseUsd(text))).toEqual([
      0, 1_000_000, 1, 12_500_000, 9_007_199_254_740_991,
    ]);
    for (const bad of ["", "1.0000001", "-1", "1e3", "abc", ".5", "12345678901", "9007199254.740992"])
      expect(parseUsd(bad)).toBeNull();
    expect(formatUsd(25_000)).toBe("$0.025");
    // Feature row 64: 1,000 calls of 0.025 cent sum to 25 cents.
    expect(formatUsd(Array.from({ length: 1000 }, () => 250).reduce((a, b) => a + b))).toBe("$0.25");
  });

  test("the price of tokens is never below the exact price", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 10_000_000 }), fc.integer({ min: 0, max: 100_000_000 }), (tokens, rate) => {
        const cost = tokenCost(tokens, rate);
        expect(BigInt(cost) * 1_000_000n >= BigInt(tokens) * BigInt(rate)).toBe(true);
        expect((BigInt(cost) - 1n) * 1_000_000n < BigInt(tokens) * BigInt(rate)).toBe(true);
      }),
    );
  });

  test("instants keep their microseconds", () => {
    expect(rfc3339(1_700_000_000_123_456)).toBe("2023-11-14T22:13:20.123456Z");
    expect(parseRfc3339("2023-11-14T22:13:20.123456Z")).toBe(1_700_000_000_123_456);
    expect(parseRfc3339("2023-11-14T22:13:20.123Z")).toBe(1_700_000_000_123_000);
  });

  test("full jitter stays within its ceiling, and empty secrets never match", () => {
    expect(fullJitter({ base_ms: 200, cap_ms: 30_000, retry: 3, random: 0.999 })).toBeLessThanOrEqual(800);
    expect(fullJitter({ base_ms: 200, cap_ms: 1_000, retry: 20, random: 1 })).toBe(1_000);
    expect([secretsEqual("", ""), secretsEqual("a", "a"), secretsEqual("a", "b")]).toEqual([false, true, false]);
  });
});

describe("Merkle tree", () => {
  test("leaf by leaf it has the same root at every size", () => {
    const leaves = Array.from({ length: 70 }, (_, i) => leafHash(Buffer.from([i])));
    const tree = new MerkleTree();
    expect(tree.root()).toEqual(merkleRoot([]));
    for (const [i, leaf] of leaves.entries()) {
      tree.add(leaf);
      expect(tree.size).toBe(i + 1);
      expect(tree.root()).toEqual(merkleRoot(leaves.slice(0, i + 1)));
    }
  });
});
