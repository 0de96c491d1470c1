// How a run begins that has another run's past: the state as it was at the fork point, with what the fork changes. It pays
// for itself, so totals begin at zero; steps go on counting, so equal steps of source and fork have equal numbers.
import type { AgentSpec } from "../contract/catalog.ts";
import type { Lineage, Overrides } from "../contract/replay.ts";
import type { Json } from "../kit/json.ts";
import * as agent from "./agent-fold.ts";
import { emptyRun } from "./run-state.ts";
import type { AgentState, RunState } from "./run-state.ts";

/** Turns the state of the source at the fork point into the state of a run that begins. `fresh`: the agent as of now. */
export function begunAgain(run: RunState, lineage: Lineage, fresh: AgentSpec | null): void {
  const empty = emptyRun(run.tenant_id, run.run_id);
  run.lineage = lineage;
  run.totals = empty.totals;
  run.active_us = 0;
  run.reason = null;
  run.paused = false;
  run.stopping = null;
  run.output = null;
  run.abandoned = empty.abandoned;
  run.approval_count = 0;
  run.policy_digest = empty.policy_digest;
  run.grant = null;
  for (const step of run.steps.values()) {
    step.reserved_micro = 0;
    step.reserved_tokens = 0;
  }
  const { overrides } = lineage;
  if (overrides.budget) run.budget = { ...run.budget, ...overrides.budget };
  if (overrides.input !== undefined) run.input = overrides.input as Json;
  // Another model is asked in place of all of them; what the task minds goes on to hold.
  const { model } = overrides;
  if (run.routing && model !== undefined)
    run.routing = { ...run.routing, order: [{ model, engine: "api", tier: "tier1" }], at: 0 };
  if (run.program?.kind === "agent") run.program = changed(run.program, overrides, run.input, fresh);
}

/** An agent as the fork wants it, in the middle of its conversation: what comes from here on is changed. */
function changed(program: AgentState, overrides: Overrides, input: Json, fresh: AgentSpec | null): AgentState {
  const { instructions, model, max_output_tokens, params, prompts } = overrides;
  const text = instructions ?? (prompts && fresh ? fresh.instructions : program.spec.instructions);
  const spec = {
    ...program.spec,
    instructions: text,
    ...(model === undefined ? {} : { model }),
    ...(max_output_tokens === undefined ? {} : { max_output_tokens }),
    ...(params === undefined ? {} : { params: { ...program.spec.params, ...params } }),
  };
  if (overrides.input !== undefined) return agent.initial(spec, input);
  if (text === program.spec.instructions) return { ...program, spec };
  const [first, ...rest] = program.messages;
  const said = first?.role === "system" ? rest : program.messages;
  return { ...program, spec, messages: text === "" ? said : [{ role: "system", content: text }, ...said] };
}
