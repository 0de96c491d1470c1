// Where a fork begins, and which overrides make sense there. Refusals name the field and what to do instead.
import type { Catalog } from "../contract/catalog.ts";
import type { ManifestKind } from "../contract/manifests.ts";
import type { StartFork } from "../contract/replay.ts";
import type { RunState } from "../core/run-state.ts";
import type { Recorded } from "../journal/past.ts";
import { refused } from "./refused.ts";

/** The last event before a step: the source's part of the fork's past. */
export function forkPoint(recorded: Recorded, run_id: string, step: number): number {
  const { lineage, events } = recorded;
  const first = events.find((event) => event.step === step && event.seq > 1);
  if (first) return first.seq - 1;
  if (lineage && step < lineage.step) {
    throw refused(
      "fork_point_not_found",
      `Step ${step} lies in the past of ${run_id}; fork ${lineage.source_run_id} there instead`,
    );
  }
  throw refused(
    "fork_point_not_found",
    `Run ${run_id} has no step ${step}; it has ${recorded.outcome().run.step_count}`,
  );
}

const AGENT_ONLY = ["instructions", "model", "max_output_tokens", "params", "prompts"] as const;

/** Throws REPLAY_REFUSED for an override that this source or this place cannot have. */
export function refuseOverrides(
  request: StartFork,
  source: RunState,
  registry: { catalog: Catalog; has: (kind: ManifestKind, name: string, version: number) => boolean },
): void {
  const overrides = request.overrides ?? {};
  if (source.program?.kind === "workflow") {
    const wrong = AGENT_ONLY.find((name) => overrides[name] !== undefined);
    if (wrong)
      throw refused("override_not_applicable", `overrides/${wrong}: a workflow has none; change its input or tools`);
  }
  if (overrides.input !== undefined && source.program?.kind === "agent" && request.step > 1) {
    throw refused(
      "change_before_fork_point",
      `overrides/input: the conversation began with the input, before step ${request.step}; fork at step 1`,
    );
  }
  const early = request.simulate?.find((one) => one.step !== undefined && one.step < request.step);
  if (early) {
    throw refused(
      "change_before_fork_point",
      `simulate: step ${early.step} lies before step ${request.step}, where the fork begins; fork at ${early.step}`,
    );
  }
  if (overrides.model !== undefined && !registry.catalog.model(overrides.model))
    throw refused("override_not_applicable", `overrides/model: there is no model ${overrides.model}; apply it first`);
  const kinds: [ManifestKind, string, Record<string, number> | undefined][] = [
    ["Prompt", "prompts", overrides.prompts],
    ["Tool", "tools", overrides.tools],
    ["Policy", "policies", overrides.policies],
  ];
  for (const [kind, field, versions] of kinds)
    for (const [name, version] of Object.entries(versions ?? {}))
      if (!registry.has(kind, name, version))
        throw refused("override_not_applicable", `overrides/${field}: there is no ${kind} ${name} version ${version}`);
}
