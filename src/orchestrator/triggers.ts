// Triggers: what starts runs without somebody asking each time. Who asks for one by hand, who holds one up, what came in by
// webhook; and the look, now and then, at what is due by itself.
import type { Clock } from "../kit/clock.ts";
import { rfc3339 } from "../kit/clock.ts";
import { present } from "../kit/assert.ts";
import type { Json } from "../kit/json.ts";
import { JsonSyntaxError, parseJson } from "../kit/json.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import type { RegistryItem } from "../contract/manifests.ts";
import { LIMITS } from "../contract/limits.ts";
import { HOOKS_PREFIX } from "../contract/paths.ts";
import type { Db, Log, Secrets } from "../contract/ports.ts";
import type { Fire, Trigger, TriggerManifest } from "../contract/triggers.ts";
import type { IdSeed } from "../contract/ids.ts";
import { nextFire } from "../core/schedule.ts";
import { beginTrigger, findFire, listFires, listTriggers, pauseTrigger, resumeTrigger } from "../store/triggers.ts";
import type { FireRow, TriggerRow } from "../store/triggers.ts";
import type { Alias } from "../store/registry.ts";
import type { EventTriggers } from "./event-triggers.ts";
import { fireView } from "./fires.ts";
import type { ActiveTrigger, Cause, Fires } from "./fires.ts";
import { APPLY_ENV } from "./registry.ts";
import type { Registry } from "./registry.ts";
import type { Caller } from "./runs.ts";
import type { Schedules } from "./schedules.ts";
import { checkDelivery } from "./webhooks.ts";
import type { Delivery } from "./webhooks.ts";

export interface TriggersOptions {
  readonly registry: Pick<Registry, "items" | "aliases" | "moves" | "scopes">;
  readonly db: Db;
  readonly fires: Fires;
  readonly schedules: Schedules;
  readonly events: EventTriggers;
  readonly secrets: Secrets;
  readonly clock: Clock;
  readonly log: Log;
}

/** Who holds up what was imported. */
const HELD_BY = "import";

type Scope = Pick<Caller, "tenant_id" | "project">;

export class Triggers {
  private readonly options: TriggersOptions;
  private looking = false;

  constructor(options: TriggersOptions) {
    this.options = options;
  }

  /** Versions of triggers that an environment uses. */
  private active({ tenant_id, project }: Scope): ActiveTrigger[] {
    const { registry } = this.options;
    const items = new Map<string, RegistryItem>();
    for (const item of registry.items(tenant_id, project))
      if (item.kind === "Trigger") items.set(`${item.name}@${item.version}`, item);
    if (items.size === 0) return [];
    const moves = registry.moves(tenant_id, project);
    return registry.aliases(tenant_id, project).flatMap(({ kind, name, env, version }) => {
      const item = kind === "Trigger" ? items.get(`${name}@${version}`) : undefined;
      if (!item || item.state === "archived") return [];
      const since_us =
        moves.findLast((move) => move.kind === kind && move.name === name && move.env === env)?.at_us ??
        item.created_at_us;
      return [{ tenant_id, project, name, env, version, since_us, spec: item.spec as TriggerManifest }];
    });
  }

  private need(scope: Scope, name: string, env: string): ActiveTrigger {
    const found = this.active(scope).find((trigger) => trigger.name === name && trigger.env === env);
    if (!found)
      throw new AppError("NOT_FOUND", `There is no trigger ${name} in environment ${env}; apply or promote it first`, {
        details: { trigger: name, env },
      });
    return found;
  }

  private rows(scope: Scope): Promise<TriggerRow[]> {
    const { db } = this.options;
    return db.transaction({ role: "qd_app", tenant_id: scope.tenant_id }, (tx) => listTriggers(tx, scope.project));
  }

  async list(caller: Caller): Promise<Trigger[]> {
    const rows = await this.rows(caller);
    return this.active(caller).map((trigger) => triggerView(trigger, rows));
  }

  async fires(
    caller: Caller,
    name: string,
    env = APPLY_ENV,
    limit: number = LIMITS.page_size_default,
  ): Promise<Fire[]> {
    const at = { name, env };
    const rows = await this.options.db.transaction({ role: "qd_app", tenant_id: caller.tenant_id }, (tx) =>
      listFires(tx, caller.project, at, limit),
    );
    // A trigger that no environment uses any more still has its past.
    if (rows.length === 0) this.need(caller, name, env);
    return rows.map(fireView);
  }

