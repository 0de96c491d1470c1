// The harness itself is tested: each bug below is planted at a seam, and the oracles must find it within some seeds.
import { expect, test } from "vitest";
import { decodeBody } from "../../src/core/chain.ts";
import type { FlushResult } from "../../src/contract/journal.ts";
import type { Policy, Verdict } from "../../src/core/policy.ts";
import { Sim } from "./sim.ts";
import type { Plant } from "./sim.ts";
import type { Ticket } from "../../src/contract/queue.ts";
import type { BudgetSlices } from "../../src/contract/slices.ts";
import { ClusterSim } from "./cluster-sim.ts";
import { check } from "./oracles.ts";

const SEEDS = 400;
const policyThat =
  (change: (verdict: Verdict, name: string) => Verdict) =>
  (policy: Policy): Policy =>
    Object.assign(Object.create(Object.getPrototypeOf(policy) as object) as Policy, policy, {
      decide: (call: Parameters<Policy["decide"]>[0]) => change(policy.decide(call), call.name),
    });

const PLANTS: Record<string, Plant> = {
  "the epoch is not checked: a zombie owner may write": {
    store: (store) => {
      const flush = store.flush.bind(store);
      store.flush = async (lease, batch) => flush({ ...lease, ...(await store.groupHead(lease.group)) }, batch);
    },
  },
  "a flush is acknowledged and lost": {
    store: (store, random) => {
      const flush = store.flush.bind(store);
      store.flush = async (lease, batch): Promise<FlushResult> =>
        random.chance(0.02) ? { ok: true } : flush(lease, batch);
    },
  },
  "an unknown commit is sent again and kept twice": {
    store: (store) => {
      const flush = store.flush.bind(store);
      store.flush = async (lease, batch) => {
        try {
          return await flush(lease, batch);
        } catch (error) {
          const { head } = await store.groupHead(lease.group);
          if (head === lease.head + batch.rows.length)
            store.rows.push(
              ...batch.rows.map((row, i) => ({ ...row, group: 0, offset: head + i + 1, at_us: batch.at_us })),
            );
          throw error;
        }
      };
    },
  },
  "an effect that is not idempotent is repeated after a crash": {
    catalog: (catalog) => ({
      ...catalog,
      tool: (name, version) => {
        const tool = catalog.tool(name, version);
        return tool && { ...tool, idempotent: true };
      },
    }),
  },
  "a model of somebody else counts as one that stays at home": {
    catalog: (catalog) => ({
      ...catalog,
      model: (name, version) => {
        const route = catalog.model(name, version);
        return route && { ...route, engine: "local" };
      },
    }),
  },
  "denies are ignored": { policy: policyThat((v, name) => (name === "forbidden" ? { ...v, effect: "allow" } : v)) },
  "approvals are not asked for": {
    policy: policyThat((v, name) => (name === "approve_me" ? { ...v, effect: "allow" } : v)),
  },
  "the shared budget is never checked": {
    engine: (engine) => {
      const open = engine.open.bind(engine);
      engine.open = async () => {
        const n = await open();
        engine.ledger.check = () => null;
        return n;
      };
    },
  },
  "a budget row is not committed with its append": {
    store: (store, random) => {
      const flush = store.flush.bind(store);
      store.flush = (lease, batch) => flush(lease, random.chance(0.02) ? { ...batch, budgets: [] } : batch);
    },
  },
  "a byte of a stored event is changed": {
    store: (store, random) => {
      const flush = store.flush.bind(store);
      store.flush = (lease, batch) => {
        if (!random.chance(0.02)) return flush(lease, batch);
        return flush(lease, {
          ...batch,
          rows: batch.rows.map((row) => ({ ...row, body: Buffer.from(row.body.toString().replace("allow", "allov")) })),
        });
      };
    },
  },
  "recovery overlooks a run": {
    store: (store) => {
      const openRuns = store.openRuns.bind(store);
      store.openRuns = async (...args) => (await openRuns(...args)).slice(1);
    },
  },
  "timers get lost": {
    clock: (clock, random) => {
      const timer = clock.timer.bind(clock);
      clock.timer = (ms, fn) => timer(ms, ms > 90 && random.chance(0.5) ? () => undefined : fn);
    },
  },
  "a stale result is taken for the current attempt": {
    results: (results, random) => results.map((r) => (random.chance(0.2) ? { ...r, step: r.step + 1 } : r)),
  },
  "the chain forgets what came before": {
    store: (store, random) => {
      const flush = store.flush.bind(store);
      store.flush = (lease, batch) =>
        flush(
          lease,
          random.chance(0.02)
            ? { ...batch, rows: batch.rows.map((row) => ({ ...row, chain: Buffer.alloc(32) })) }
            : batch,
        );
    },
  },
};

