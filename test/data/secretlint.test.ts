// Secrets of every kind that a public scanner knows are found, and what it calls clean is left alone.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { redactJson, redactText } from "../../src/kit/redaction.ts";
import { SECRET_RULES } from "../../src/kit/redaction-rules.ts";

const FILE = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "vectors/secretlint/cases.json",
);
interface Case {
  rule: string;
  case: string;
  file: string;
  kind: "secret" | "clean";
  expected: { range: [number, number] }[];
  config: unknown;
  text?: string;
}
const present = existsSync(FILE);
const all = present ? (JSON.parse(readFileSync(FILE, "utf8")) as Case[]) : [];
const ruleOf = (one: Case) => one.rule.replace("secretlint-rule-", "");
const names = new Set(SECRET_RULES.map((rule) => rule.name));
/** Binary key stores are not looked into; a case whose place lies outside of its own file is about another file. */
const cases = all.filter(
  (one) =>
    one.text !== undefined &&
    names.has(ruleOf(one)) &&
    one.expected.every(({ range }) => range[1] <= (one.text ?? "").length),
);

describe.skipIf(!present)("secretlint's cases", () => {
  const secrets = cases.filter((one) => one.expected.length > 0);
  test.each(secrets.map((one) => [`${ruleOf(one)}: ${one.case} ${one.file}`, one] as const))(
    "found: %s",
    (_name, one) => {
      const text = one.text ?? "";
      const rules = SECRET_RULES.filter((rule) => rule.name === ruleOf(one));
      const { text: redacted, found } = redactText(text, rules);
      for (const { range } of one.expected) {
        const touched = found.some(({ start, end }) => start < range[1] && end > range[0]);
        expect(touched, text.slice(range[0], range[1])).toBe(true);
      }
      expect(redacted).not.toBe(text);
    },
  );

  const clean = cases.filter((one) => one.expected.length === 0 && one.kind === "clean" && one.config === null);
  test.each(clean.map((one) => [`${ruleOf(one)}: ${one.case} ${one.file}`, one] as const))(
    "left alone: %s",
    (_name, one) => {
      const rules = SECRET_RULES.filter((rule) => rule.name === ruleOf(one));
      expect(redactText(one.text ?? "", rules).text).toBe(one.text);
    },
  );

  test.each(secrets.map((one) => [`${ruleOf(one)}: ${one.case} ${one.file}`, one] as const))(
    "the same among other strings, as a value and as a line of its own: %s",
    (_name, one) => {
      const rules = SECRET_RULES.filter((rule) => rule.name === ruleOf(one));
      // A neighbour that ends or begins like a part of a secret must not hide one.
      for (const beside of ["x", "A".repeat(30), "sk-", "://a:", '"', "0"]) {
        for (const text of [one.text ?? "", ...(one.text ?? "").split("\n")]) {
          const value = { a: beside, list: [beside, text, beside], [`${beside}.`]: { d: beside } };
          const { value: clean } = redactJson(value, rules);
          expect((clean as typeof value).list[1]).toBe(redactJson(text, rules).value);
          if (redactText(text, rules).found.length > 0) expect((clean as typeof value).list[1]).not.toBe(text);
        }
      }
    },
  );

  test("most cases are looked at", () => {
    expect(secrets.length).toBeGreaterThanOrEqual(50);
    expect(clean.length).toBeGreaterThanOrEqual(40);
  });
});
