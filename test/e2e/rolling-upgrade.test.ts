// Two versions of the program side by side on one database: a node of the next version joins while the old ones serve, takes
// runs over from them one by one, and nothing that was acknowledged is lost on the way. The next version is this one with a
// migration and a journal level of its own.
import { cpSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { JOURNAL_LEVEL } from "../../src/contract/journal.ts";
import type { Run } from "../../src/contract/runs.ts";
import { ALLOW_ALL, basicTools } from "../support/manifests.ts";
import { Pair } from "../support/pair.ts";
import { remove, ROOT, startLedger, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";

const NEXT_VERSION = "99.0.0";
const BETWEEN_MS = 25;
let ledger: Ledger;
let pair: Pair;
let next: string;

const MANIFESTS = () => `${basicTools(ledger.url)}
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: nap, args: { ms: 5 } }, { id: c, tool: noop }] }
---
kind: Workflow
metadata: { name: long }
spec: { steps: [{ id: a, wait_ms: 8000 }, { id: b, tool: pay }, { id: c, tool: noop }] }
---${ALLOW_ALL}`;

/** The next version, in a folder of its own. */
function nextVersion(): string {
  const folder = tempFolder("qd-next");
  for (const part of ["dist", "migrations"])
    cpSync(path.join(ROOT, part), path.join(folder, part), { recursive: true });
  symlinkSync(path.join(ROOT, "node_modules"), path.join(folder, "node_modules"));
  const about = JSON.parse(readFileSync(path.join(ROOT, "package.json"), "utf8")) as Record<string, unknown>;
  writeFileSync(path.join(folder, "package.json"), JSON.stringify({ ...about, version: NEXT_VERSION }));
  const number = String(readdirSync(path.join(folder, "migrations")).length + 1).padStart(4, "0");
  writeFileSync(path.join(folder, `migrations/${number}_next.sql`), "alter table qd.runs add column later text;\n");
  const file = path.join(folder, "dist/contract/journal.js");
  const text = readFileSync(file, "utf8");
  const changed = text.replace(`JOURNAL_LEVEL = ${JOURNAL_LEVEL};`, `JOURNAL_LEVEL = ${JOURNAL_LEVEL + 1};`);
  expect(changed).not.toBe(text);
  writeFileSync(file, changed);
  return path.join(folder, "dist/cli/main.js");
}

beforeAll(async () => {
  ledger = await startLedger(20);
  pair = await Pair.open({ QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
  next = nextVersion();
});
afterAll(async () => {
  ledger.stop();
  await pair.close();
});

const begin = (at: Running, workflow: string) =>
  at.client.json<Run>("/runs", { method: "POST", body: { workflow, input: null } });

test("old nodes are replaced one by one under load: every run ends, each effect happens once, and there is no way back", async () => {
  await pair.start();
  const { first, second } = pair;
  await first.client.apply(MANIFESTS());
  await pair.evenly();
  const token = await mint(first, "till", ["money"]);
  const folder = tempFolder("qd-till");
  const env = { QUARTERDECK_PRIVATE_ORIGINS: ledger.url };
  let targets = [first, second];
  const runs: string[] = [];
  let isOn = true;
  const load = (async () => {
    for (let n = 0; isOn; n++) {
      const at = targets[n % targets.length] as Running;
      runs.push((await begin(at, n % 10 === 0 ? "long" : "quick")).run_id);
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
    }
  })();
  const third = await pair.node({}, next);
  const worker = await startWorker(folder, {
    control: `${first.url},${second.url},${third.url}`,
    token,
    args: ["--labels", "money"],
    env,
  });
  await until("the next version owns runs", async () =>
    (await pair.shards(third)).some(({ url }) => url === third.url),
  );
  // As whoever balances the load does: first nothing new is sent there, then it is told to end.
  targets = [second, third];
  await first.stop();
  expect(first.child.exitCode).toBe(0);
  const fourth = await pair.node({}, next);
  targets = [third, fourth];
  await second.stop();
  expect(second.child.exitCode).toBe(0);
  await until("the new ones own all of it", async () =>
    (await pair.shards(third)).every(({ url }) => [third.url, fourth.url].includes(url)),
  );
  isOn = false;
  await load;
  expect(runs.length).toBeGreaterThan(50);
  const long = await begin(third, "long");
  for (const run_id of [...runs, long.run_id])
    await until(`run ${run_id} has succeeded`, async () => (await third.client.getRun(run_id)).state === "succeeded");
  const paid = Object.values((await ledger.counts()).once);
  expect(paid.length).toBe(runs.filter((_run, n) => n % 10 === 0).length + 1);
  expect(new Set(paid)).toEqual(new Set([1]));
  expect(await third.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
  await expect(pair.node()).rejects.toThrow(/newer version of the program/);
  expect(await worker.stop()).toBe(0);
  for (const node of [third, fourth]) await node.stop();
  remove(folder);
});
