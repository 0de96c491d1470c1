import { describe, expect, test } from "vitest";
import type { FieldRule } from "./field-rules.ts";
import { FieldRules } from "./field-rules.ts";

const hands = { hash: (value: unknown) => `h(${JSON.stringify(value)})`, redact: () => "[redacted]" };
const applied = (rules: FieldRule[], value: object, type = "tool.completed") =>
  new FieldRules(rules).apply(type, value as never, "", hands);

describe("rules for fields", () => {
  const data = {
    result: {
      name: "Ada",
      ssn: "078-05-1120",
      list: [
        { ssn: "1", n: 1 },
        { ssn: "2", n: 2 },
      ],
    },
    note: "x",
  };

  test("drop takes that field away, and nothing else", () => {
    expect(applied([{ path: "/result/ssn", do: "drop" }], data)?.value).toEqual({
      result: { name: "Ada", list: data.result.list },
      note: "x",
    });
  });

  test("at any depth, in lists too; of what is hashed only the digest is left", () => {
    const ruled = applied([{ path: "/**/ssn", do: "hash_only" }], data);
    expect(ruled?.value).toEqual({
      result: {
        name: "Ada",
        ssn: { hmac: 'h("078-05-1120")' },
        list: [
          { ssn: { hmac: 'h("1")' }, n: 1 },
          { ssn: { hmac: 'h("2")' }, n: 2 },
        ],
      },
      note: "x",
    });
    expect(ruled?.touched.map((one) => one.path)).toEqual(["/result/ssn", "/result/list/0/ssn", "/result/list/1/ssn"]);
    expect(applied([{ path: "/result/*/1/ssn", do: "drop" }], data)?.touched).toHaveLength(1);
  });

  test.each<[string, FieldRule[], unknown]>([
    [
      "what takes away beats what leaves as it is",
      [
        { path: "/note", do: "raw_allowed" },
        { path: "/note", do: "hash_only" },
      ],
      { hmac: 'h("x")' },
    ],
    [
      "of several the one that leaves least counts",
      [
        { path: "/note", do: "hash_only" },
        { path: "/*", do: "drop" },
        { path: "/note", do: "redact_required" },
      ],
      undefined,
    ],
    [
      "a type's default beats what leaves as it is",
      [
        { type: "tool.*", do: "redact_required" },
        { path: "/note", do: "raw_allowed" },
      ],
      "[redacted]",
    ],
    [
      "a rule for the field beats a type's default",
      [
        { type: "tool.*", do: "drop" },
        { path: "/note", do: "hash_only" },
      ],
      { hmac: 'h("x")' },
    ],
    ["a rule for another type says nothing", [{ type: "model.*", do: "drop" }], "x"],
  ])("%s", (_name, rules, expected) => {
    const ruled = applied(rules, data);
    expect(((ruled?.value ?? data) as { note?: unknown }).note).toEqual(expected);
  });

  test("what takes away holds inside of what is left as it is", () => {
    const ruled = applied(
      [
        { path: "/result", do: "raw_allowed" },
        { path: "/result/ssn", do: "drop" },
      ],
      data,
    );
    expect(ruled?.raw).toEqual(["/result"]);
    expect(ruled?.value).not.toHaveProperty("result.ssn");
  });

  test("names with slashes and dots are names", () => {
    const ruled = applied([{ path: "/a~1b.c", do: "drop" }], { "a/b.c": 1, "a/bxc": 2 });
    expect(ruled?.value).toEqual({ "a/bxc": 2 });
  });
});
