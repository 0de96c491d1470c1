// Answers that several nodes have a part in: what each of them sees of workers and queues, and imports, of which each node
// takes the runs of its own groups.
import { AppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { RouteId } from "../contract/routes.ts";
import type { Run } from "../contract/runs.ts";
import type { QueueView, WorkerView } from "../contract/workers.ts";
import type { Clock } from "../kit/clock.ts";
import type { Imported } from "./services.ts";

/** The other nodes, as one that was asked reaches them. */
export interface Peers {
  /** Those that own runs. */
  readonly urls: readonly string[];
  ownerOf(group: number): string | null;
  /** Asks one for its part of the same request, with this query. */
  ask(url: string, query?: string): Promise<unknown>;
  readonly clock: Clock;
}

const PAUSE_MS = 100;

export async function gather(id: RouteId, own: unknown, peers: Peers): Promise<unknown> {
  if (id === "importJournal") return importElsewhere(own as Imported, peers);
  if (id !== "listWorkers" && id !== "getQueues" && id !== "listRuns") return own;
  const asked = await Promise.allSettled(peers.urls.map((url) => peers.ask(url)));
  // A node that does not answer is not waited for: it has no runs any more, or soon not.
  const others = asked.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
  if (id === "listRuns") return latest(own as RunPage, others as RunPage[]);
  if (id === "getQueues") return queuesOf([own, ...others] as QueueView[]);
  return { items: workersOf(([own, ...others] as { items: WorkerView[] }[]).flatMap((answer) => answer.items)) };
}

/** A process of a worker talks to every node: it was seen last where it was seen last, and did the sum of it all. */
export function workersOf(views: readonly WorkerView[]): WorkerView[] {
  const byName = new Map<string, WorkerView>();
  for (const view of views) {
    const known = byName.get(view.name);
    if (!known) byName.set(view.name, view);
    else byName.set(view.name, { ...known, instances: instancesOf([...known.instances, ...view.instances]) });
  }
  return [...byName.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

interface RunPage {
  readonly items: readonly Run[];
}

/** The same page as each node has it: of an open run its owner knows best, and has heard of it last. */
export function latest<P extends RunPage>(own: P, others: readonly RunPage[]): P {
  const known = new Map<string, Run>();
  for (const run of others.flatMap((page) => page.items)) {
    const before = known.get(run.run_id);
    if (!before || before.updated_at < run.updated_at) known.set(run.run_id, run);
  }
  const items = own.items.map((run) => {
    const other = known.get(run.run_id);
    return other && other.updated_at > run.updated_at ? other : run;
  });
  return { ...own, items };
}

type Instance = WorkerView["instances"][number];
const SOUNDEST: readonly Instance["state"][] = ["draining", "ready", "lost"];

function instancesOf(instances: readonly Instance[]): Instance[] {
  const byId = new Map<string, Instance>();
  for (const one of instances) {
    const known = byId.get(one.instance);
    const sum = known && {
      ...known,
      state: SOUNDEST.find((state) => state === known.state || state === one.state) ?? one.state,
      running: known.running + one.running,
      completed: known.completed + one.completed,
      refused: known.refused + one.refused,
      seen_ms_ago: Math.min(known.seen_ms_ago, one.seen_ms_ago),
    };
    byId.set(one.instance, sum ?? one);
  }
  return [...byId.values()];
}

export function queuesOf(views: readonly QueueView[]): QueueView {
  const lanes = new Map<string, QueueView["lanes"][number]>();
  for (const lane of views.flatMap((view) => view.lanes)) {
    const key = JSON.stringify([lane.tenant_id, lane.priority, lane.needs]);
    const known = lanes.get(key);
    const waiting = (known?.waiting ?? 0) + lane.waiting;
    lanes.set(key, { ...lane, waiting, served_by: Math.max(known?.served_by ?? 0, lane.served_by) });
  }
  const sum = (of: (view: QueueView) => number) => views.reduce((total, view) => total + of(view), 0);
  return {
    driver: views[0]?.driver ?? "",
    waiting: sum((view) => view.waiting),
    running: sum((view) => view.running),
    oldest_ms: Math.max(0, ...views.map((view) => view.oldest_ms)),
    arrived_per_s: sum((view) => view.arrived_per_s ?? 0),
    done_per_s: sum((view) => view.done_per_s ?? 0),
    lanes: [...lanes.values()],
    dead: views.flatMap((view) => view.dead),
  };
}

/** Each owner takes its runs; a group that changes hands meanwhile is asked for again. */
async function importElsewhere(own: Imported, peers: Peers): Promise<Imported> {
  let sum = own;
  for (const end = peers.clock.monotonic_ms() + LIMITS.forward_wait_ms; sum.elsewhere.length > 0;) {
    const byUrl = new Map<string, number[]>();
    for (const group of sum.elsewhere) {
      const url = peers.ownerOf(group);
      if (url !== null) byUrl.set(url, [...(byUrl.get(url) ?? []), group]);
    }
    for (const [url, groups] of byUrl) {
      const part = (await peers.ask(url, `groups=${groups.join(",")}&budgets=${sum.runs === 0}`)) as Imported;
      const left = sum.elsewhere.filter((group) => !groups.includes(group) || part.elsewhere.includes(group));
      sum = { ...sum, runs: sum.runs + part.runs, skipped: sum.skipped + part.skipped, elsewhere: left };
    }
    if (sum.elsewhere.length === 0) break;
    if (peers.clock.monotonic_ms() > end)
      throw new AppError(
        "FENCED",
        `No node takes the runs of groups ${sum.elsewhere.join(", ")} just now; import again`,
      );
    await peers.clock.sleep(PAUSE_MS);
  }
  return sum;
}
