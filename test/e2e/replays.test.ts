// Replay, fork and diff with the built program: a real agent loop over a model on the wire and a real HTTP tool.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RunDiff } from "../../src/contract/diff.ts";
import type { ReplaySession } from "../../src/contract/replay.ts";
import type { Run } from "../../src/contract/runs.ts";
import { cli, remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

let ledger: Ledger;
let model: ScriptedModel;
let data: string;
let server: Running;
let run_id: string;

const MANIFESTS = () => `
kind: Model
metadata: { name: large }
spec: { provider: openai-compatible, model: large-1, base_url: "${model.url}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Model
metadata: { name: small }
spec: { provider: openai-compatible, model: small-1, base_url: "${model.url}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object, properties: { amount: { type: integer } } } }
---
kind: Agent
metadata: { name: clerk }
spec: { model: large, instructions: You pay invoices., tools: [pay] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow }] }
`;

beforeAll(async () => {
  ledger = await startLedger(0);
  model = await startScriptedModel(({ messages, model: name }) => {
    if (messages.some((message) => message.role === "tool")) return { content: `${name} has paid.` };
    const polite = JSON.stringify(messages[0]).includes("half");
    return { call: { name: "pay", args: { amount: polite ? 20 : 40 } } };
  });
  data = tempFolder("qd-replay");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: `${ledger.url},${model.url}` });
  await server.client.apply(MANIFESTS());
  const run = await server.client.startRun({ agent: "clerk", input: "Pay the lamp." });
  run_id = run.run_id;
  await until("the run ends", async () => (await server.client.getRun(run_id)).state === "succeeded");
});
afterAll(async () => {
  await server.stop();
  ledger.stop();
  await model.close().catch(() => undefined);
  remove(data);
});

const payments = async () => Object.keys((await ledger.counts()).once).length;
const post = <T>(route: string, body: unknown, headers: Record<string, string> = {}) =>
  server.client.json<T>(route, { method: "POST", body, headers });
const qd = (...args: string[]) => cli(args, { data });

