// Observed events read as they happened, however they came: over the in-memory journal.
import { beforeEach, expect, test } from "vitest";
import { CaptureWorld } from "../../test/support/capture-world.ts";
import { freshRun, TENANT } from "../../test/support/engine.ts";
import { Prng } from "../../test/sim/sim.ts";
import type { JsonObject } from "../kit/json.ts";
import type { Event } from "../contract/events.ts";
import { EventReader } from "../journal/event-reader.ts";

type Sent = JsonObject & { type: string };
let world: CaptureWorld;
beforeEach(async () => void (world = await new CaptureWorld().open()));

const started: Sent = { type: "run.started", data: { agent: "helper", input: "hello" } };
const numbered = (events: readonly Sent[], from = 1) => events.map((event, i) => ({ sequence_no: from + i, ...event }));
const send = async (run_id: string, events: readonly object[], producer_id = "prd_1") => {
  const { items } = await world.ingest.add(world.caller, run_id, { producer_id, events: [...events] });
  return items.map((item) => item.error?.code ?? item.status);
};

test.each([1, 2, 3])(
  "read as they happened, late events stand in their producers' order, however they came: seed %i",
  async (seed) => {
    const rng = new Prng(seed);
    const run_id = freshRun();
    const producers = ["prd_1", "prd_2"];
    const good = (no: number): Sent => ({ type: "memory.read", data: { store: `s${no}` } });
    const bad: Sent = { type: "memory.read", data: {} };
    const missing = new Map(producers.map((producer): [string, number[]] => [producer, []]));
    await send(run_id, numbered([started]));
    // What is refused leaves gaps, anywhere; what was refused comes corrected, in any order.
    for (const producer of producers) {
      const first = producer === "prd_1" ? 2 : 1;
      const sent = Array.from({ length: 40 }, (_, i) => {
        if (rng.chance(0.6)) return good(first + i);
        missing.get(producer)?.push(first + i);
        return bad;
      });
      await send(run_id, numbered(sent, first), producer);
    }
    for (const [producer, left] of missing)
      for (const no of left.toSorted(() => rng.float() - 0.5))
        expect(await send(run_id, [{ sequence_no: no, ...good(no) }], producer)).toEqual(["committed"]);
    const reader = new EventReader(world.store);
    const pages = async (limit: number): Promise<Event[]> => {
      const read: Event[] = [];
      for (let page = null as Event[] | null; page === null || page.length === limit; read.push(...page))
        page = await reader.readLogical({ tenant_id: TENANT, run_id, after_seq: read.at(-1)?.seq ?? 0, limit });
      return read;
    };
    const whole = await pages(1_000);
    expect(whole.map((event) => event.seq).toSorted((a, b) => a - b)).toEqual(whole.map((_, i) => i + 1));
    for (const producer of producers) {
      const numbers = whole.flatMap(({ origin }) => (origin?.producer_id === producer ? [origin.sequence_no] : []));
      expect(numbers).toEqual(Array.from({ length: producer === "prd_1" ? 41 : 40 }, (_, i) => i + 1));
    }
    expect(whole.some((event, i) => event.seq !== i + 1)).toBe(true);
    for (const limit of [1, 7]) expect(await pages(limit)).toEqual(whole);
    expect(await reader.readLogical({ tenant_id: TENANT, run_id, after_seq: 9_999, limit: 5 })).toEqual([]);
  },
);
