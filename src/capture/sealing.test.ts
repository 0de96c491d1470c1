// Seals of captured runs, and proofs of single events, over the in-memory journal.
import { beforeEach, expect, test } from "vitest";
import { CaptureWorld } from "../../test/support/capture-world.ts";
import { freshRun, silent, TENANT } from "../../test/support/engine.ts";
import { remove, tempFolder } from "../../test/support/processes.ts";
import { loadSigner } from "../adapters/files/keys.ts";
import { isAppError } from "../contract/errors.ts";
import { isTerminal } from "../contract/events.ts";
import type { IngestAnswer } from "../contract/ingest.ts";
import { LIMITS } from "../contract/limits.ts";
import { bodyLines } from "../core/chain.ts";
import { eventLeaf, sealText } from "../core/seal.ts";
import { proofFault, proveEvent, sealOf } from "../journal/event-proof.ts";
import { verifyRun } from "../journal/verify.ts";
import { merkleRoot } from "../kit/merkle.ts";
import { Turn } from "../kit/turn.ts";
import { Sealing } from "./sealing.ts";

let world: CaptureWorld;
beforeEach(async () => void (world = await new CaptureWorld().open()));

const numbered = (events: readonly object[]) => events.map((event, i) => ({ sequence_no: 1 + i, ...event }));
const send = (run_id: string, events: readonly object[], producer_id = "prd_1") =>
  world.ingest.add(world.caller, run_id, { producer_id, events: [...events] });
const statuses = (answer: IngestAnswer) => answer.items.map((item) => item.error?.code ?? item.status);
const CALLS = [
  { type: "run.started", data: { agent: "helper", input: "hello" } },
  { type: "tool.requested", step_id: "t1", data: { tool: "search", args: { q: "x" } } },
  { type: "tool.completed", step_id: "t1", data: { result: "found" } },
  { type: "run.succeeded", data: { output: "done" } },
];

const signed: string[] = [];
const orderOf = ({ updated_at_us, run_id }: { updated_at_us: number; run_id: string }) => `${updated_at_us} ${run_id}`;
const sealingOf = () =>
  new Sealing({
    owner: () => world.engine,
    store: world.store,
    signer: {
      key_id: "ed25519:test",
      sign: (bytes) => (signed.push(Buffer.from(bytes).toString()), Buffer.from("s")),
    },
    unsealed: async ({ after, before_us, limit }) =>
      [...world.store.runs.values()]
        .filter((run) => isTerminal(run.state) && !run.sealed && run.updated_at_us < before_us)
        .sort((a, b) => (orderOf(a) < orderOf(b) ? -1 : 1))
        .filter((run) => after === null || orderOf(run) > orderOf(after))
        .slice(0, limit),
    seal_after_ms: LIMITS.seal_after_ms,
    clock: world.clock,
    turn: new Turn(world.clock, 1),
    log: silent,
  });

test("a run is sealed when nothing can come late any more, with the root over all its events; what may follow follows", async () => {
  const sealing = sealingOf();
  const run_id = freshRun();
  await send(run_id, numbered(CALLS));
  expect(await sealing.look([0])).toBe(0);
  await expect(sealing.seal({ tenant_id: TENANT, run_id })).rejects.toMatchObject({ code: "CONFLICT" });
  await world.clock.pass(LIMITS.seal_after_ms + 1);
  expect(await sealing.look([0])).toBe(1);
  expect(await sealing.look([0])).toBe(0);
  expect(await world.types(run_id)).toEqual([...CALLS.map(({ type }) => type), "run.sealed"]);
  expect(world.store.runs.get(run_id)).toMatchObject({ sealed: true, state: "succeeded" });
  expect(signed.at(-1)).toContain(`"last_seq":${CALLS.length}`);
  const late = { type: "step.started", step_id: "x", data: { name: "x" } };
  const words = { type: "human.feedback", data: { value: 1 } };
  expect(statuses(await send(run_id, numbered([late, words]), "other"))).toEqual(["RUN_SEALED", "committed"]);
  await sealing.seal({ tenant_id: TENANT, run_id });
  expect((await world.types(run_id)).filter((type) => type === "run.sealed")).toHaveLength(1);
  expect(verifyRun(await world.store.readRun(TENANT, run_id, 1, 1_000))).toMatchObject({ events: CALLS.length + 3 });
  // Also for the process after this one.
  await world.open();
  expect(statuses(await send(run_id, [{ sequence_no: 3, ...late }], "other"))).toEqual(["RUN_SEALED"]);
});

