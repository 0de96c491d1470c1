// Which models a task is done with, in which order. Pure: the same intent, task and registry give the same order and reason.
// Invariant: what a task minds is never relaxed; a model that says nothing of itself counts as somebody else's.
import { AppError } from "../contract/errors.ts";
import type { Catalog, IntentSpec } from "../contract/catalog.ts";
import type { ModelRoute } from "../contract/jobs.ts";
import { PRIVACY } from "../contract/tasks.ts";
import type { Candidate, Engine, Preference, Privacy, Routing, TaskRequest, Tier } from "../contract/tasks.ts";
import type { Decision } from "./decide-context.ts";
import type { RunState } from "./run-state.ts";

export const engineOf = (route: ModelRoute): Engine => route.engine ?? "api";
export const tierOf = (route: ModelRoute): Tier => route.tier ?? (engineOf(route) === "local" ? "tier0" : "tier1");

/** What a task asks for, together with its intent: the stricter of both holds. */
interface Wanted {
  readonly privacy: Privacy;
  readonly p95_ms: number | null;
  readonly preference: Preference;
}

/** Routes a task. Throws RUN_REFUSED with a reason for each model when none is left. */
export function routeTask(
  intent: IntentSpec,
  task: Pick<TaskRequest, "preferred_engine" | "sla">,
  catalog: Pick<Catalog, "model">,
): Routing {
  const wanted: Wanted = {
    privacy: stricter(intent.privacy, task.sla?.privacy ?? "allow-api"),
    p95_ms: task.sla?.p95_ms ?? intent.p95_ms,
    preference: task.preferred_engine ?? "auto",
  };
  const left_out: { model: string; why: string }[] = [];
  const fit: Candidate[] = [];
  for (const model of intent.routes) {
    const route = catalog.model(model);
    const why = route ? unfit(route, intent, wanted) : "there is no such model in this environment";
    if (why !== null) left_out.push({ model, why });
    else if (route) fit.push({ model, engine: engineOf(route), tier: tierOf(route) });
  }
  if (fit.length === 0) {
    const message = `No model of intent ${intent.name} is left: ${left_out.map(({ model, why }) => `${model}: ${why}`).join("; ")}`;
    throw new AppError("RUN_REFUSED", message, { details: { intent: intent.name, left_out } });
  }
  const first = firstEngine(wanted);
  const order =
    first === null ? fit : [...fit.filter((one) => one.engine === first), ...fit.filter((one) => one.engine !== first)];
  const moved = order.some((one, i) => one !== fit[i]);
  return {
    intent: `${intent.name}@${intent.version}`,
    privacy: wanted.privacy,
    order,
    left_out,
    chosen_by: moved || left_out.length > 0 ? "task" : "intent",
    reason: reasonOf(intent, wanted, { moved, left_out }),
  };
}

function stricter(a: Privacy, b: Privacy): Privacy {
  return PRIVACY.indexOf(a) <= PRIVACY.indexOf(b) ? a : b;
}

/** Which models come first; null: as the intent lists them. */
function firstEngine({ privacy, preference }: Wanted): Engine | null {
  if (privacy === "hybrid" || preference === "hybrid") return "local";
  return preference === "auto" ? null : preference;
}

function unfit(route: ModelRoute, intent: IntentSpec, { privacy, p95_ms }: Wanted): string | null {
  if (privacy === "local-only" && engineOf(route) !== "local") return "it is not local";
  if (intent.tiers !== null && !intent.tiers.includes(tierOf(route))) return `${tierOf(route)} is not allowed`;
  if (p95_ms !== null && route.p95_ms !== undefined && route.p95_ms > p95_ms)
    return `95 of 100 of its calls take up to ${route.p95_ms} ms, ${p95_ms} are asked for`;
  return null;
}

function reasonOf(
  intent: IntentSpec,
  { privacy, preference }: Wanted,
  { moved, left_out }: { moved: boolean; left_out: Routing["left_out"] },
): string {
  const first = `the first of ${intent.name}`;
  const rest = left_out.length === 0 ? "" : `; left out: ${left_out.map(({ model }) => model).join(", ")}`;
  if (!moved) return `${first}${rest}`;
  return privacy === "hybrid"
    ? `${first} that is local (privacy hybrid)${rest}`
    : `${first} as ${preference} is preferred${rest}`;
}

/** The model that an agent's run asks now; null: the one of its agent. */
export function routedModel(run: RunState): string | null {
  return run.routing?.order[run.routing.at]?.model ?? null;
}

/** The first word of a task's journal behind its start: which model it begins with, and why. */
export function beginRouting(decision: Decision): void {
  const { routing } = decision.run;
  if (routing) pushRoute(decision, 0, routing.chosen_by, routing.reason);
}

/** The model before did not do: the next one is asked. False when there is none. */
export function nextRoute(decision: Decision, failed: string, why: string): boolean {
  const { routing } = decision.run;
  if (!routing || routing.at + 1 >= routing.order.length) return false;
  pushRoute(decision, routing.at + 1, "fallback", `${failed}: ${why}`);
  return true;
}

function pushRoute(decision: Decision, at: number, chosen_by: string, reason: string): void {
  const to = decision.run.routing?.order[at];
  if (!to) return;
  const { model, engine, tier } = to;
  decision.push({ type: "routing.decided", data: { at, chosen_by, engine, model, reason, tier } });
}

/** Why a model may not be asked by this run at all; null when it may. */
export function outsidePrivacy(run: RunState, route: ModelRoute): string | null {
  return run.routing?.privacy === "local-only" && engineOf(route) !== "local" ? "privacy_local_only" : null;
}
