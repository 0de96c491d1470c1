// The call that a recorded decision was about, as the policy saw it.
import type { Catalog } from "../contract/catalog.ts";
import type { StoredEvent } from "../contract/events.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { splitTarget } from "./decide.ts";
import { policyCall } from "./gate.ts";
import type { PolicyCall } from "./policy.ts";
import type { RunState } from "./run-state.ts";

/** From the state before the decision, and the events around it. */
export function decidedCall(
  state: RunState,
  events: readonly StoredEvent[],
  decided: StoredEvent,
  catalog: Catalog,
): PolicyCall {
  const about = events.find(
    (event) =>
      event.step === decided.step &&
      (event.type === "tool.proposed" || event.type.startsWith("model.") || event.type.endsWith(".requested")),
  );
  const data: Record<string, Json | undefined> = about?.data ?? {};
  const isModel = about?.type.startsWith("model.") === true;
  const [name, version] = splitTarget(String(data["tool"] ?? data["model"] ?? ""));
  const tool = isModel ? null : catalog.tool(name, Number.isNaN(version) ? undefined : version);
  // What a call is asked for with is folded already, and was not when the policy looked.
  const first = events.find((event) => event.type === "policy.decided" && event.step === decided.step);
  const before = first === decided ? Math.min(state.step_count, (decided.step ?? 1) - 1) : state.step_count;
  return policyCall(
    { ...state, step_count: before },
    {
      kind: isModel ? "model" : "tool",
      name: name === "" ? String(data["tool"] ?? "") : name,
      // Of a model's call the policy sees no arguments; what stands there is for people.
      args: isModel ? {} : ((data["args"] ?? {}) as JsonObject),
      effect_class: tool?.effect_class ?? "external",
      idempotent: tool?.idempotent ?? isModel,
      call_micro_usd: Number(decided.data["reserves"] ?? tool?.cost_micro_usd ?? 0),
      now_us: decided.at,
    },
  );
}
