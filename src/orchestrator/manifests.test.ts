import { expect, test } from "vitest";
import { isAppError } from "../contract/errors.ts";
import { policyCall } from "../../test/support/policy-call.ts";
import { draftPolicy, readManifests } from "./manifests.ts";

const POLICY = `kind: Policy
metadata: { name: main }
spec:
  rules:
    - id: one
      effect: allow
      when:
        tool_name: { in: [files.read] }
        cost: { lt: 10 }
    - id: two
      effect: deny
      when: cost > 100
`;

function errorsOf(text: string): unknown {
  try {
    readManifests(text);
  } catch (error) {
    return isAppError(error, "MANIFEST_INVALID") ? error.errors : error;
  }
  return [];
}

test("a condition may be CEL or JSON; what is decided with is CEL", () => {
  expect(errorsOf(POLICY)).toEqual([]);
  const call = policyCall({
    run: { steps: 0, tool_calls: 0, model_calls: 0, tokens: 0, cost_micro_usd: 5_000_000 },
  });
  const policy = draftPolicy(POLICY);
  expect(policy.explain(call).map((row) => [row.condition, row.outcome])).toEqual([
    ["cost > 100", "no_match"],
    ['(tool.name in ["files.read"]) && (cost < 10)', "match"],
  ]);
  expect(policy.decide(call).effect).toBe("allow");
  expect(policy.decide({ ...call, name: "files.write" }).reason).toBe("no_matching_rule");
});

test("what is wrong with rules is said of each, at its place", () => {
  const text = POLICY.replace("tool_name", "tool_nam").replace("cost > 100", "cost >").replace("id: two", "id: one");
  expect(errorsOf(text)).toEqual([
    expect.objectContaining({ line: 8, pointer: "/spec/rules/0/when", message: expect.stringMatching(/\/tool_nam: /) }),
    expect.objectContaining({ line: 10, pointer: "/spec/rules/1/id", message: "the rule id one is used twice" }),
    expect.objectContaining({ line: 12, pointer: "/spec/rules/1/when", message: expect.stringContaining("cost >") }),
  ]);
});
