// Producers that send their events in any order, more than once, to a server that crashes, loses its database in the middle of
// a commit, and stages what comes too early: in the end every event is on record exactly once, in its producer's order.
import { expect, test } from "vitest";
import { isAppError } from "../../src/contract/errors.ts";
import type { IngestAnswer } from "../../src/contract/ingest.ts";
import type { FlushFault } from "../../src/journal/memory-store.ts";
import { CaptureWorld } from "../support/capture-world.ts";
import { freshRun } from "../support/engine.ts";
import { Prng } from "./sim.ts";

const SEEDS = Number(process.env["QD_SIM_INGEST_SEEDS"] ?? 300);
const EVENTS = 40;
const ROUNDS = 400;

interface Producer {
  readonly run_id: string;
  readonly producer_id: string;
  readonly events: { sequence_no: number }[];
  readonly unacknowledged: Set<number>;
}

function producerOf(run_id: string, n: number, first: boolean): Producer {
  const events = Array.from({ length: EVENTS }, (_, i) => ({
    sequence_no: i + 1,
    ...(i === 0 && first
      ? { type: "run.started", data: { agent: "sim", input: n } }
      : { type: "memory.written", data: { store: `p${n}`, n: i + 1 } }),
  }));
  return { run_id, producer_id: `p${n}`, events, unacknowledged: new Set(events.map((event) => event.sequence_no)) };
}

/** Some of what is not acknowledged, from not too far ahead, in any order. */
function pick(producer: Producer, random: Prng): { sequence_no: number }[] {
  const open = producer.events.filter((event) => producer.unacknowledged.has(event.sequence_no));
  const near = open.slice(0, 1 + random.int(8)).filter(() => random.chance(0.7));
  // Now and then something that was acknowledged long ago.
  const old = random.chance(0.2)
    ? producer.events.slice(0, 1 + random.int(EVENTS)).filter(() => random.chance(0.1))
    : [];
  const sent = [...near, ...old];
  for (let i = sent.length - 1; i > 0; i--) {
    const j = random.int(i + 1);
    [sent[i], sent[j]] = [sent[j] as { sequence_no: number }, sent[i] as { sequence_no: number }];
  }
  return sent;
}

async function history(seed: number): Promise<void> {
  const random = new Prng(seed);
  const world = await new CaptureWorld().open();
  const fault = async (): Promise<FlushFault> => {
    await new Promise((resolve) => setImmediate(resolve));
    return random.chance(0.05) ? "before" : random.chance(0.05) ? "after" : "none";
  };
  world.store.fault = fault;
  const runs = [freshRun(), freshRun()];
  const producers = runs.flatMap((run_id, n) => [
    producerOf(run_id, n * 2, true),
    producerOf(run_id, n * 2 + 1, false),
  ]);
  const take = (producer: Producer, answer: IngestAnswer): void => {
    for (const { sequence_no, status } of answer.items) {
      expect(["committed", "duplicate", "staged"]).toContain(status);
      producer.unacknowledged.delete(sequence_no ?? 0);
    }
  };
  for (let round = 0; producers.some((producer) => producer.unacknowledged.size > 0); round++) {
    expect(round, `seed ${seed} comes to an end`).toBeLessThan(ROUNDS);
    // A crash in the middle of it: what was staged is there, what was in memory is not, and the old owner still writes.
    const crash = async (): Promise<void> => {
      for (let turns = random.int(30); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
      await world.open();
    };
    const crashed = random.chance(0.2) ? crash() : Promise.resolve();
    await Promise.all(
      producers.map(async (producer) => {
        const sent = pick(producer, random);
        if (sent.length === 0) return;
        try {
          take(
            producer,
            await world.ingest.add(world.caller, producer.run_id, { producer_id: producer.producer_id, events: sent }),
          );
        } catch (error) {
          // Nobody has started the run yet, or the server went away: it is sent again.
          const known = ["RUN_NOT_STARTED", "FENCED", "SHUTTING_DOWN", "DATABASE_UNAVAILABLE"] as const;
          if (!known.some((code) => isAppError(error, code))) throw error;
        }
      }),
    );
    await crashed;
  }
  world.store.fault = async () => "none";
  // As it does every ten seconds; nothing is given up for lost before.
  await world.ingest.look(() => true);
  for (const run_id of runs) {
    const events = await world.events(run_id);
    expect(events[0]?.type).toBe("run.started");
    for (const producer of producers.filter((one) => one.run_id === run_id)) {
      const numbers = events.flatMap(({ origin }) =>
        origin?.from?.startsWith(`${producer.producer_id}/`) ? [Number(origin.from.split("/")[2])] : [],
      );
      expect(numbers, `seed ${seed}`).toEqual(producer.events.map((event) => event.sequence_no));
    }
    expect(events.filter((event) => event.type.startsWith("journal."))).toEqual([]);
  }
  expect(await world.staged.groups()).toEqual([]);
}

test(`${SEEDS} seeded histories`, { timeout: Math.max(600_000, SEEDS * 200) }, async () => {
  for (let seed = 1; seed <= SEEDS; seed++) await history(seed);
});