  async pause(caller: Caller, name: string, env = APPLY_ENV): Promise<Trigger> {
    const trigger = this.need(caller, name, env);
    const { tenant_id, project, principal } = caller;
    const now_us = this.options.clock.now_us();
    await this.options.db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      await beginTrigger(tx, project, { ...trigger, next_at_us: nextOf(trigger, now_us) });
      await pauseTrigger(tx, project, trigger, principal, now_us);
    });
    return triggerView(trigger, await this.rows(caller));
  }

  async resume(caller: Caller, name: string, env = APPLY_ENV): Promise<Trigger> {
    const trigger = this.need(caller, name, env);
    const { tenant_id, project } = caller;
    const now_us = this.options.clock.now_us();
    await this.options.db.transaction({ role: "qd_app", tenant_id }, (tx) =>
      resumeTrigger(tx, project, trigger, nextOf(trigger, now_us), now_us),
    );
    return triggerView(trigger, await this.rows(caller));
  }

  /** Holds up triggers that are about to come from an export, unless they are here already. */
  async hold({ tenant_id, project }: Scope, aliases: readonly Alias[]): Promise<void> {
    const { registry, db, clock } = this.options;
    const here = new Set(registry.aliases(tenant_id, project).map(({ kind, name, env }) => `${kind}/${name}/${env}`));
    const come = aliases.filter(({ kind, name, env }) => kind === "Trigger" && !here.has(`${kind}/${name}/${env}`));
    if (come.length === 0) return;
    await db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      for (const alias of come) {
        await beginTrigger(tx, project, { ...alias, next_at_us: null });
        await pauseTrigger(tx, project, alias, HELD_BY, clock.now_us());
      }
    });
  }

  /** Starts a run as the trigger would, now. Throws RUN_REFUSED where there can be none. */
  async fire(
    caller: Caller,
    name: string,
    asked: { env?: string | undefined; input?: Json | undefined; seed?: IdSeed | undefined },
  ): Promise<Fire> {
    const trigger = this.need(caller, name, asked.env ?? APPLY_ENV);
    const due_us = asked.seed?.created_us ?? this.options.clock.now_us();
    const id = asked.seed ? Buffer.from(asked.seed.bytes).toString("hex") : rfc3339(due_us);
    const key = `${caller.principal}/${id}`;
    const got = asked.input ?? { due: rfc3339(due_us) };
    const row = await this.take(trigger, { key, cause: "manual", due_us, got, facts: { by: caller.principal } });
    if (row.state === "refused") throw new AppError("RUN_REFUSED", row.reason ?? "the run was refused");
    return fireView(row);
  }

  /** Takes a webhook. Throws AUTH_REQUIRED for one that nobody with the secret sent, CONFLICT while the trigger is paused. */
  async webhook(scope: Scope, name: string, env: string, delivery: Delivery): Promise<Fire> {
    const { secrets, clock, log } = this.options;
    const trigger = this.active(scope).find((one) => one.name === name && one.env === env && one.spec.webhook);
    const webhook = trigger?.spec.webhook;
    if (!trigger || !webhook)
      throw new AppError("NOT_FOUND", `There is no webhook ${name} in environment ${env}; apply or promote it first`);
    const now_us = clock.now_us();
    const secret = await secrets.resolve(webhook.secret).catch((error: unknown) => {
      // Who sends cannot put it right, and need not know how it is kept.
      log.error("trigger.no_secret", { trigger: name, env, error: messageOf(error) });
      throw new AppError(
        "DEPENDENCY_UNAVAILABLE",
        `The secret of the webhook ${name} cannot be read; send this again later`,
      );
    });
    const id = checkDelivery(webhook, secret, delivery, now_us);
    const row = (await this.rows(scope)).find((one) => one.name === name && one.env === env);
    if (row && row.paused_by !== null)
      throw new AppError("CONFLICT", `The trigger ${name} is paused in ${env}; resume it, then send this again`);
    return fireView(await this.take(trigger, { key: id, cause: "webhook", due_us: now_us, got: bodyOf(delivery) }));
  }

  /** Writes a fire down and begins its run, unless that was done before. */
  private async take(trigger: ActiveTrigger, cause: Cause): Promise<FireRow> {
    const { db, fires } = this.options;
    const { tenant_id, project } = trigger;
    const scope = { role: "qd_app" as const, tenant_id };
    const made = fires.row(trigger, cause);
    // By itself: who begins a fire has that first and its trigger then, and the other way round they would wait for each other.
    await db.transaction(scope, (tx) =>
      beginTrigger(tx, project, { ...trigger, next_at_us: nextOf(trigger, made.made_us) }),
    );
    await db.transaction(scope, (tx) => fires.add(tx, [made]));
    const find = async () => {
      const row = await db.transaction(scope, (tx) => findFire(tx, project, trigger, cause.key));
      return present(row, "what was written down is there");
    };
    const row = await find();
    if (row.state !== "pending") return row;
    await fires.begin(tenant_id, row);
    return find();
  }

  /**
   * What is due by itself: schedules where this node signs, events of the groups whose runs are here, and fires of those groups
   * that nobody began.
   */
  async look(owned: readonly number[], signs: boolean): Promise<void> {
    if (this.looking) return;
    this.looking = true;
    try {
      await this.lookOnce(owned, signs);
    } finally {
      this.looking = false;
    }
  }

  private async lookOnce(owned: readonly number[], signs: boolean): Promise<void> {
    const { registry, schedules, events, fires } = this.options;
    const projects = registry.scopes().map((scope) => ({ ...scope, triggers: this.active(scope) }));
    const all = projects.flatMap(({ triggers }) => triggers);
    if (all.length === 0) return;
    if (signs) for (const { triggers } of projects) await schedules.look(triggers.filter(({ spec }) => spec.schedule));
    const onEvents: ActiveTrigger[] = [];
    for (const { triggers } of projects)
      onEvents.push(...(await this.awake(triggers.filter(({ spec }) => spec.event))));
    if (onEvents.length > 0) for (const group of owned) await events.look(group, onEvents);
    for (const tenant_id of new Set(all.map((trigger) => trigger.tenant_id))) await fires.look(tenant_id);
  }

  /** Those of one project that nobody holds up, each from when it was last let go on. */
  private async awake(triggers: readonly ActiveTrigger[]): Promise<ActiveTrigger[]> {
    const [first] = triggers;
    if (!first) return [];
    const rows = await this.rows(first);
    return triggers.flatMap((trigger) => {
      const row = rows.find((one) => one.name === trigger.name && one.env === trigger.env);
      if (row && row.paused_by !== null) return [];
      return [{ ...trigger, since_us: Math.max(trigger.since_us, row?.resumed_at_us ?? 0) }];
    });
  }
}

