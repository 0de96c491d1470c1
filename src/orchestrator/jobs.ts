// Turns a step that may run into the job a worker gets. Everything a worker needs is in the job: it has no other door.
import { present } from "../kit/assert.ts";
import { hmacHex } from "../kit/hash.ts";
import type { Catalog } from "../contract/catalog.ts";
import type { EventDraft } from "../contract/events.ts";
import type { Job } from "../contract/jobs.ts";
import { modelMessages } from "../core/model-input.ts";
import { splitTarget } from "../core/decide.ts";
import type { RunState, StepState } from "../core/run-state.ts";

/** The key that goes out with an effect: equal for all attempts of a step, and nothing can be learnt from it. */
export function idempotencyKey(tenant_key: Uint8Array, run: RunState, step: number): string {
  return hmacHex(tenant_key, `${run.tenant_id}\n${run.run_id}\n${step}`);
}

/** Jobs for the intents among events that were just committed. */
export function jobsOf(
  run: RunState,
  drafts: readonly EventDraft[],
  governed: () => { catalog: Catalog; tenant_key: Uint8Array },
): Job[] {
  const jobs: Job[] = [];
  for (const draft of drafts) {
    if (draft.type !== "tool.requested" && draft.type !== "model.requested") continue;
    // A foreign agent's model calls are on their way already.
    if (run.program === null && draft.type === "model.requested") continue;
    const step = run.steps.get(draft.step ?? 0);
    if (step?.status !== "running" || step.attempt !== (draft.attempt ?? 1)) continue;
    const { catalog, tenant_key } = governed();
    jobs.push(jobOf(run, step, catalog, tenant_key));
  }
  return jobs;
}

export function jobOf(run: RunState, step: StepState, catalog: Catalog, tenant_key: Uint8Array): Job {
  const [name, version] = splitTarget(step.target);
  const { tenant_id, run_id } = run;
  const { n, attempt } = step;
  const { program } = run;
  const spec = program?.kind === "agent" ? program.spec : null;
  const limited = spec?.concurrency_max ? { agent: { name: spec.name, concurrency_max: spec.concurrency_max } } : {};
  if (step.kind === "tool") {
    const tool = present(catalog.tool(name, version), `tool ${step.target} is in the registry`);
    // Built-ins have no wire for the key to go out on.
    const idempotency_key = tool.kind === "builtin" ? "" : idempotencyKey(tenant_key, run, step.n);
    const job = { tenant_id, run_id, step: n, attempt, kind: "tool" as const, tool, args: step.args, idempotency_key };
    // What a foreign agent's call gives is looked at before it is kept.
    const foreign = program
      ? {}
      : { boxes_result: true as const, ...(step.args_boxed ? { args_lost: true as const } : {}) };
    return { ...job, ...foreign, ...limited };
  }
  const route = present(catalog.model(name, version), `model ${step.target} is in the registry`);
  return {
    tenant_id,
    run_id,
    step: n,
    attempt,
    kind: "model",
    route,
    messages: [...modelMessages(run, step.slot)],
    tools: spec ? catalog.toolsMatching(spec.tools, spec.capabilities) : [],
    max_output_tokens: step.max_output_tokens,
    params: spec?.params ?? {},
    output_schema: spec?.output_schema ?? null,
    reserved_output_tokens: step.max_output_tokens,
    ...limited,
  };
}