/** What only the simulation of several nodes can find. The parts are private: a bug would be in them. */
interface Inside {
  lose(key: string, held: { worker: unknown; token: string; ticket: Ticket }): void;
  vacate(held: unknown): void;
  push(tickets: readonly Ticket[]): void;
  tick(): Promise<void>;
}
const CLUSTER_PLANTS: Record<string, (inside: Inside) => void> = {
  "a job whose worker was lost is handed out again, without asking its run": (inside) => {
    inside.lose = (_key, held) => {
      held.worker = null;
      held.token = "";
      inside.vacate(held);
      inside.push([held.ticket]);
    };
  },
  "a worker that was lost is not missed": (inside) => {
    inside.lose = () => undefined;
  },
  "tickets that the queue has lost are not pushed again": (inside) => {
    const tick = inside.tick.bind(inside);
    inside.tick = async () => {
      const push = inside.push.bind(inside);
      inside.push = () => undefined;
      await tick().finally(() => (inside.push = push));
    };
  },
};

/** The first seed of 40 whose history is not as it should be. */
async function foundAt(plant: Plant): Promise<number | null> {
  for (let seed = 1; seed <= 40; seed++) {
    const sim = new ClusterSim(seed, plant);
    await sim.play();
    if (check(sim).length > 0) return seed;
  }
  return null;
}

test.each(Object.keys(CLUSTER_PLANTS))("found among several nodes: %s", async (name) => {
  const dispatcher = (planted: unknown) => CLUSTER_PLANTS[name]?.(planted as Inside);
  expect(await foundAt({ dispatcher })).not.toBeNull();
});

const SLICE_PLANTS: Record<string, (slices: BudgetSlices) => void> = {
  "more of a budget is given back than was left of it": (slices) => {
    const giveBack = slices.giveBack.bind(slices);
    slices.giveBack = (owner, key) => giveBack(owner, key, { micro_usd: 0, tokens: 0 });
  },
  "what other groups were granted does not count": (slices) => {
    slices.ask = async (_owner, need) => ({
      granted_micro_usd: need.micro_usd,
      granted_tokens: need.tokens,
      elsewhere_micro_usd: 0,
      enough: true,
      wait: false,
    });
  },
  "nobody gives back what others need": (slices) => {
    slices.giveBack = () => new Promise(() => undefined);
  },
};

test.each(Object.keys(SLICE_PLANTS))("found among several groups: %s", async (name) => {
  expect(await foundAt({ slices: (slices) => SLICE_PLANTS[name]?.(slices) })).not.toBeNull();
});

test.each(Object.keys(PLANTS))("found: %s", async (name) => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const sim = new Sim(seed, PLANTS[name]);
    // A planted bug may also trip an assertion, in the engine or in the replay: that counts as found too, and says so.
    const found = async () => {
      await sim.play();
      return check(sim)[0];
    };
    const broken = await found().catch((error: unknown) => `assertion: ${String(error)}`);
    if (broken === undefined) continue;
    expect(broken).not.toBe("");
    return;
  }
  expect.fail(`not found in ${SEEDS} seeds`);
});

test("nothing is found where nothing was planted", async () => {
  for (let seed = 1; seed <= 50; seed++) {
    const sim = new Sim(seed);
    await sim.play();
    expect(check(sim)).toEqual([]);
    for (const row of sim.store.rows) expect(decodeBody(row.body).length).toBeGreaterThan(0);
  }
});
