// Tasks: work that is asked for by intent. A task is a run, under the run's id; what is said of it here is read from its journal.
import { present } from "../kit/assert.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";
import { AppError } from "../contract/errors.ts";
import type { RunStateName, StoredEvent } from "../contract/events.ts";
import { isTerminal } from "../contract/events.ts";
import type { IdSeed } from "../contract/ids.ts";
import type { JournalStore } from "../contract/journal.ts";
import type { Run, StartRun } from "../contract/runs.ts";
import type { Routing, RoutingState, Task, TaskRequest } from "../contract/tasks.ts";
import type { IntentSpec } from "../contract/catalog.ts";
import { usd } from "../core/catalog.ts";
import { decodeBody } from "../core/chain.ts";
import { routeTask } from "../core/routing.ts";
import type { RunState } from "../core/run-state.ts";
import { resolveTemplate, UnresolvedReference } from "../core/template.ts";
import { readWholeRun } from "../journal/audit.ts";
import type { Governance } from "./engine.ts";
import { APPLY_ENV } from "./registry.ts";
import type { Caller, Runs, StartExtra } from "./runs.ts";

export interface TasksOptions {
  readonly runs: Pick<Runs, "start" | "get">;
  readonly store: Pick<JournalStore, "readRun">;
  readonly governance: Pick<Governance, "of">;
  /** The state of an open run that is at hand here. */
  readonly live: (run_id: string) => Readonly<RunState> | null;
}

/** Of jobs in the queue. */
const PRIORITY = { low: 2, normal: 5, high: 8 };

const STATUS: Record<RunStateName, Task["status"]> = {
  queued: "PENDING",
  running: "RUNNING",
  waiting: "RUNNING",
  succeeded: "OK",
  failed: "ERROR",
  budget_exceeded: "ERROR",
  policy_blocked: "ERROR",
  timed_out: "TIMEOUT",
  cancelled: "CANCELED",
};

export class Tasks {
  private readonly options: TasksOptions;

  constructor(options: TasksOptions) {
    this.options = options;
  }

  /** Routes a task and begins its run. Throws RUN_REFUSED where nothing can do it as it is asked for. */
  async submit(caller: Caller, task: TaskRequest, seed?: IdSeed): Promise<Task> {
    return this.view(caller, await this.begin(caller, task, seed ? { seed } : {}));
  }

  /** The same, answered by the run. */
  async begin(caller: Caller, task: TaskRequest, extra: StartExtra & { priority?: number }): Promise<Run> {
    const { tenant_id, project } = caller;
    const env = task.env ?? APPLY_ENV;
    const { catalog } = this.options.governance.of({ tenant_id, project, env });
    const intent = catalog.intent(task.intent);
    if (!intent)
      throw new AppError("RUN_REFUSED", `There is no intent ${task.intent} in environment ${env}; apply it first`, {
        errors: [{ pointer: "/intent", message: `there is no intent ${task.intent}` }],
      });
    const routing = routeTask(intent, task, catalog);
    const request: StartRun = {
      agent: intent.agent,
      env,
      input: inputOf(intent, task),
      budget: { cost_micro_usd: budgetOf(intent, task) },
      ...(task.metadata ? { labels: task.metadata } : {}),
      ...(task.priority === undefined ? {} : { priority: PRIORITY[task.priority] }),
      ...(extra.priority === undefined ? {} : { priority: extra.priority }),
    };
    const facts = { ...extra.facts, routing: routing as unknown as JsonObject };
    return this.options.runs.start(caller, request, { ...extra, facts });
  }

  /** Throws NOT_FOUND for a run that is no task. */
  async get(caller: Caller, task_id: string): Promise<Task> {
    return this.view(caller, await this.options.runs.get(caller, task_id));
  }

  private async view(caller: Caller, run: Run): Promise<Task> {
    const live = this.options.live(run.run_id);
    if (live?.routing && !isTerminal(live.state)) return openTask(run, live, live.routing);
    const rows = await readWholeRun(this.options.store, caller.tenant_id, run.run_id);
    return endedTask(
      run,
      rows.flatMap((row) => decodeBody(row.body)),
    );
  }
}

function inputOf(intent: IntentSpec, { params }: TaskRequest): Json {
  const given = (params ?? null) as Json;
  if (intent.input === undefined) return given;
  try {
    return resolveTemplate(intent.input, { input: given, output: () => undefined });
  } catch (error) {
    if (!(error instanceof UnresolvedReference)) throw error;
    const message = `The intent ${intent.name} needs more params: ${error.message}`;
    throw new AppError("RUN_REFUSED", message, { errors: [{ pointer: "/params", message: error.message }] });
  }
}

/** What a task asks for, as far as its intent lets it. */
function budgetOf(intent: IntentSpec, { sla }: TaskRequest): number {
  return Math.min(usd(sla?.budget_usd) ?? intent.budget_micro_usd, intent.budget_cap_micro_usd);
}

/** What is asked for again and again while it goes on is not read from the journal each time. */
function openTask(run: Run, state: Readonly<RunState>, routing: RoutingState): Task {
  return taskOf(run, routing, { latency_us: state.updated_us - state.created_us, result: null, error: null });
}

function endedTask(run: Run, events: readonly StoredEvent[]): Task {
  const [first] = events;
  const given = first?.data["routing"];
  if (!first || !isObject(given)) throw new AppError("NOT_FOUND", `The run ${run.run_id} was not asked for as a task`);
  const chosen = events.findLast((event) => event.type === "routing.decided")?.data;
  const routing = { ...(given as unknown as Routing), at: 0, ...(chosen as Partial<RoutingState> | undefined) };
  const last = events.findLast((event) => event.type === `run.${run.state}`);
  const isOver = isTerminal(run.state as RunStateName);
  const ended = isOver ? last : undefined;
  const { code, message, output } = ended?.data ?? {};
  const isFailed = ended !== undefined && run.state !== "succeeded";
  return taskOf(run, routing, {
    latency_us: (ended ?? events.at(-1) ?? first).at - first.at,
    result: output ?? null,
    error: isFailed ? { code: String(code ?? run.state), message: String(message ?? "") } : null,
  });
}

function taskOf(
  run: Run,
  routing: RoutingState,
  came: { latency_us: number; result: Json; error: Task["error"] },
): Task {
  const engines = new Set(routing.order.map(({ engine }) => engine));
  const now = present(routing.order[routing.at], "a task asks one of its models");
  return {
    task_id: run.run_id,
    intent: routing.intent,
    status: STATUS[run.state as RunStateName],
    engine: {
      route: engines.size > 1 ? "hybrid" : now.engine,
      model: now.model,
      tier: now.tier,
      chosen_by: routing.chosen_by,
      reason: routing.reason,
    },
    result: came.result,
    usage: {
      latency_ms: Math.round(came.latency_us / 1000),
      tokens: run.tokens,
      cost_micro_usd: run.cost_micro_usd,
    },
    error: came.error,
    run_state: run.state,
    waits_for: run.state === "waiting" ? run.reason : null,
  };
}