const nextOf = ({ spec }: ActiveTrigger, now_us: number): number | null =>
  spec.schedule ? nextFire(spec.schedule, now_us) : null;

/** JSON as it is; what is none as text. */
function bodyOf({ body }: Delivery): Json {
  const text = body.toString("utf8");
  try {
    return parseJson(text, LIMITS.json_depth_max);
  } catch (error) {
    if (error instanceof JsonSyntaxError) return text;
    throw error;
  }
}

function triggerView(trigger: ActiveTrigger, rows: readonly TriggerRow[]): Trigger {
  const { name, env, version, spec } = trigger;
  const row = rows.find((one) => one.name === name && one.env === env);
  const time = (at_us: number | null | undefined) => (at_us === null || at_us === undefined ? null : rfc3339(at_us));
  const paused = row?.paused_by ?? null;
  return {
    name,
    env,
    version,
    on: spec.schedule ? "schedule" : spec.webhook ? "webhook" : "event",
    target: targetOf(spec),
    when: whenOf(trigger),
    paused: paused !== null,
    paused_by: paused,
    next_at: paused === null && row?.version === version ? time(row.next_at_us) : null,
    last_at: time(row?.last_at_us),
    last_run_id: row?.last_run_id ?? null,
  };
}

function targetOf({ agent, workflow, intent }: TriggerManifest): string {
  if (intent !== undefined) return `intent/${intent}`;
  return agent === undefined ? `workflow/${workflow ?? ""}` : `agent/${agent}`;
}

function whenOf({ name, env, spec }: ActiveTrigger): string {
  if (spec.schedule) return `${spec.schedule.cron} ${spec.schedule.timezone ?? "UTC"}`;
  if (spec.webhook) return `POST ${HOOKS_PREFIX}/${env}/${name}`;
  const { types = [], targets = [], when } = spec.event ?? {};
  const condition = when === undefined ? [] : [`when ${when}`];
  return [...types, ...targets.map((target) => `of ${target}`), ...condition].join(" ");
}
