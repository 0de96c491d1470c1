// CAPTURE: what capturing itself costs a program: time of a run with model calls of 200 ms, in pairs with and without; and CPU
// of the program per event.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { startCapture } from "../src/sdk/capture/index.ts";
import { remove, startUp, tempFolder } from "../test/support/processes.ts";

const PAIRS = 30;
const CALLS = 5;
const MODEL_MS = 200;
const EVENTS = 20_000;
type Row = Record<string, number | string>;

const QUESTION = "What is the status of the order, and when will it be delivered? ".repeat(20);
const ANSWER = JSON.stringify({
  id: "x",
  object: "chat.completion",
  model: "m-1",
  choices: [{ index: 0, message: { role: "assistant", content: "word ".repeat(100) }, finish_reason: "stop" }],
  usage: { prompt_tokens: 400, completion_tokens: 100, total_tokens: 500 },
});

/** Answers after 200 ms. */
async function startProvider(): Promise<{ url: string; close(): void }> {
  const server = createServer((req, res) => {
    req.resume();
    req.on("end", () => {
      setTimeout(() => {
        res.writeHead(200, { "content-type": "application/json" });
        res.end(ANSWER);
      }, MODEL_MS);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/v1/chat/completions`, close: () => server.closeAllConnections() };
}

/** One turn after the other: a model call and a tool call each. */
async function agent(url: string, ask: typeof fetch, tool: (n: number) => Promise<unknown>): Promise<void> {
  const messages = [{ role: "user", content: QUESTION }];
  for (let n = 0; n < CALLS; n++) {
    const body = JSON.stringify({ model: "m-1", messages });
    const answer = await ask(url, { method: "POST", headers: { "content-type": "application/json" }, body });
    const said = (await answer.json()) as { choices: { message: { content: string } }[] };
    messages.push({ role: "assistant", content: said.choices[0]?.message.content ?? "" });
    await tool(n);
  }
}

/** Mean and the half-width of its interval of 95 % (Student's t, 29 degrees of freedom). */
function interval(values: readonly number[]): { mean: number; half: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
  return { mean, half: 2.045 * Math.sqrt(variance / values.length) };
}

export async function captureFigures(): Promise<Row[]> {
  const data = tempFolder("qd-bench-capture");
  const spill = tempFolder("qd-bench-spill");
  const server = await startUp(data);
  const provider = await startProvider();
  const capture = startCapture({ url: server.url, agent: "bench", spill: `${spill}/kept` });
  const timed = async (work: () => Promise<unknown>): Promise<number> => {
    const begun = performance.now();
    await work();
    return performance.now() - begun;
  };
  const plain = () => timed(() => agent(provider.url, fetch, async (n) => ({ n })));
  const captured = () =>
    timed(() =>
      capture.run({ input: QUESTION }, (run) =>
        agent(provider.url, capture.fetch(), (n) => run.tool("t", { n }, () => ({ n }))),
      ),
    );
  await plain();
  await captured();
  const overheads: number[] = [];
  for (let pair = 0; pair < PAIRS; pair++) {
    // Which goes first changes, so that neither has the warmer machine.
    const [a, b] = pair % 2 === 0 ? [await plain(), await captured()] : [await captured(), await plain()];
    const [alone, with_] = pair % 2 === 0 ? [a, b] : [b, a];
    overheads.push(((with_ - alone) / alone) * 100);
  }
  const { mean, half } = interval(overheads);
  const cpu = process.cpuUsage();
  await capture.run({ input: QUESTION }, async (run) => {
    for (let n = 0; n < EVENTS / 2; n++) {
      await run.tool("orders.get", { order_id: `W${n}`, reason: QUESTION.slice(0, 200) }, () => ({
        status: "delivered",
        n,
      }));
      // As agents do, it waits now and then.
      if (n % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
  });
  await capture.flush(60_000);
  const { user, system } = process.cpuUsage(cpu);
  const figures = capture.figures;
  await capture.close();
  await server.stop();
  provider.close();
  remove(data);
  remove(spill);
  if (figures.lost > 0 || figures.acknowledged < figures.recorded) throw new Error(JSON.stringify(figures));
  return [
    {
      what: `${CALLS} model calls of ${MODEL_MS} ms, ${PAIRS} pairs`,
      overhead_percent: Number(mean.toFixed(2)),
      interval_95: `± ${half.toFixed(2)}`,
    },
    {
      what: `${EVENTS} events, sent and acknowledged`,
      host_cpu_us_per_event: Number(((user + system) / EVENTS).toFixed(1)),
    },
  ];
}
