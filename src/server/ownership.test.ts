// Who owns the runs, when the database says nothing: the lease runs out here as it does there.
import { expect, test } from "vitest";
import { silent } from "../../test/support/engine.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import type { GroupLease, GroupLeases } from "../contract/journal.ts";
import { LIMITS } from "../contract/limits.ts";
import { Ownership } from "./ownership.ts";

const LEASE: GroupLease = { group: 0, shard_epoch: 1, head: 0 };

function owned(renew: () => Promise<boolean>) {
  const clock = new FakeClock();
  const seen: string[] = [];
  const leases: GroupLeases = {
    claim: async () => (seen.includes("claimed") ? null : LEASE),
    renew,
    release: async () => undefined,
    holder: async () => ({ node: "other", url: "http://other" }),
  };
  const ownership = new Ownership({
    leases,
    group: 0,
    clock,
    log: silent,
    self: () => ({ node: "me", url: "http://me" }),
    onClaimed: async () => void seen.push("claimed"),
    onLost: () => void seen.push("lost"),
  });
  return { clock, ownership, seen };
}

test("a renewal that is never answered does not keep a node from losing its lease, nor from seeing who has it", async () => {
  let answers = true;
  const { clock, ownership, seen } = owned(() => (answers ? Promise.resolve(true) : new Promise(() => undefined)));
  await ownership.start();
  await clock.pass(LIMITS.node_lease_ms * 3);
  expect([ownership.isOwner, seen]).toEqual([true, ["claimed"]]);
  answers = false;
  await clock.pass(LIMITS.node_lease_ms + 1_500);
  expect([ownership.isOwner, seen, ownership.otherUrl]).toEqual([false, ["claimed", "lost"], "http://other"]);
});

test("a renewal that is answered after the lease was lost brings nothing back", async () => {
  const late: ((renewed: boolean) => void)[] = [];
  const { clock, ownership, seen } = owned(() => new Promise((resolve) => late.push(resolve)));
  await ownership.start();
  await clock.pass(LIMITS.node_lease_ms + 1_500);
  for (const answer of late) answer(true);
  await clock.pass(600);
  expect([ownership.isOwner, seen]).toEqual([false, ["claimed", "lost"]]);
});
