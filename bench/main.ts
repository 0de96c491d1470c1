// quarterdeck bench W1|W2|W3|W4|W5|W6|W7|policy|replay|proxy|ingest|capture|dispatch [--peers restate,dbos,bullmq] [--passes 9] [--warmup 1] [--runs 500] [--events N] [--json]
// The first passes are discarded (one, or `--warmup`), then the median of the others; peers run the same workload in the same
// session: W1, W6 and W7 pass by pass in turns, the others one after the other. See bench/README.md.
import { parseArgs } from "node:util";
import { cpus } from "node:os";
import { Policy } from "../src/core/policy.ts";
import type { PolicyCall } from "../src/core/policy.ts";
import { concurrently, IN_FLIGHT, median, openOurs, percentile, STEPS } from "./harness.ts";
import { openPeer } from "./peers.ts";
import { captureFigures } from "./capture.ts";
import { dispatchFigures } from "./dispatch.ts";
import { ingestFigures } from "./ingest.ts";
import { proxyFigures } from "./proxy.ts";
import { replayFigures } from "./replay.ts";
import { w4 } from "./w4.ts";
import { waiting } from "./waiting.ts";
import { openCluster } from "./w6.ts";
import { openNodes } from "./w7.ts";

interface Subject {
  readonly name: string;
  run(workload: "w1" | "w2" | "w3"): Promise<void>;
  cpu(): number;
  close(): Promise<void>;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    peers: { type: "string", default: "" },
    passes: { type: "string", default: "9" },
    warmup: { type: "string", default: "1" },
    runs: { type: "string", default: "500" },
    events: { type: "string", default: "10000000" },
    json: { type: "boolean", default: false },
    nodes: { type: "string", default: "2" },
    groups: { type: "string", default: "8" },
  },
});
const workload = (positionals[0] ?? "W1").toUpperCase();
const passes = Number(values.passes);
const warmup = Number(values.warmup);
const runs = Number(values.runs);

type Row = Record<string, number | string>;

/** One subject's passes of W1. */
class Passes {
  private readonly subject: Subject;
  private readonly rates: number[] = [];
  private readonly cost: number[] = [];
  private readonly latencies: number[] = [];

  constructor(subject: Subject) {
    this.subject = subject;
  }

  async pass(counts: boolean): Promise<void> {
    const cpu = this.subject.cpu();
    const begun = performance.now();
    const times: number[] = [];
    await concurrently(runs, IN_FLIGHT, async () => {
      const at = performance.now();
      await this.subject.run("w1");
      times.push(performance.now() - at);
    });
    if (!counts) return;
    this.rates.push((runs * STEPS * 1000) / (performance.now() - begun));
    this.cost.push((this.subject.cpu() - cpu) / ((runs * STEPS) / 1000));
    this.latencies.push(...times);
  }

  get row(): Row {
    return {
      engine: this.subject.name,
      steps_per_s: Math.round(median(this.rates)),
      cpu_s_per_1000: Number(median(this.cost).toFixed(4)),
      run_p50_ms: Number(percentile(this.latencies, 0.5).toFixed(1)),
      run_p99_ms: Number(percentile(this.latencies, 0.99).toFixed(1)),
    };
  }
}

/** W1 of each subject, in turns: what else the machine does meets all alike. While one passes the others are idle. */
async function inTurns(subjects: readonly Subject[]): Promise<Row[]> {
  const all = subjects.map((subject) => new Passes(subject));
  for (const one of all) for (let pass = 0; pass < warmup; pass++) await one.pass(false);
  for (let pass = 0; pass < passes; pass++) for (const one of all) await one.pass(true);
  return all.map((one) => one.row);
}

/** W5: W1 on an empty journal, and again once the same work has filled it. Three events a step, one more at each end. */
async function flat(subject: Subject): Promise<Row> {
  const [empty = {}] = await inTurns([subject]);
  const events_per_run = STEPS * 3 + 2;
  let runs_done = (warmup + passes) * runs;
  const events = Number(values.events);
  while (runs_done * events_per_run < events) {
    await concurrently(10_000, IN_FLIGHT, () => subject.run("w1"));
    runs_done += 10_000;
  }
  const [full = {}] = await inTurns([subject]);
  return {
    engine: subject.name,
    events: runs_done * events_per_run,
    empty_steps_per_s: Number(empty["steps_per_s"]),
    full_steps_per_s: Number(full["steps_per_s"]),
    full_to_empty: Number((Number(full["steps_per_s"]) / Number(empty["steps_per_s"])).toFixed(3)),
    cpu_s_per_1000: Number(full["cpu_s_per_1000"]),
  };
}

async function timed(subject: Subject, name: "w2" | "w3", divisor: number): Promise<Row> {
  const times: number[] = [];
  for (let pass = 0; pass <= passes; pass++) {
    const begun = performance.now();
    await subject.run(name);
    if (pass > 0) times.push((performance.now() - begun) / divisor);
  }
  return {
    engine: subject.name,
    p50_ms: Number(median(times).toFixed(3)),
    max_ms: Number(Math.max(...times).toFixed(3)),
  };
}

