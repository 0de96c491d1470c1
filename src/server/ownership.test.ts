// Who owns which groups: shares as nodes come and go, and what happens when the database says nothing.
import { expect, test } from "vitest";
import { silent } from "../../test/support/engine.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { SharedLeases } from "../../test/support/leases.ts";
import { LIMITS } from "../contract/limits.ts";
import { Ownership, shareOf } from "./ownership.ts";

function node(
  leases: SharedLeases,
  name: string,
  clock: FakeClock,
  opened: () => Promise<void> = async () => undefined,
) {
  const seen: string[] = [];
  const ownership = new Ownership({
    leases: leases.for((work) => work()),
    clock,
    log: silent,
    self: () => ({ node: name, url: `http://${name}` }),
    openRuns: () => 0,
    seen: () => 1,
    onVersion: () => undefined,
    onWanted: () => undefined,
    onClaimed: async ({ group }) => {
      seen.push(`claimed ${group}`);
      await opened();
    },
    onLeaving: async (group) => void seen.push(`left ${group}`),
    onLost: (group) => void seen.push(`lost ${group}`),
  });
  return { ownership, seen };
}

test("each node gets its share, the longest running ones what is over", () => {
  const shares = (groups: number, nodes: number) =>
    Array.from({ length: nodes }, (_, at) => shareOf(groups, nodes, at));
  expect(shares(8, 1)).toEqual([8]);
  expect(shares(8, 3)).toEqual([3, 3, 2]);
  expect(shares(1, 2)).toEqual([1, 0]);
  expect(shares(2, 3)).toEqual([1, 1, 0]);
  expect(shareOf(8, 2, -1)).toBe(0);
});

test("nodes that join and leave are shared with within two seconds, and nobody owns what another one does", async () => {
  const clock = new FakeClock();
  const leases = new SharedLeases(8, clock);
  const one = node(leases, "one", clock);
  await one.ownership.start();
  expect(one.ownership.owned).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  const two = node(leases, "two", clock);
  await two.ownership.start();
  await clock.pass(2_000);
  expect([one.ownership.owned.length, two.ownership.owned.length]).toEqual([4, 4]);
  expect([...one.ownership.owned, ...two.ownership.owned].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(one.ownership.urlOf(two.ownership.owned[0] ?? 0)).toBe("http://two");
  expect(two.ownership.others).toEqual(["http://one"]);
  const stopping = one.ownership.stop();
  await clock.pass(2_000);
  await stopping;
  expect(two.ownership.owned).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
});

test("what a dead node had is taken when its leases run out", async () => {
  const clock = new FakeClock();
  const leases = new SharedLeases(8, clock);
  const one = node(leases, "one", clock);
  const two = node(leases, "two", clock);
  await one.ownership.start();
  await two.ownership.start();
  await clock.pass(2_000);
  leases.away.add("one");
  await clock.pass(LIMITS.node_lease_ms + 1_000);
  expect(one.ownership.owned).toEqual([]);
  expect(two.ownership.owned).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
});

test("a renewal that is never answered does not keep a node from losing its leases, nor from seeing who has them", async () => {
  const clock = new FakeClock();
  const leases = new SharedLeases(1, clock);
  const one = node(leases, "one", clock);
  await one.ownership.start();
  await clock.pass(LIMITS.node_lease_ms * 3);
  expect([one.ownership.isOwner(0), one.seen]).toEqual([true, ["claimed 0"]]);
  leases.away.add("one");
  await clock.pass(LIMITS.node_lease_ms + 1_500);
  expect([one.ownership.isOwner(0), one.seen]).toEqual([false, ["claimed 0", "lost 0"]]);
  const two = node(leases, "two", clock);
  await two.ownership.start();
  expect(two.ownership.isOwner(0)).toBe(true);
  leases.away.clear();
  await clock.pass(LIMITS.node_lease_ms + 1_000);
  expect([one.ownership.isOwner(0), one.ownership.urlOf(0)]).toEqual([false, "http://two"]);
});

test("a first start that takes longer than a lease keeps what it opens", async () => {
  const clock = new FakeClock();
  const leases = new SharedLeases(2, clock);
  const one = node(leases, "one", clock, () => clock.sleep(LIMITS.node_lease_ms * 3));
  const starting = one.ownership.start();
  await clock.pass(LIMITS.node_lease_ms * 3 + 1_000);
  await starting;
  expect(one.ownership.owned).toEqual([0, 1]);
  await clock.pass(1_000);
  expect(one.seen).toEqual(["claimed 0", "claimed 1"]);
});

test("what was lost while it was being opened does not stay open", async () => {
  const clock = new FakeClock();
  const leases = new SharedLeases(1, clock);
  let open: () => void = () => undefined;
  const one = node(leases, "one", clock, () => new Promise((resolve) => (open = resolve)));
  const starting = one.ownership.start();
  await clock.pass(100);
  one.ownership.lost(0);
  open();
  await starting;
  expect(one.seen).toEqual(["claimed 0", "lost 0", "left 0"]);
  expect(one.ownership.owned).toEqual([]);
});
