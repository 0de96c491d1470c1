// A node that does something long for one person goes on serving the others: no piece of it keeps them waiting for the whole.
import { afterAll, beforeAll, expect, test } from "vitest";
import { remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

const STEPS = 20_000;
let data: string;
let server: Running;
let runs: string[];

function transcript(changed: (i: number) => boolean): string {
  const messages: object[] = [{ role: "user", content: "go" }];
  for (let i = 0; i < STEPS / 2; i++) {
    const call = { id: `c${i}`, type: "function", function: { name: `tool_${i % 7}`, arguments: `{"i":${i}}` } };
    messages.push({ role: "assistant", content: null, tool_calls: [call] });
    messages.push({ role: "tool", tool_call_id: `c${i}`, content: changed(i) ? `other ${i}` : `result ${i}` });
  }
  return JSON.stringify({ messages });
}

async function imported(text: string): Promise<string> {
  const url = `${server.url}/api/v1/journal/import/openai-chat`;
  const headers = { "content-type": "application/x-ndjson" };
  const answer = await fetch(url, { method: "POST", headers, body: text });
  const said = (await answer.json()) as { runs: { run_id: string }[] };
  return said.runs[0]?.run_id ?? "";
}

beforeAll(async () => {
  data = tempFolder("qd-busy");
  server = await startUp(data);
  runs = [await imported(transcript(() => false)), await imported(transcript((i) => i % 500 === 499))];
});
afterAll(async () => {
  await server.stop();
  remove(data);
});

/** The longest that somebody else waited for an answer meanwhile, as a part of how long it all took; the best of three. */
async function waited(path: string, body: object): Promise<{ result: Record<string, unknown>; part: number }> {
  const tries: { result: Record<string, unknown>; part: number }[] = [];
  while (tries.length < 3) {
    const begun = performance.now();
    let going = true;
    let longest = 0;
    const work = server.client.json<Record<string, unknown>>(path, { method: "POST", body });
    const done = work.finally(() => (going = false));
    while (going) {
      const asked = performance.now();
      await (await fetch(`${server.url}/health`)).text();
      longest = Math.max(longest, performance.now() - asked);
    }
    tries.push({ result: await done, part: longest / (performance.now() - begun) });
  }
  return tries.toSorted((a, b) => a.part - b.part)[0] as (typeof tries)[number];
}

test("while a large run is verified", async () => {
  const { result, part } = await waited("/journal/verify", { run_id: runs[0] });
  expect(result["ok"]).toBe(true);
  expect(part).toBeLessThan(0.25);
});

test("while two are compared", async () => {
  const { result, part } = await waited("/diffs", { a: runs[0], b: runs[1] });
  expect(result["changed"]).toBeGreaterThan(0);
  expect(part).toBeLessThan(0.25);
});

test("while one is replayed", async () => {
  const { result, part } = await waited("/replays", { run_id: runs[0], mode: "exact" });
  expect(result["state"]).toBe("completed_exact");
  expect(part).toBeLessThan(0.25);
});