function policyFigures(): Row {
  const rules = Array.from({ length: 100 }, (_, i) => ({
    id: `r${i}`,
    effect: i % 3 === 0 ? ("deny" as const) : ("allow" as const),
    match: { tools: ["bench.*"] },
    when: i === 98 ? "args.amount > 5" : `args.amount > ${1000 + i} && run.steps < 5000 && agent.name == "a${i}"`,
  }));
  const policy = new Policy({ policies: [{ name: "p", version: 1, rules }] });
  const call = (n: number): PolicyCall => ({
    kind: "tool",
    name: "bench.noop",
    effect_class: "read",
    idempotent: true,
    agent: "bench",
    env: "dev",
    project: "default",
    requester: "ada",
    args: { amount: 10 + (n % 7), city: "Rome" },
    labels: {},
    now_us: 1_700_000_000_000_000,
    run: { steps: n % 50, tool_calls: 1, model_calls: 1, tokens: 10, cost_micro_usd: 100 },
    call_micro_usd: 10,
  });
  const times: number[] = [];
  for (let n = 0; n < 60_000; n++) {
    const begun = performance.now();
    const { effect } = policy.decide(call(n));
    if (n >= 10_000) times.push((performance.now() - begun) * 1000);
    if (effect !== "allow") throw new Error("the benchmark's own policy denies");
  }
  return {
    engine: "quarterdeck",
    rules: 100,
    decision_p50_us: Number(percentile(times, 0.5).toFixed(1)),
    decision_p99_us: Number(percentile(times, 0.99).toFixed(1)),
  };
}

const WORK: Record<string, (subject: Subject) => Promise<Row>> = {
  W2: (s) => timed(s, "w2", 1_000),
  W3: (s) => timed(s, "w3", 1),
  W5: flat,
};

function ratios(ours: Row, peer: Row): Row {
  const out: Row = { engine: `quarterdeck / ${String(peer["engine"])}` };
  for (const key of Object.keys(ours)) {
    if (typeof ours[key] === "number" && typeof peer[key] === "number")
      out[key] = Number((ours[key] / peer[key]).toFixed(3));
  }
  return out;
}

const peerNames = values.peers.split(",").filter(Boolean);

/** Measures us, then each peer, each alone; and the ratios. */
async function besides(work: (subject: Subject) => Promise<Row>, ours: Subject): Promise<Row[]> {
  const first = await work(ours);
  await ours.close();
  const others: Row[] = [];
  for (const name of peerNames) {
    const peer = await openPeer(name);
    others.push(await work(peer));
    await peer.close();
  }
  return [first, ...others, ...others.map((peer) => ratios(first, peer))];
}

/** W1 of us and of the peers in turns; and the ratios. */
async function w1(ours: Subject): Promise<Row[]> {
  const peers: Subject[] = [];
  for (const name of peerNames) peers.push(await openPeer(name));
  const [first = {}, ...others] = await inTurns([ours, ...peers]);
  for (const subject of [ours, ...peers]) await subject.close();
  return [first, ...others, ...others.map((peer) => ratios(first, peer))];
}

async function main(): Promise<void> {
  const rows: Row[] = [];
  const work = WORK[workload];
  if (workload === "POLICY") rows.push(policyFigures());
  else if (workload === "W1") rows.push(...(await w1({ name: "quarterdeck", ...(await openOurs()) })));
  else if (workload === "W4") rows.push(await w4());
  else if (workload === "W6") rows.push(...(await w1(await openCluster())));
  else if (workload === "W7")
    rows.push(...(await w1(await openNodes({ nodes: Number(values.nodes), groups: Number(values.groups) }))));
  else if (workload === "REPLAY") rows.push(...(await replayFigures(passes)));
  else if (workload === "WAITING") rows.push(await waiting());
  else if (workload === "DISPATCH") rows.push(...(await dispatchFigures()));
  else if (workload === "CAPTURE") rows.push(...(await captureFigures()));
  else if (workload === "INGEST") rows.push(...(await ingestFigures(passes)));
  else if (workload === "PROXY") rows.push(...(await proxyFigures(passes)));
  else if (!work) throw new Error(`there is no workload ${workload}`);
  else rows.push(...(await besides(work, { name: "quarterdeck", ...(await openOurs()) })));
  const machine = `${cpus()[0]?.model ?? "?"}, ${cpus().length} cores, node ${process.version}`;
  if (values.json) console.log(JSON.stringify({ workload, machine, passes, warmup, runs, rows }, null, 2));
  else {
    console.log(`${workload} on ${machine}; ${passes} passes`);
    console.table(rows);
  }
}

await main();
process.exit(0);
