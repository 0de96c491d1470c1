// A proposed call of a tool, as rules see it.
import type { PolicyCall } from "../../src/core/policy.ts";

export const policyCall = (over: Partial<PolicyCall> = {}): PolicyCall => ({
  kind: "tool",
  name: "files.read",
  effect_class: "read",
  idempotent: true,
  agent: "desk",
  env: "dev",
  project: "default",
  requester: "ada",
  args: { amount: 101, path: "reply-1.md", list: [1, 2], big: 1.5 },
  labels: { team: "red" },
  now_us: 1_700_000_000_000_000,
  run: { steps: 5, tool_calls: 2, model_calls: 3, tokens: 100, cost_micro_usd: 101_000_000 },
  call_micro_usd: 0,
  ...over,
});
