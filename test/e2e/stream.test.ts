// Following a run: cut off anywhere and resumed, by cursor or by what was acknowledged, without gap or double; and readers that
// do not read.
import { connect } from "node:net";
import type { Socket } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Event } from "../../src/contract/events.ts";
import { API_PREFIX } from "../../src/contract/paths.ts";
import { freshRun } from "../support/engine.ts";
import { ALLOW_ALL, NOOP_AND_NAP } from "../support/manifests.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";

let data: string;
let server: Running;
const steps = Array.from({ length: 20 }, (_, i) => `{ id: s${i}, tool: nap, args: { ms: 40 } }`).join(", ");
const MANIFESTS = `${NOOP_AND_NAP}
kind: Workflow
metadata: { name: slow }
spec: { steps: [${steps}] }
---
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }] }
---${ALLOW_ALL}`;

beforeAll(async () => {
  data = tempFolder("qd-stream");
  server = await startUp(data);
  await server.client.apply(MANIFESTS);
});
afterAll(async () => {
  await server?.stop();
  remove(data);
});

const ended = (run_id: string) =>
  until(`${run_id} ends`, async () => (await server.client.getRun(run_id)).state === "succeeded");
const seqsOf = async (run_id: string) => (await server.client.events(run_id)).items.map(({ seq }) => seq);

/** Reads events until the connection is cut by us, after so many of them, or ends. */
async function read(
  run_id: string,
  count: number,
  given: { after?: number; consumer?: string } = {},
): Promise<Event[]> {
  const query = given.consumer === undefined ? "" : `?consumer=${given.consumer}`;
  const headers: Record<string, string> = { "quarterdeck-principal": "ada" };
  if (given.after !== undefined) headers["last-event-id"] = String(given.after);
  const abort = new AbortController();
  const events: Event[] = [];
  let text = "";
  try {
    const answer = await fetch(`${server.url}${API_PREFIX}/runs/${run_id}/stream${query}`, {
      headers,
      signal: abort.signal,
    });
    for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
      text += Buffer.from(chunk).toString();
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const line = text
          .slice(0, end)
          .split("\n")
          .find((one) => one.startsWith("data: "));
        text = text.slice(end + 2);
        if (line === undefined) continue;
        events.push(JSON.parse(line.slice(6)) as Event);
        if (events.length === count) throw new Error("enough");
      }
    }
  } catch (error) {
    if (!(error instanceof Error) || error.message !== "enough") throw error;
  } finally {
    abort.abort();
  }
  return events;
}

test("a stream that is cut at every place, while the run goes on, brings each event once", async () => {
  const { run_id } = await server.client.startRun({ workflow: "slow" });
  const seen: number[] = [];
  for (let cut = 1; ; cut = (cut % 7) + 1) {
    const events = await read(run_id, cut, { after: seen.at(-1) ?? 0 });
    seen.push(...events.map(({ seq }) => seq));
    if (events.length < cut || events.at(-1)?.type === "run.succeeded") break;
  }
  expect(seen).toEqual(await seqsOf(run_id));
});

test("a consumer goes on behind what it acknowledged, over a kill -9 of the server; what it did not comes again", async () => {
  const { run_id } = await server.client.startRun({ workflow: "quick" });
  await ended(run_id);
  const all = await seqsOf(run_id);
  expect((await read(run_id, 3, { consumer: "one" })).map(({ seq }) => seq)).toEqual(all.slice(0, 3));
  // Two of three are done with; the third comes again.
  expect(await server.client.ack(run_id, "one", 2)).toEqual({ consumer: "one", acked_seq: 2 });
  await server.kill();
  server = await startUp(data);
  expect((await read(run_id, 99, { consumer: "one" })).map(({ seq }) => seq)).toEqual(all.slice(2));
  // Never back; and each reader by itself, of each principal.
  expect(await server.client.ack(run_id, "one", 1)).toEqual({ consumer: "one", acked_seq: 2 });
  expect((await read(run_id, 99, { consumer: "two" })).length).toBe(all.length);
  const other = {
    method: "POST",
    headers: { "content-type": "application/json", "quarterdeck-principal": "bob" },
  } as const;
  const body = JSON.stringify({ consumer: "one", seq: 5 });
  await fetch(`${server.url}${API_PREFIX}/runs/${run_id}/stream/ack`, { ...other, body });
  expect((await read(run_id, 99, { consumer: "one" })).length).toBe(all.length - 2);
  // A cursor that is named wins.
  expect((await read(run_id, 99, { consumer: "one", after: 0 })).length).toBe(all.length);
});

test("what was never there cannot be acknowledged", async () => {
  const { run_id } = await server.client.startRun({ workflow: "quick" });
  await ended(run_id);
  await expect(server.client.ack(run_id, "one", 9_999)).rejects.toThrow("has no event 9999");
  await expect(server.client.ack(freshRun(), "one", 1)).rejects.toThrow("There is no run");
});

test("on the command line a reader is shown only what is new to it", async () => {
  const { run_id } = await server.client.startRun({ workflow: "quick" });
  await ended(run_id);
  const watch = () => cli(["runs", "watch", run_id, "--consumer", "me", "--json", "--url", server.url]);
  expect((await watch()).out.trim().split("\n")).toHaveLength((await seqsOf(run_id)).length);
  expect((await watch()).out.trim()).toBe("");
});

test("readers that do not read cost no memory, and hold up nobody", async () => {
  await server.stop();
  // Sixteen times 45 MB have no room in it.
  server = await startUp(data, { NODE_OPTIONS: "--max-old-space-size=300" });
  const run_id = freshRun();
  const text = "x".repeat(7_000);
  for (let batch = 0; batch < 16; batch++) {
    const events = Array.from({ length: 400 }, (_, i) => {
      const sequence_no = batch * 400 + i + 1;
      if (sequence_no === 1) return { sequence_no, type: "run.started", data: { agent: "helper", input: "hello" } };
      return { sequence_no, type: "state.snapshot", data: { state: { text, sequence_no } } };
    });
    await server.client.json(`/runs/${run_id}/events`, { method: "POST", body: { producer_id: "prd_1", events } });
  }
  const { port } = new URL(server.url);
  const sockets = Array.from({ length: 16 }, (): Socket => {
    const socket = connect(Number(port), "127.0.0.1");
    socket.pause();
    socket.write(`GET ${API_PREFIX}/runs/${run_id}/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`);
    return socket;
  });
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  const { run_id: other } = await server.client.startRun({ workflow: "quick" });
  await ended(other);
  // One that reads gets all of it all the same.
  const read = new Set<number>();
  for await (const event of server.client.watch(run_id)) {
    read.add(event.seq);
    if (event.seq === 6_400) break;
  }
  expect(read.size).toBe(6_400);
  expect(server.child.exitCode).toBeNull();
  for (const socket of sockets) socket.destroy();
});