test("one event is proven by itself; a changed proof, or one under another key, is not", async () => {
  const run_id = freshRun();
  await send(run_id, numbered(CALLS));
  await world.clock.pass(LIMITS.seal_after_ms + 1);
  const folder = tempFolder("qd-seal");
  const signer = await loadSigner(folder);
  const place = { tenant_id: TENANT, run_id };
  const leaves = (await world.store.readRun(TENANT, run_id, 1, 1_000)).flatMap((row) => bodyLines(row.body));
  const root = merkleRoot(leaves.map(eventLeaf)).toString("hex");
  const unsigned = { key_id: signer.key_id, last_seq: leaves.length, root };
  const seal = { ...unsigned, signature: signer.sign(sealText(place, unsigned)).toString("hex") };
  await world.engine.ingest(TENANT, run_id, { type: "seal", seal });
  const rows = await world.store.readRun(TENANT, run_id, 1, 1_000);
  expect(sealOf(rows)).toEqual(seal);
  for (let seq = 1; seq <= leaves.length; seq++) {
    const proof = proveEvent(rows, seal, seq, signer.public_key);
    expect(proofFault(proof)).toBeNull();
    expect(proofFault({ ...proof, event: proof.event.replace('"seq"', '"Seq"') })).toMatch("does not lead");
    expect(proofFault({ ...proof, seq: seq + 1 })).not.toBeNull();
    expect(proofFault({ ...proof, run_id: freshRun() })).toMatch("not signed");
    expect(proofFault({ ...proof, seal: { ...seal, last_seq: seal.last_seq + 1 } })).toMatch("not signed");
    expect(proofFault({ ...proof, path: proof.path.slice(1) })).toMatch("does not lead");
    const other = await loadSigner(`${folder}/other`);
    expect(proofFault({ ...proof, public_key: other.public_key })).toMatch("the key is not");
  }
  expect(() => proveEvent(rows, seal, leaves.length + 1, signer.public_key)).toThrow("not under its seal");
  // A seal of other events than those before it does not verify.
  const forged = rows.map((row) => ({
    ...row,
    body: Buffer.from(row.body.toString().replace(root, "0".repeat(64))),
  }));
  expect(verifyRun(forged)).toMatchObject({ fault: expect.any(String) });
  remove(folder);
});

test("what is said of an ended run while it is sealed: both are recorded, or one gives way to the other", async () => {
  for (let i = 0; i < 20; i++) {
    const run_id = freshRun();
    await send(run_id, numbered(CALLS));
    await world.clock.pass(LIMITS.seal_after_ms + 1);
    const words = { type: "human.feedback", data: { value: i } };
    const seal = sealingOf()
      .seal({ tenant_id: TENANT, run_id })
      .catch((error: unknown) => error);
    const actor = { id: "ada", kind: "user" as const };
    const [said] = await Promise.all([
      send(run_id, numbered([words]), "other"),
      seal,
      world.engine.ingest(TENANT, run_id, { type: "override", reason: "why not", actor }),
    ]);
    expect(statuses(said)).toEqual(["committed"]);
    const list = await world.types(run_id);
    expect(list.slice(0, CALLS.length)).toEqual(CALLS.map(({ type }) => type));
    expect(
      list
        .slice(CALLS.length)
        .filter((type) => type !== "run.sealed")
        .sort(),
    ).toEqual(["human.feedback", "privacy.overridden"]);
    expect(verifyRun(await world.store.readRun(TENANT, run_id, 1, 1_000))).toMatchObject({ events: list.length });
  }
});

