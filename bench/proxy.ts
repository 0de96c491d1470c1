// PROXY: what the LLM proxy adds to a call, with policy, reservation and journal on: one connection, and 32. Provider, proxy and
// client are processes of their own. Beside it the gateway of @portkey-ai, which passes calls on and does none of that.
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import path from "node:path";
import { Agent, request } from "undici";
import { remove, startUp, tempFolder, until } from "../test/support/processes.ts";
import { concurrently, cpuOfTree, percentile } from "./harness.ts";
import { installPeer } from "./peers.ts";

const CALLS = 2_000;
const WARM_CALLS = 20_000;
const PROVIDER = path.join(process.cwd(), "bench/provider.mjs");
const MANIFEST = (provider: string) => `
kind: Model
metadata: { name: m }
spec: { provider: openai-compatible, model: m-1, base_url: "${provider}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: allow, effect: allow, when: "run.steps < 100000 && cost < 1000000.0" }] }
---
kind: Budget
metadata: { name: all }
spec: { scope: project, period: month, limit_usd: "9000000" }
`;
type Row = Record<string, number | string>;

/** Where calls are sent, and whose CPU they cost. */
interface Subject {
  readonly name: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly pid: number;
  /** The peer answers 500 to this provider's stream, which OpenAI's own client reads. */
  readonly streams: boolean;
  close(): Promise<void>;
}

function ended(child: ChildProcess): Promise<void> {
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill("SIGTERM");
  return gone;
}

async function startProvider(): Promise<{ url: string; close(): Promise<void> }> {
  const child = spawn(process.execPath, [PROVIDER], { stdio: ["ignore", "pipe", "inherit"] });
  for await (const url of createInterface({ input: child.stdout })) return { url, close: () => ended(child) };
  throw new Error("the provider did not start");
}

async function ours(provider: string): Promise<Subject> {
  const data = tempFolder("qd-bench-proxy");
  const server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: provider });
  await server.client.apply(MANIFEST(provider));
  return {
    name: "quarterdeck",
    url: `${server.url}/proxy/openai/v1/chat/completions`,
    headers: {},
    pid: server.child.pid ?? 0,
    streams: true,
    close: async () => {
      await server.stop();
      remove(data);
    },
  };
}

function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  return new Promise((resolve) =>
    server.once("listening", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    }),
  );
}

async function portkey(provider: string): Promise<Subject> {
  const folder = installPeer("portkey");
  const script = path.join(folder, "node_modules/@portkey-ai/gateway/build/start-server.js");
  const port = await freePort();
  const child = spawn(process.execPath, [script, `--port=${port}`, "--headless"], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  await until("the peer answers", () => fetch(`http://127.0.0.1:${port}/`).catch(() => null));
  return {
    name: "@portkey-ai/gateway",
    url: `http://127.0.0.1:${port}/v1/chat/completions`,
    headers: { "x-portkey-provider": "openai", "x-portkey-custom-host": provider },
    pid: child.pid ?? 0,
    streams: false,
    close: () => ended(child),
  };
}

const agent = new Agent({ connections: 64 });

/** A run has a number of steps that it may not pass: so many calls are one session. */
const SESSION_CALLS = 1_000;
let asked = 0;

async function ask({ url, headers }: Pick<Subject, "url" | "headers">, stream: boolean): Promise<void> {
  const session = `s${Math.floor(asked++ / SESSION_CALLS)}`;
  const messages = [{ role: "user", content: "hello" }];
  const answer = await request(url, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: "Bearer x",
      "quarterdeck-session": session,
      ...headers,
    },
    body: JSON.stringify({ model: "m-1", messages, max_tokens: 100, stream }),
    dispatcher: agent,
  });
  const said = await answer.body.text();
  if (answer.statusCode !== 200 || !said.includes("word ")) throw new Error(`${answer.statusCode}: ${said}`);
}

async function p50(at: Pick<Subject, "url" | "headers">, stream: boolean): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < CALLS; i++) {
    const begun = performance.now();
    await ask(at, stream);
    if (i > CALLS / 4) times.push(performance.now() - begun);
  }
  return percentile(times, 0.5);
}

async function figuresOf(subject: Subject, direct: Pick<Subject, "url" | "headers">): Promise<Row> {
  const row: Row = { name: subject.name };
  // A server runs for days: its compiler has done its work. Both have had the same calls then, as far as both can answer them.
  await concurrently(WARM_CALLS, 32, () => ask(subject, false));
  if (subject.streams) await concurrently(WARM_CALLS / 4, 32, () => ask(subject, true));
  for (const stream of subject.streams ? [false, true] : [false]) {
    const [alone, through] = [await p50(direct, stream), await p50(subject, stream)];
    const what = stream ? "stream" : "json";
    row[`direct_${what}_p50_ms`] = Number(alone.toFixed(3));
    row[`added_${what}_p50_ms`] = Number((through - alone).toFixed(3));
  }
  await concurrently(WARM_CALLS / 4, 32, () => ask(subject, false));
  const cpu = cpuOfTree(subject.pid);
  const begun = performance.now();
  await concurrently(CALLS * 2, 32, () => ask(subject, false));
  row["calls_per_s_32"] = Math.round((CALLS * 2) / ((performance.now() - begun) / 1000));
  row["cpu_ms_per_call"] = Number((((cpuOfTree(subject.pid) - cpu) * 1000) / (CALLS * 2)).toFixed(3));
  return row;
}

export async function proxyFigures(): Promise<Row[]> {
  const provider = await startProvider();
  const direct = { url: `${provider.url}/chat/completions`, headers: {} };
  const rows: Row[] = [];
  try {
    for (const start of [ours, portkey]) {
      const subject = await start(provider.url);
      try {
        rows.push(await figuresOf(subject, direct));
      } finally {
        await subject.close();
      }
    }
  } finally {
    await agent.destroy();
    await provider.close();
  }
  return rows;
}
