import { describe, expect, test } from "vitest";
import { isAppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { policyCall as call } from "../../test/support/policy-call.ts";
import { matchesPattern } from "./pattern.ts";
import type { Json } from "../kit/json.ts";
import { conditionText } from "./condition-json.ts";
import { compileCondition } from "./condition.ts";
import { Policy } from "./policy.ts";
import type { PolicyCall, PolicyRule } from "./policy.ts";

const policy = (...rules: PolicyRule[]) => new Policy({ policies: [{ name: "p", version: 1, rules }] });
const allow: PolicyRule = { id: "allow", effect: "allow" };
const deny: PolicyRule = { id: "deny", effect: "deny" };
const ask: PolicyRule = { id: "ask", effect: "require_approval" };

describe("combining", () => {
  test.each<[string, PolicyRule[], string]>([
    ["nothing", [], "deny"],
    ["allow", [allow], "allow"],
    ["ask over allow", [allow, ask], "require_approval"],
    ["deny over ask over allow", [allow, ask, deny], "deny"],
    ["deny alone", [deny], "deny"],
  ])("%s", (_name, rules, effect) => {
    expect(policy(...rules).decide(call()).effect).toBe(effect);
    expect(policy(...rules.toReversed()).decide(call()).effect).toBe(effect);
  });

  test("nothing matched is a deny with a name of its own", () => {
    expect(policy().decide(call())).toMatchObject({ effect: "deny", rules: [], reason: "no_matching_rule" });
    expect(policy({ ...allow, match: { tools: ["other"] } }).decide(call()).reason).toBe("no_matching_rule");
  });

  test("a condition that fails is no match in an allow rule and a deny in the others", () => {
    const broken = { when: "args.missing == 1" };
    expect(policy({ ...allow, ...broken }).decide(call()).reason).toBe("no_matching_rule");
    expect(policy(allow, { ...deny, ...broken }).decide(call())).toMatchObject({ effect: "deny", rules: ["p/deny"] });
    expect(policy(allow, { ...ask, ...broken }).decide(call()).reason).toContain("rule_error: p/ask");
    expect(policy(allow, { ...deny, when: "args.list" }).decide(call()).reason).toContain("did not give true or false");
  });

  test("a shadow rule is reported and changes nothing", () => {
    expect(policy(allow, { ...deny, shadow: true }).decide(call())).toMatchObject({
      effect: "allow",
      shadow: ["p/deny"],
    });
  });

  test("an explanation shows every rule, whether it was selected and what it said", () => {
    const trace = policy(
      { ...allow, when: "run.steps < 10" },
      { ...deny, match: { tools: ["x"] } },
      { ...ask, when: "args.nope" },
    ).explain(call());
    expect(trace.map((row) => [row.rule, row.outcome])).toEqual([
      ["p/deny", "not_selected"],
      ["p/ask", "error"],
      ["p/allow", "match"],
    ]);
  });
});

describe("conditions", () => {
  test.each<[string, boolean]>([
    ["cost > 100", true],
    ["cost > 101", false],
    ["run.steps + 1 > 5", true],
    ["args.amount > 100", true],
    ["args.amount >= 101", true],
    ["args.amount <= 100", false],
    ["args.amount + 1 == 102", true],
    ["args.big > 1.4", true],
    ['args.path.startsWith("reply-")', true],
    ["size(args.list) == 2", true],
    ["has(args.nope)", false],
    ['labels.team == "red"', true],
    ['tool.effect_class in ["read", "write"]', true],
    ['agent.name == "desk" && env == "dev"', true],
    ["now.getFullYear() == 2023", true],
    ["call_cost == 0.0", true],
    ["tool.idempotent", true],
  ])("%s is %s", (when, expected) => {
    expect(policy({ ...allow, when }).decide(call()).effect).toBe(expected ? "allow" : "deny");
  });

  test.each(["1 +", "unknown > 1", '"text"', "run.nope == 1", "cost +"])(
    "%j is refused when it is saved",
    (expression) => {
      try {
        compileCondition(expression);
        expect.fail("compiled");
      } catch (error) {
        expect(isAppError(error, "EXPRESSION_INVALID")).toBe(true);
      }
    },
  );

  test.each<[Json, string, boolean]>([
    [{ tool_name: { in: ["files.read", "x"] } }, 'tool.name in ["files.read", "x"]', true],
    [{ tool_name: { not_in: ["files.read"] } }, '!(tool.name in ["files.read"])', false],
    [{ cost: { gt: 100 }, env: "dev" }, '(cost > 100) && (env == "dev")', true],
    [{ cost: { ">": 100, "<=": 100.5 } }, "(cost > 100) && (cost <= 100.5)", false],
    [{ "args.amount": { gte: 101, lt: 102 } }, "(args.amount >= 101) && (args.amount < 102)", true],
    [{ "args.path": { matches: "^reply-[0-9]" } }, 'args.path.matches("^reply-[0-9]")', true],
    [{ "args.path": { starts_with: "re", ends_with: ".md", contains: "1" } }, "", true],
    [{ "args.nope": { exists: false }, "args.path": { exists: true } }, "", true],
    [{ "args.nope.deeper": { exists: true } }, '"nope" in args && "deeper" in args.nope', false],
    [{ "args.two words": { exists: false } }, '!("two words" in args)', true],
    [{ any: [{ env: "prod" }, { not: { "labels.team": { ne: "red" } } }] }, "", true],
    [{ all: [{ env: "dev" }, { any: [{ kind: "model" }, { agent_name: "desk" }] }] }, "", true],
    [{ "args.text": 'a "quoted"\n\\ é \u0001' }, "", true],
    [{ "tool.idempotent": true, effect_class: { in: ["read", "write"] } }, "", true],
  ])("%j is %s: %s", (condition, text, expected) => {
    const when = conditionText(condition);
    if (text !== "") expect(when).toBe(text);
    const args = { ...call().args, text: 'a "quoted"\n\\ é \u0001' };
    expect(policy({ ...allow, when }).decide(call({ args })).effect).toBe(expected ? "allow" : "deny");
  });

  test.each<[Json, string]>([
    [{ tool_nam: "x" }, "/tool_nam: there is no such field; there are kind, agent.name"],
    [{ cost: { above: 1 } }, "/cost/above: there is no such operator; there are eq,"],
    [{ "args.x": { in: "abc" } }, '/args.x/in: has to be a list, not "abc"'],
    [{ "args.x": { contains: 1 } }, "/args.x/contains: has to be a text, not 1"],
    [{ "args.x": { exists: "yes" } }, "/args.x/exists: has to be true or false"],
    [{ "args.x": {} }, "/args.x: needs an operator: eq"],
    [{ "args.x": { eq: { a: 1 } } }, "/args.x/eq: cannot be compared with an object"],
    [{ any: [] }, "/any: has to be a list of conditions"],
    [{ not: "x" }, '/not: has to be an object, not "x"'],
    [{ all: [{ env: "dev" }, {}] }, "/all/1: is empty"],
    [{ "args.": 1 }, "there is no such field"],
    [{ args: 1 }, "there is no such field"],
    [{ constructor: 1 }, "/constructor: there is no such field"],
    [{ cost: { toString: 1 } }, "/cost/toString: there is no such operator"],
    [{ "args.constructor": { matches: "(?=a)" } }, "RE2 syntax"],
    [JSON.parse(`${'{"not":'.repeat(50)}{}${"}".repeat(50)}`) as Json, "nests too deeply"],
  ])("%j is refused when it is saved, with its place and what may stand there", (condition, says) => {
    const compile = () => compileCondition(conditionText(condition));
    expect(compile).toThrow(says);
    expect(compile).toThrow(expect.objectContaining({ code: "EXPRESSION_INVALID" }) as Error);
  });

  test("a condition may have as many characters as the limit, and not one more", () => {
    const padded = (length: number) => `true${" ".repeat(length - 4)}`;
    expect(compileCondition(padded(LIMITS.expression_chars_max))).toBeTypeOf("function");
    expect(() => compileCondition(padded(LIMITS.expression_chars_max + 1))).toThrow("longer than");
  });

  test("matches is RE2: linear in the text, wherever it stands; what RE2 does not know is refused by name", () => {
    const text = `${"a".repeat(50_000)}!`;
    const holds = (when: string, args = {}) => policy({ ...allow, when }).decide(call({ args })).effect === "allow";
    expect(holds('args.path.matches("^(a+)+$")', { path: text })).toBe(false);
    expect(holds('args.list.exists(x, x.matches("^(a|a)*!$"))', { list: [text] })).toBe(true);
    expect(holds("args.path.matches(args.pattern)", { path: text, pattern: "^(a|aa)+$" })).toBe(false);
    expect(holds('args.path.matches("b") || args.path.matches("reply-[0-9]+")', { path: "my reply-1.md" })).toBe(true);
    for (const pattern of ["(?=a)b", "(a)\\\\1", "a{2000}", "(", "(?<!x)y"])
      expect(() => compileCondition(`args.path.matches("${pattern}")`), pattern).toThrow("RE2 syntax");
    // Made of arguments it cannot be refused before: in an allow rule it is no match.
    expect(holds("args.path.matches(args.pattern)", { path: text, pattern: "(?=a)" })).toBe(false);
  });

  test("arguments cannot reach a prototype", () => {
    expect(
      policy({ ...allow, when: 'has(args.constructor) || has(args.__proto__) || "toString" in args' }).decide(
        call({ args: {} }),
      ).effect,
    ).toBe("deny");
  });
});

describe("selectors", () => {
  test.each<[string, string, boolean]>([
    ["files.*", "files.read", true],
    ["files.*", "files", false],
    ["*", "anything", true],
    ["*.read", "files.read", true],
    ["a*b*c", "aXbYc", true],
    ["a*b*c", "acb", false],
    ["ab*ba", "aba", false],
    ["exact", "exact", true],
    ["exact", "exact2", false],
    ["**", "", true],
  ])("%s and %s: %s", (pattern, name, expected) => expect(matchesPattern(pattern, name)).toBe(expected));

  test("each kind of selector restricts", () => {
    const cases: [PolicyRule["match"], Partial<PolicyCall>, boolean][] = [
      [{ tools: ["files.*"] }, {}, true],
      [{ tools: ["files.*"] }, { kind: "model", name: "files.read" }, false],
      [{ models: ["gpt"] }, { kind: "model", name: "gpt" }, true],
      [{ models: ["gpt"] }, {}, false],
      [{ agents: ["d*"] }, {}, true],
      [{ agents: ["x"] }, {}, false],
      [{ envs: ["prod"] }, {}, false],
      [{ effect_classes: ["write"] }, {}, false],
      [{ effect_classes: ["read"] }, {}, true],
      [{ kinds: ["model"] }, {}, false],
    ];
    for (const [match, over, expected] of cases) {
      expect(
        policy({ ...allow, ...(match ? { match } : {}) }).decide(call(over)).effect,
        JSON.stringify([match, over]),
      ).toBe(expected ? "allow" : "deny");
    }
  });

  test("the digest names the whole set, so every change of a rule changes it", () => {
    expect(policy(allow).digest).toBe(policy(allow).digest);
    expect(policy(allow).digest).not.toBe(policy({ ...allow, reason: "x" }).digest);
  });
});