test("a run is amended when it is over, and neither its end nor its seal change by that", async () => {
  const run_id = freshRun();
  const actor = { id: "ada", kind: "user" as const };
  const amend = (about: number | null) =>
    world.engine.ingest(TENANT, run_id, { type: "amend", note: "It was another one.", about, actor });
  await send(run_id, numbered(CALLS.slice(0, -1)));
  await expect(amend(null)).rejects.toSatisfy((error) => isAppError(error, "CONFLICT"));
  await send(run_id, numbered(CALLS).slice(-1));
  await amend(2);
  await world.clock.pass(LIMITS.seal_after_ms + 1);
  await sealingOf().seal({ tenant_id: TENANT, run_id });
  await amend(null);
  await expect(amend(99)).rejects.toSatisfy((error) => isAppError(error, "NOT_FOUND"));
  const types = await world.types(run_id);
  expect(types.slice(CALLS.length)).toEqual(["journal.amended", "run.sealed", "journal.amended"]);
  expect(world.store.runs.get(run_id)).toMatchObject({ state: "succeeded", sealed: true });
  expect(verifyRun(await world.store.readRun(TENANT, run_id, 1, 1_000))).toMatchObject({ events: types.length });
});

test("a run that cannot be sealed holds up no other, however many there are", async () => {
  const ids = Array.from({ length: LIMITS.seals_at_once_max + 20 }, () => freshRun());
  for (const run_id of ids) await send(run_id, numbered(CALLS));
  await world.clock.pass(LIMITS.seal_after_ms + 1);
  const [broken = ""] = ids;
  const ingest = world.engine.ingest.bind(world.engine);
  world.engine.ingest = (tenant_id, run_id, ...rest) =>
    run_id === broken ? Promise.reject(new Error("its journal is damaged")) : ingest(tenant_id, run_id, ...rest);
  expect(await sealingOf().look([0])).toBe(ids.length - 1);
  expect(await sealingOf().look([0])).toBe(0);
  expect([...world.store.runs.values()].filter((run) => !run.sealed).map((run) => run.run_id)).toEqual([broken]);
});

test("a look that gives up after many failures in a row is followed by one that begins behind them", async () => {
  const ids = Array.from({ length: 170 }, () => freshRun());
  for (const run_id of ids) await send(run_id, numbered(CALLS));
  await world.clock.pass(LIMITS.seal_after_ms + 1);
  const unsealed = () => [...world.store.runs.values()].filter((run) => !run.sealed);
  const broken = new Set(
    [...unsealed()]
      .sort((a, b) => (orderOf(a) < orderOf(b) ? -1 : 1))
      .slice(0, 120)
      .map((run) => run.run_id),
  );
  const ingest = world.engine.ingest.bind(world.engine);
  world.engine.ingest = (tenant_id, run_id, ...rest) =>
    broken.has(run_id) ? Promise.reject(new Error("its journal is damaged")) : ingest(tenant_id, run_id, ...rest);
  const sealing = sealingOf();
  const sealed: number[] = [];
  for (let look = 0; look < 3; look++) sealed.push(await sealing.look([0]));
  expect(sealed).toEqual([0, 0, 50]);
  expect(new Set(unsealed().map((run) => run.run_id))).toEqual(broken);
  // It begins again from the front, for what could be sealed by now.
  broken.clear();
  await sealing.look([0]);
  expect(unsealed()).toEqual([]);
});

test("what the database refuses of an ended run changes nothing of its end", async () => {
  const run_id = freshRun();
  await send(run_id, numbered(CALLS));
  world.store.fault = async () => {
    world.store.fault = async () => "none";
    return "reject";
  };
  const words = { type: "human.feedback", data: { value: 1 } };
  await expect(send(run_id, numbered([words]), "other")).rejects.toThrow();
  expect(statuses(await send(run_id, numbered([words]), "other"))).toEqual(["committed"]);
  expect(await world.types(run_id)).toEqual([...CALLS.map(({ type }) => type), "human.feedback"]);
});
