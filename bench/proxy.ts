// PROXY: what the LLM proxy adds to a call, with policy, reservation and journal on: one connection, and 32. Provider, proxy and
// client are processes of their own. Beside it the gateway of @portkey-ai, which passes calls on and does none of that.
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import path from "node:path";
import { remove, startUp, tempFolder, until } from "../test/support/processes.ts";
import { cpuOfTree, median, percentile } from "./harness.ts";
import { Connection, post } from "./load.ts";
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

/** A run has a number of steps that it may not pass: so many calls are one session. */
const SESSION_CALLS = 1_000;
let asked = 0;

type Target = Pick<Subject, "url" | "headers">;

async function ask(connection: Connection, { url, headers }: Target, stream: boolean): Promise<void> {
  const session = `s${Math.floor(asked++ / SESSION_CALLS)}`;
  const messages = [{ role: "user", content: "hello" }];
  const said = await connection.ask(
    post(
      new URL(url),
      { authorization: "Bearer x", "quarterdeck-session": session, ...headers },
      JSON.stringify({ model: "m-1", messages, max_tokens: 100, stream }),
    ),
  );
  if (!said.includes("HTTP/1.1 200") || !said.includes("word ")) throw new Error(said.toString("utf8"));
}

/** Makes n calls over so many connections. */
async function calls(n: number, width: number, at: Target, stream: boolean): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      const connection = new Connection(new URL(at.url));
      while (next++ < n) await ask(connection, at, stream);
      connection.close();
    }),
  );
}

async function p50(at: Target, stream: boolean): Promise<number> {
  const connection = new Connection(new URL(at.url));
  const times: number[] = [];
  for (let i = 0; i < CALLS; i++) {
    const begun = performance.now();
    await ask(connection, at, stream);
    if (i > CALLS / 4) times.push(performance.now() - begun);
  }
  connection.close();
  return percentile(times, 0.5);
}

/** One pass over a subject: direct and through it, one call after the other, then 32 at a time. */
async function pass(subject: Subject, direct: Target): Promise<Record<string, number>> {
  const figures: Record<string, number> = {};
  for (const stream of subject.streams ? [false, true] : [false]) {
    const [alone, through] = [await p50(direct, stream), await p50(subject, stream)];
    const what = stream ? "stream" : "json";
    figures[`direct_${what}_p50_ms`] = alone;
    figures[`added_${what}_p50_ms`] = through - alone;
  }
  await calls(CALLS, 32, subject, false);
  const cpu = cpuOfTree(subject.pid);
  const begun = performance.now();
  await calls(CALLS * 2, 32, subject, false);
  figures["calls_per_s_32"] = (CALLS * 2) / ((performance.now() - begun) / 1000);
  figures["cpu_ms_per_call"] = ((cpuOfTree(subject.pid) - cpu) * 1000) / (CALLS * 2);
  return figures;
}

/** A server runs for days: its compiler has done its work. All have had the same calls then, as far as they can answer them. */
async function warm(subject: Subject): Promise<void> {
  await calls(WARM_CALLS, 32, subject, false);
  if (subject.streams) await calls(WARM_CALLS / 4, 32, subject, true);
}

function rowOf(name: string, seen: readonly Record<string, number>[]): Row {
  const row: Row = { name };
  for (const key of Object.keys(seen[0] ?? {}))
    row[key] = Number(median(seen.map((figures) => figures[key] ?? 0)).toFixed(key.endsWith("_32") ? 0 : 3));
  return row;
}

export async function proxyFigures(passes: number): Promise<Row[]> {
  const provider = await startProvider();
  const direct = { url: `${provider.url}/chat/completions`, headers: {} };
  const subjects: Subject[] = [];
  try {
    for (const start of [ours, portkey]) subjects.push(await start(provider.url));
    for (const subject of subjects) await warm(subject);
    const seen = subjects.map((): Record<string, number>[] => []);
    for (let n = 0; n < passes; n++)
      for (const [i, subject] of subjects.entries()) seen[i]?.push(await pass(subject, direct));
    return subjects.map(({ name }, i) => rowOf(name, seen[i] ?? []));
  } finally {
    for (const subject of subjects) await subject.close();
    await provider.close();
  }
}
