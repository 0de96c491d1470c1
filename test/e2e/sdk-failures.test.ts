// A program that captures itself and whose model calls end badly, run again: each ends as it did, and nobody is asked.
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { LIMITS } from "../../src/contract/limits.ts";
import type { Event } from "../../src/contract/events.ts";
import { cli, remove, startUp, tempFolder } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

const AGENT = path.join(import.meta.dirname, "../support/sdk-failing-agent.mjs");
/** Nobody listens there. */
const NOBODY_URL = "http://127.0.0.1:9/v1";
let model: ScriptedModel;
let data: string;
let server: Running;
let env: Record<string, string>;

beforeAll(async () => {
  const seen = new Set<string>();
  let n = 0;
  model = await startScriptedModel(({ messages }) => {
    const said = JSON.stringify(messages.at(-1)?.content);
    n += 1;
    const isFirst = !seen.has(said);
    seen.add(said);
    if (said.includes("overload") && (isFirst || !said.includes("once")))
      return { status: 503, content: `busy ${n} times` };
    if (said.includes("breaks")) return { content: `this much ${n} and no more`, breaks_at: "and " };
    if (said.includes("late")) return { content: "too late", delay_ms: 2_000 };
    if (said.includes("slow")) return { content: "one two", pause_ms: 2_000 };
    if (said.includes("nonsense")) return { body: `nonsense ${n}` };
    return { content: `answer ${n}` };
  });
  data = tempFolder("qd-sdk-failures");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url });
  env = { MODEL_URL: model.url, NOBODY_URL };
});
afterAll(async () => {
  await server.stop();
  await model.close();
  remove(data);
});

const program = ["--", process.execPath, AGENT];

async function captured(): Promise<{ run_id: string; out: string }> {
  const first = await cli(["--data", data, "capture", "--agent", "unlucky", ...program], { env });
  expect(first.code, first.err).toBe(0);
  return { run_id: /run_[0-9a-z]{26}/.exec(first.err)?.[0] ?? "", out: first.out };
}

describe("model calls that ended badly", { timeout: 120_000 }, () => {
  test("are recorded as they ended, and end so again with nobody asked", async () => {
    const { run_id, out } = await captured();
    expect(out).toContain("once: answer");
    expect(out).toContain("broken: this much");
    expect(out).toContain("nobody failed");
    const { items } = await server.client.json<{ items: Event[] }>(
      `/runs/${run_id}/events?limit=${LIMITS.page_size_max}`,
    );
    const failed = items.filter((event) => event.type === "model.failed").map((event) => event.data);
    expect(failed[0]).toMatchObject({ code: "http_503", status: 503, raw: expect.stringContaining("busy 1 times") });
    const brokenBy = (who: string) => failed.filter(({ broken_by }) => broken_by === who).length;
    expect([brokenBy("client"), brokenBy("provider")]).toEqual([4, 2]);
    const asked = model.requests.length;
    const again = await cli(["--data", data, "replay", run_id, ...program], { env });
    expect(again.out).toBe(out);
    expect(again.code, again.err).toBe(0);
    expect(model.requests.length).toBe(asked);
  });
});
