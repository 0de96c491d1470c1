// PROXY: what the LLM proxy adds to a call, with policy, reservation and journal on: one connection, and 32.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Agent, request } from "undici";
import { systemClock } from "../src/adapters/system/system.ts";
import { loadConfig } from "../src/server/config.ts";
import { createLog } from "../src/server/log.ts";
import { startServer } from "../src/server/start.ts";
import { remove, tempFolder } from "../test/support/processes.ts";
import { concurrently, cpuOfTree, percentile } from "./harness.ts";

const CHUNKS = 50;
const CALLS = 2_000;
type Row = Record<string, number | string>;

const USAGE = { prompt_tokens: 20, completion_tokens: 10, total_tokens: 30 };
const WHOLE = JSON.stringify({
  id: "x",
  object: "chat.completion",
  model: "m-1",
  choices: [{ index: 0, message: { role: "assistant", content: "word ".repeat(CHUNKS) }, finish_reason: "stop" }],
  usage: USAGE,
});
const part = (choices: object[], usage: object | null) =>
  `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", model: "m-1", choices, usage })}\n\n`;
const STREAM = [
  ...Array.from({ length: CHUNKS }, () => part([{ index: 0, delta: { content: "word " }, finish_reason: null }], null)),
  part([{ index: 0, delta: {}, finish_reason: "stop" }], null),
  part([], USAGE),
  "data: [DONE]\n\n",
];

/** A provider that answers at once. */
async function startProvider(): Promise<{ url: string; close(): void }> {
  const server = createServer((req, res) => {
    let text = "";
    req.on("data", (chunk: Buffer) => (text += chunk.toString()));
    req.on("end", () => {
      if (!text.includes('"stream":true')) {
        res.writeHead(200, { "content-type": "application/json" });
        return void res.end(WHOLE);
      }
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (const chunk of STREAM) res.write(chunk);
      res.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => server.closeAllConnections() };
}

export async function proxyFigures(): Promise<Row[]> {
  const data = tempFolder("qd-bench-proxy");
  const provider = await startProvider();
  const log = createLog(systemClock, (line) => process.stderr.write(`${line}\n`));
  const config = loadConfig({ data, port: 0, private_origins: [provider.url] }, {});
  const server = await startServer({ config, log });
  const { services } = server;
  const caller = { tenant_id: services.tenant_id, project: services.project, principal: "bench" };
  const text = `
kind: Model
metadata: { name: m }
spec: { provider: openai-compatible, model: m-1, base_url: "${provider.url}", prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: allow, effect: allow, when: "run.steps < 100000 && cost < 1000000.0" }] }
---
kind: Budget
metadata: { name: all }
spec: { scope: project, period: month, limit_usd: "9000000" }
`;
  await services.registry.apply({ ...caller, text });
  const agent = new Agent({ connections: 64 });
  const ask = async (url: string, stream: boolean): Promise<void> => {
    const body = JSON.stringify({
      model: "m-1",
      messages: [{ role: "user", content: "hello" }],
      max_tokens: 100,
      stream,
    });
    const headers = { "content-type": "application/json", authorization: "Bearer x" };
    const answer = await request(url, { method: "POST", headers, body, dispatcher: agent });
    const said = await answer.body.text();
    if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${said}`);
  };
  const direct = `${provider.url}/chat/completions`;
  const proxied = `${server.url}/proxy/openai/v1/chat/completions`;
  const rows: Row[] = [];
  for (const stream of [false, true]) {
    const p50 = async (url: string): Promise<number> => {
      const times: number[] = [];
      for (let i = 0; i < CALLS; i++) {
        const begun = performance.now();
        await ask(url, stream);
        if (i > CALLS / 4) times.push(performance.now() - begun);
      }
      return percentile(times, 0.5);
    };
    const [alone, through] = [await p50(direct), await p50(proxied)];
    rows.push({
      what: stream ? `stream of ${CHUNKS} chunks, one connection` : "JSON, one connection",
      direct_p50_ms: Number(alone.toFixed(3)),
      proxied_p50_ms: Number(through.toFixed(3)),
      added_p50_ms: Number((through - alone).toFixed(3)),
    });
  }
  const cpu = cpuOfTree(process.pid);
  const begun = performance.now();
  await concurrently(CALLS * 2, 32, () => ask(proxied, false));
  const seconds = (performance.now() - begun) / 1000;
  rows.push({
    what: "JSON, 32 connections",
    calls_per_s: Math.round((CALLS * 2) / seconds),
    // Client and provider are in this process too.
    cpu_ms_per_call: Number((((cpuOfTree(process.pid) - cpu) * 1000) / (CALLS * 2)).toFixed(3)),
  });
  await agent.close();
  await server.close();
  provider.close();
  remove(data);
  return rows;
}
