// What could not be sent, on a disk that may be full.
import { expect, test } from "vitest";
import { processHost } from "./host.ts";
import type { Host } from "./host.ts";
import { Spill } from "./spill.ts";
import type { Batch } from "./transport.ts";

/** One folder in memory; while it has no room, half of what is written is written. */
function diskOf(): { host: Host; kept: Map<string, string>; full: { now: boolean } } {
  const kept = new Map<string, string>();
  const full = { now: false };
  const rename = (from: string, to: string) => {
    kept.set(to, kept.get(from) ?? "");
    kept.delete(from);
  };
  const files: Host["files"] = {
    append(file, text) {
      kept.set(file, (kept.get(file) ?? "") + (full.now ? text.slice(0, text.length / 2) : text));
      if (full.now) throw new Error("ENOSPC: no space left on device, write");
    },
    own: () => undefined,
    read: (file) => kept.get(file) ?? "",
    list: () => [...kept.keys()].map((file) => file.slice("spill/".length)),
    rename,
    remove: (file) => void kept.delete(file),
  };
  return { host: { ...processHost(), files }, kept, full };
}

const batch = (n: number): Batch => ({
  run_id: `run_${n}`,
  producer_id: "p",
  producer_epoch: 1,
  events: [{ n, text: "some text that is long enough to be cut in the middle" }],
});

test("a batch that was cut off when the disk was full is lost alone, and told; what comes after it is sent", () => {
  const { host, kept, full } = diskOf();
  const problems: string[] = [];
  const spill = new Spill({ host, folder: "spill", id: "0a", onProblem: (problem) => void problems.push(problem) });
  expect(spill.put([batch(1)])).toBe(true);
  full.now = true;
  expect(spill.put([batch(2)])).toBe(false);
  full.now = false;
  expect(spill.put([batch(3)])).toBe(true);
  const taken = spill.take();
  expect(taken.flatMap((one) => one.batches)).toEqual([batch(1), batch(3)]);
  expect(problems).toEqual([expect.stringContaining("ENOSPC"), expect.stringContaining("was cut off")]);
  for (const one of taken) spill.done(one);
  expect(kept.size).toBe(0);
});