describe("replay and fork over HTTP and on the command line", () => {
  test("an exact replay makes no call and pays nothing; the same key makes one replay", async () => {
    const before = [await payments(), model.requests.length];
    const key = { "idempotency-key": "once" };
    const first = await post<ReplaySession>("/replays", { run_id, mode: "exact" }, key);
    expect(first).toMatchObject({ state: "completed_exact", steps: { exact: 3, live: 0 } });
    expect(await post<ReplaySession>("/replays", { run_id, mode: "exact" }, key)).toMatchObject({
      replay_id: first.replay_id,
    });
    expect([await payments(), model.requests.length]).toEqual(before);
    expect(await server.client.getRun(first.replay_id)).toMatchObject({
      kind: "replay",
      state: "succeeded",
      source_run_id: run_id,
      cost_micro_usd: 0,
    });
    expect(await post<RunDiff>("/diffs", { a: run_id, b: first.replay_id })).toMatchObject({ equal: true });
  });

  test("replay, fork and diff on the command line, with their exit codes", async () => {
    const exact = await qd("replay", run_id);
    expect([exact.code, exact.out]).toEqual([0, expect.stringContaining("completed_exact")]);
    const cached = await qd("replay", run_id, "--mode", "cached", "--json");
    expect(JSON.parse(cached.out)).toMatchObject({ state: "completed_cached", steps: { cached: 3 } });

    const paid = await payments();
    const stopped = await qd("fork", run_id, "--step", "1", "--instructions", "You pay half of invoices.");
    expect([stopped.code, stopped.out]).toEqual([1, expect.stringContaining("nothing was recorded for this call")]);
    const fork = [
      "fork",
      run_id,
      "--step",
      "1",
      "--instructions",
      "You pay half of invoices.",
      "--simulate",
      'pay={"n":1}',
    ];
    const done = await qd(...fork, "--json");
    expect(done.code).toBe(0);
    const session = JSON.parse(done.out) as ReplaySession;
    expect(session).toMatchObject({ state: "completed_mixed", steps: { live: 2, simulated: 1 } });
    expect((await qd(...fork, "--strict")).code).toBe(5);
    expect(await payments()).toBe(paid);

    const diff = await qd("diff", run_id, session.replay_id);
    expect(diff.out).toContain("cause  prompt");
    expect(diff.out).toContain("You pay half of invoices.");
    expect((await qd("diff", run_id, session.replay_id, "--exit-code")).code).toBe(1);
    expect((await qd("diff", run_id, run_id, "--exit-code")).code).toBe(0);
    expect((await qd("replays", session.replay_id)).out).toContain("completed_mixed");

    const file = path.join(data, "half.txt");
    writeFileSync(file, "You pay half of invoices.");
    const fromFile = await qd(
      "fork",
      run_id,
      "--step",
      "1",
      "--instructions-file",
      file,
      "--otherwise",
      "stop",
      "--json",
    );
    expect(JSON.parse(fromFile.out)).toMatchObject({
      state: "failed_execution",
      reason: "signature_mismatch",
      mismatch: { paths: ["/request/messages/0/content"] },
    });

    expect((await qd("fork", run_id, "--step", "99")).code).toBe(2);
    expect((await qd("replay", "run_01h455vb4pex5vsknk084sn02q")).code).toBe(4);
    expect((await qd("fork", run_id, "--step", "1", "--simulate", "nothing")).code).toBe(2);
  });

  test("another model is called live under policy and budget, and the fork pays for itself", async () => {
    const session = await post<ReplaySession>(`/runs/${run_id}/fork`, { step: 3, overrides: { model: "small" } });
    const ended = await until("the fork ends", async () => {
      const run = await server.client.getRun(session.replay_id);
      return run.state === "succeeded" ? run : null;
    });
    expect(ended).toMatchObject({ kind: "fork", source_run_id: run_id, steps: 3 });
    expect(ended.cost_micro_usd).toBeGreaterThan(0);
    expect(model.requests.at(-1)?.model).toBe("small-1");
    const diff = await post<RunDiff>("/diffs", { a: run_id, b: session.replay_id });
    expect(diff).toMatchObject({
      aligned: 4,
      changed: 1,
      attribution: { primary: { cause: "model" }, confidence: "high" },
    });
  });

  test("all of it is in the journal: it verifies, survives a restart, and the list shows where runs come from", async () => {
    await server.kill();
    server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: `${ledger.url},${model.url}` });
    expect(await post("/journal/verify", {})).toMatchObject({ ok: true, faults: [] });
    const { items } = await server.client.json<{ items: Run[] }>("/runs?kind=fork");
    expect(items.length).toBeGreaterThan(0);
    for (const fork of items) {
      expect(fork.source_run_id).toBe(run_id);
      expect(await server.client.json(`/replays/${fork.run_id}`)).toMatchObject({ source_run_id: run_id });
    }
    const again = await post<ReplaySession>("/replays", { run_id: items[0]?.run_id, mode: "exact" });
    expect(again.state).toBe("completed_exact");
  });

  test("a bundle is a regression test: offline, with assertions, JUnit and exit codes; one flipped byte is refused", async () => {
    const bundle = path.join(data, "run.jsonl");
    expect((await qd("export", run_id, "-o", bundle)).code).toBe(0);
    const offline = (...args: string[]) => cli(["test", ...args], { env: { QUARTERDECK_URL: "http://127.0.0.1:9" } });
    const junit = path.join(data, "junit.xml");
    const ok = await offline(
      bundle,
      "--expect",
      'output.contains("has paid") && tools == ["pay"]',
      "--max-cost",
      "1",
      "--junit",
      junit,
    );
    expect([ok.code, ok.out]).toEqual([0, expect.stringContaining(run_id)]);
    expect(readFileSync(junit, "utf8")).toContain('tests="1" failures="0"');
    const wrong = await offline(bundle, "--expect", 'output.contains("refused")', "--junit", junit);
    expect([wrong.code, wrong.out]).toEqual([1, expect.stringContaining("not true")]);
    expect(readFileSync(junit, "utf8")).toContain("<failure");
    expect((await offline(bundle, "--max-cost", "0.000001")).code).toBe(1);
    const policy = path.join(data, "draft.yaml");
    writeFileSync(
      policy,
      "kind: Policy\nmetadata: { name: main }\nspec: { rules: [{ id: m, effect: allow, match: { kinds: [model] } }] }\n",
    );
    expect((await offline(bundle, "--policy", policy)).out).toContain("pay was allowed and would be deny");
    const flipped = path.join(data, "flipped.jsonl");
    writeFileSync(flipped, readFileSync(bundle, "utf8").replace("has paid", "has laid"));
    const refused = await offline(flipped);
    expect([refused.code, refused.err]).toEqual([2, expect.stringMatching(/line \d+/)]);
    const backtest = await qd("policy", "backtest", policy, "--run", run_id, "--fail-on-flip");
    expect([backtest.code, backtest.out]).toEqual([1, expect.stringContaining("allow -> deny")]);
  });

  test("a run that was moved to an empty server replays exactly there, and its forks too", async () => {
    const all = path.join(data, "all.jsonl");
    expect((await qd("export", "--all", "-o", all)).code).toBe(0);
    const elsewhere = tempFolder("qd-replay-2");
    const other = await startUp(elsewhere);
    try {
      expect((await cli(["import", all], { data: elsewhere })).code).toBe(0);
      const start = (id: string) =>
        other.client.json<ReplaySession>("/replays", { method: "POST", body: { run_id: id, mode: "exact" } });
      expect(await start(run_id)).toMatchObject({ state: "completed_exact", steps: { exact: 3 } });
      const { items } = await server.client.json<{ items: Run[] }>("/runs?kind=fork");
      for (const fork of items) expect(await start(fork.run_id)).toMatchObject({ state: "completed_exact" });
    } finally {
      await other.stop();
      remove(elsewhere);
    }
  });

  test("what cannot be is refused with its reason", async () => {
    await expect(post(`/runs/${run_id}/fork`, { step: 99 })).rejects.toMatchObject({
      code: "REPLAY_REFUSED",
      details: { reason: "fork_point_not_found" },
    });
    await expect(post(`/runs/${run_id}/fork`, { step: 1, overrides: { model: "none" } })).rejects.toMatchObject({
      details: { reason: "override_not_applicable" },
    });
    await expect(post("/replays", { run_id, mode: "backwards" })).rejects.toMatchObject({
      code: "VALIDATION_ERROR",
      errors: [{ pointer: "/mode", message: 'is "backwards"; it must be one of exact, cached, simulated, live' }],
    });
    await expect(post("/diffs", { a: run_id, b: "run_01h455vb4pex5vsknk084sn02q" })).rejects.toMatchObject({
      code: "NOT_FOUND",
    });
  });
});
