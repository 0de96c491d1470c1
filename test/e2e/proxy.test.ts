// The LLM proxy with the providers' own clients, unmodified: captured, governed, replayed as a process of its own.
import { readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RunDiff } from "../../src/contract/diff.ts";
import type { Event } from "../../src/contract/events.ts";
import type { ReplaySession } from "../../src/contract/replay.ts";
import type { Approval, Run } from "../../src/contract/runs.ts";
import { cli, remove, startUp, tempFolder, until } from "../support/processes.ts";
import type { Running } from "../support/processes.ts";
import { startScriptedModel } from "../support/scripted-model.ts";
import type { ScriptedModel } from "../support/scripted-model.ts";

const AGENT = path.join(import.meta.dirname, "../support/agent.mjs");
/** Put together here, so that no scanner takes this file for a leak. */
const LEAKED = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
const KEY = "sk-provider-key-0123456789";
let model: ScriptedModel;
let data: string;
let server: Running;

const PRICES = 'prices: [{ from: "2020-01-01", input_usd_per_mtok: 1, output_usd_per_mtok: 2 }]';
const MANIFESTS = () => `
kind: Model
metadata: { name: large }
spec: { provider: openai-compatible, model: large-1, base_url: "${model.url}", api_key: "env:QD_SECRET_PROVIDER", ${PRICES} }
---
kind: Model
metadata: { name: claude }
spec: { provider: anthropic, model: claude-1, base_url: "${model.url}", api_key: "env:QD_SECRET_PROVIDER", ${PRICES} }
---
kind: Model
metadata: { name: primary }
spec: { provider: openai-compatible, model: primary-1, base_url: "${model.url}", fallback: [forbidden, nobody, claude, large], ${PRICES} }
---
kind: Model
metadata: { name: forbidden }
spec: { provider: openai-compatible, model: forbidden-1, base_url: "${model.url}", ${PRICES} }
---
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: no, effect: deny, match: { models: [forbidden] }, reason: not_this_model }
    - { id: ask, effect: require_approval, match: { agents: [careful] }, reason: a_person_says }
    - { id: all, effect: allow }
---
kind: Budget
metadata: { name: poor }
spec: { scope: agent, subject: beggar, period: day, limit_usd: "0.000001" }
`;

beforeAll(async () => {
  let n = 0;
  model = await startScriptedModel(({ messages, model: asked }) => {
    const said = JSON.stringify(messages.at(-1)?.content);
    if (asked === "primary-1") return { status: said.includes("wrong") ? 400 : 503 };
    if (said.includes("overload")) return { status: 503 };
    if (said.includes("bad key")) return { status: 401, content: `${"word ".repeat(194)}${LEAKED} is no key` };
    if (said.includes("it breaks")) return { content: "one two three four five", breaks_at: "three " };
    if (said.includes("it goes on")) return { content: "one two three four five", pause_ms: 700 };
    if (said.includes("it takes long")) return { content: "late", delay_ms: 10_000 };
    if (said.includes("leak")) return { content: `Here: ${LEAKED} is it.`, piece_chars: 5 };
    return {
      content: said.includes("long") ? "word ".repeat(5_000) : `Answer ${(n += 1)} to ${messages.length} messages.`,
    };
  });
  data = tempFolder("qd-proxy");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url, QD_SECRET_PROVIDER: KEY });
  await server.client.apply(MANIFESTS());
});
afterAll(async () => {
  await server.stop();
  await model.close();
  remove(data);
});

/** Before the command: what follows `--` belongs to the process. */
const qd = (...args: string[]) => cli(["--data", data, ...args]);
const idIn = (text: string) => /run_[0-9a-z]{26}/.exec(text)?.[0] ?? "";
const events = async (run_id: string): Promise<Event[]> => (await server.client.events(run_id)).items;
const chat = (body: object, headers: Record<string, string> = {}, route = "/proxy/openai/v1/chat/completions") =>
  fetch(server.url + route, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer any", ...headers },
    body: JSON.stringify(body),
  });
const ask = (content: string, model_name = "large-1") => ({ model: model_name, messages: [{ role: "user", content }] });

describe("a model that does not answer", () => {
  test.each([false, true])(
    "the next one that may be asked answers, and the journal says why; stream: %s",
    async (stream) => {
      const session = `fallback-${stream}`;
      const sent = { ...ask("who is there?", "primary-1"), stream };
      const answer = await chat(sent, { "quarterdeck-session": session });
      expect([answer.status, (await answer.text()).includes("Answer")]).toEqual([200, true]);
      const { items } = (await (await fetch(`${server.url}/api/v1/runs?limit=1`)).json()) as { items: Run[] };
      const list = (await events(items[0]?.run_id ?? "")).filter((event) => event.type.startsWith("model."));
      expect(list.map((event) => [event.type, event.data["model"] ?? event.data["code"] ?? ""])).toEqual([
        ["model.requested", "primary@1"],
        ["model.failed", "provider_503"],
        // Policy does not allow this one; another is of another provider, one is not there at all.
        ["model.denied", "forbidden@1"],
        ["model.requested", "large@1"],
        ["model.completed", "large-1"],
      ]);
      expect(list[3]?.data["fallback_of"]).toMatchObject({ model: "primary", code: "provider_503" });
      // Again: one answer, as it came.
      const again = await server.client.json<Run>("/captures", {
        method: "POST",
        body: { replay_of: items[0]?.run_id },
      });
      const replayed = await chat(sent, {}, `/proxy/runs/${again.run_id}/openai/v1/chat/completions`);
      expect([replayed.status, (await replayed.text()).includes("Answer")]).toEqual([200, true]);
    },
  );

  test("what is wrong with the request itself is no reason to ask another", async () => {
    const calls = model.requests.length;
    const answer = await chat(ask("wrong", "primary-1"), { "quarterdeck-session": "wrong" });
    expect([answer.status, model.requests.length]).toEqual([400, calls + 1]);
  });
});

describe("the LLM proxy", () => {
  test.each([
    ["chat", "large@1", "openai.chat"],
    ["stream", "large@1", "openai.chat"],
    ["responses", "large@1", "openai.responses"],
    ["claude", "claude@1", "anthropic.messages"],
  ])(
    "an unmodified client of %s is captured and paid for, and replayed exactly with no outside call",
    async (api, target, wire) => {
      const first = await qd("capture", "--agent", "stranger", "--", "node", AGENT, api, "What is new?");
      expect([first.code, first.out]).toEqual([0, expect.stringMatching(/^Answer \d+ to 1 messages\./)]);
      const run_id = idIn(first.err);
      const run = await server.client.getRun(run_id);
      expect(run).toMatchObject({ kind: "captured", target: "stranger@1", state: "succeeded", steps: 1 });
      // 20 tokens in, 10 out, at the prices above.
      expect(run.cost_micro_usd).toBe(40);
      const all = await events(run_id);
      expect(all.map((event) => event.type)).toEqual([
        "run.started",
        "policy.decided",
        "model.requested",
        "model.completed",
        "run.succeeded",
      ]);
      expect(all[2]?.data).toMatchObject({ api: wire, model: target });
      expect(all[3]?.data).toMatchObject({ content: first.out.trim(), status: 200 });
      expect(JSON.stringify(model.headers.at(-1))).toContain(KEY);
      expect(JSON.stringify(all)).not.toContain(KEY);

      const before = model.requests.length;
      const again = await qd("replay", run_id, "--", "node", AGENT, api, "What is new?");
      expect([again.code, again.out]).toEqual([0, first.out]);
      expect(again.err).toContain("completed_exact");
      expect(model.requests.length).toBe(before);
      const replay_id = idIn(again.err);
      expect(await server.client.getRun(replay_id)).toMatchObject({
        kind: "replay",
        source_run_id: run_id,
        cost_micro_usd: 0,
      });
      const diff = await server.client.json<RunDiff>("/diffs", { method: "POST", body: { a: run_id, b: replay_id } });
      expect(diff).toMatchObject({ equal: true });
    },
  );

  test("a process that asks otherwise is stopped, and told where; one that asks less or more too", async () => {
    const { err } = await qd("capture", "--", "node", AGENT, "chat", "What is new?", "2");
    const run_id = idIn(err);
    const session = async (text: string) => server.client.json<ReplaySession>(`/replays/${idIn(text)}`);
    const other = await qd("replay", run_id, "--", "node", AGENT, "chat", "What is old?", "2");
    expect(other.code).toBe(1);
    expect(other.out).toContain("The process asks otherwise than it did (/messages/0/content)");
    expect(await session(other.err)).toMatchObject({
      state: "failed_execution",
      reason: "signature_mismatch",
      failed_step: 1,
      mismatch: { paths: ["/messages/0/content"] },
    });
    const less = await qd("replay", run_id, "--", "node", AGENT, "chat", "What is new?", "1");
    expect([less.code, await session(less.err)]).toMatchObject([
      1,
      { state: "failed_execution", message: expect.stringContaining("1 recorded calls were not made") },
    ]);
    const more = await qd("replay", run_id, "--", "node", AGENT, "chat", "What is new?", "3");
    expect([more.code, await session(more.err)]).toMatchObject([1, { failed_step: 3 }]);
  });

  test("what was refused by policy or budget, or by the provider, is refused again in a replay, with no call leaving", async () => {
    for (const [agent, question, said] of [
      ["beggar", "What is new?", "budget_exceeded"],
      ["captured", "overload", "503"],
    ]) {
      const first = await qd("capture", "--agent", agent ?? "", "--", "node", AGENT, "chat", question ?? "");
      expect([first.code, first.out]).toEqual([7, expect.stringContaining(said ?? "")]);
      const before = model.requests.length;
      const again = await qd("replay", idIn(first.err), "--", "node", AGENT, "chat", question ?? "");
      expect([again.code, again.out]).toEqual([7, expect.stringContaining(first.out)]);
      expect(model.requests.length).toBe(before);
    }
  });

  test("capture mirrors the exit code, and leaves a bundle that verifies when the process fails", async () => {
    const file = path.join(data, "failed.jsonl");
    const failed = await qd("capture", "--bundle-on-fail", file, "--", "node", AGENT, "chat", "overload");
    expect(failed.code).toBe(7);
    expect(await server.client.getRun(idIn(failed.err))).toMatchObject({
      state: "failed",
      reason: "exit_code",
      steps: 1,
    });
    expect(readFileSync(file, "utf8")).toContain("provider_503");
    expect((await qd("verify", "--file", file)).code).toBe(0);
    expect((await qd("capture", "--", "node", "-e", "process.exit(1)")).code).toBe(1);
    expect((await qd("capture", "--", "no-such-command-here")).code).toBe(2);
  });

  test("policy and budget hold, and refusals come in the provider's own form", async () => {
    const before = model.requests.length;
    const denied = await chat(ask("x", "forbidden-1"));
    expect([denied.status, await denied.json()]).toMatchObject([
      403,
      { error: { code: "not_this_model", type: "quarterdeck" } },
    ]);
    const poor = await chat(ask("x"), { "quarterdeck-agent": "beggar" });
    expect([poor.status, await poor.json()]).toMatchObject([429, { error: { code: "budget_exceeded" } }]);
    expect(poor.headers.get("x-should-retry")).toBe("false");
    const unknown = await chat(ask("x", "no-such"));
    expect([unknown.status, await unknown.json()]).toMatchObject([
      404,
      { error: { message: expect.stringContaining("no-such") } },
    ]);
    const wrong = await chat({ messages: [] });
    expect([wrong.status, await wrong.json()]).toMatchObject([400, { error: { message: "The body needs a `model`" } }]);
    expect(model.requests.length).toBe(before);
    const run = (await server.client.json<{ items: Run[] }>("/runs?target=beggar")).items[0] as Run;
    expect((await events(run.run_id)).map((event) => event.type)).toContain("model.denied");
  });

  describe("a call that needs approval", () => {
    const asking = { "quarterdeck-agent": "careful" };
    const pending = async (text: string) =>
      until("an approval", async () => {
        const { items } = await server.client.json<{ items: Approval[] }>("/approvals?state=pending");
        return items.find((item) => JSON.stringify(item.shown).includes(text)) ?? null;
      });
    const answer = (approval: Approval, how: "approve" | "reject") =>
      server.client.json(`/approvals/${approval.approval_id}/${how}`, {
        method: "POST",
        headers: { "quarterdeck-principal": "grace" },
        body: {},
      });

    test.each([false, true])("waits, and is made when a person has approved it; stream: %s", async (stream) => {
      const text = `may I, stream ${stream}?`;
      const before = model.requests.length;
      const waiting = chat({ ...ask(text), stream }, { ...asking, "quarterdeck-session": text });
      const approval = await pending(text);
      expect([approval.tool, approval.shown]).toMatchObject(["large@1", { model: "large@1", reason: "a_person_says" }]);
      expect(model.requests.length).toBe(before);
      await answer(approval, "approve");
      const response = await waiting;
      expect([response.status, (await response.text()).includes("Answer")]).toEqual([200, true]);
    });

    test("is refused in the provider's own form when a person rejects it", async () => {
      const waiting = chat(ask("and this?"), { ...asking, "quarterdeck-session": "rejected" });
      await answer(await pending("and this?"), "reject");
      const response = await waiting;
      expect([response.status, await response.json()]).toMatchObject([403, { error: { code: "approval_rejected" } }]);
    });

    test("whose client gave up, or whose server died, goes on when it is sent again", async () => {
      const again = (wait: string) =>
        chat(ask("later?"), { ...asking, "quarterdeck-session": "later", "quarterdeck-wait-ms": wait });
      const first = await again("50");
      expect([first.status, first.headers.get("x-should-retry")]).toEqual([409, "true"]);
      expect(await first.json()).toMatchObject({ error: { code: "approval_pending" } });
      const approval = await pending("later?");
      await server.kill();
      server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url, QD_SECRET_PROVIDER: KEY });
      expect((await again("50")).status).toBe(409);
      await answer(approval, "approve");
      expect((await again("50")).status).toBe(200);
      // The approval was for one call.
      expect((await again("50")).status).toBe(409);
      const wrong = await again("soon");
      expect([wrong.status, await wrong.text()]).toEqual([400, expect.stringContaining("quarterdeck-wait-ms")]);
    });

    test("is answered from the recording in a replay, with nobody asked", async () => {
      const { items } = await server.client.json<{ items: Run[] }>("/runs?target=careful");
      const source = items.find((run) => run.external_id === "later");
      const body = { replay_of: source?.run_id };
      const again = await server.client.json<Run>("/captures", { method: "POST", body });
      const replayed = await chat(ask("later?"), {}, `/proxy/runs/${again.run_id}/openai/v1/chat/completions`);
      expect([replayed.status, (await replayed.text()).includes("Answer")]).toEqual([200, true]);
    });
  });

  test("calls of one session are one run; the limit that was reserved is sent", async () => {
    for (let i = 0; i < 3; i++)
      expect((await chat(ask("x"), { "quarterdeck-session": "s1", "quarterdeck-agent": "talker" })).status).toBe(200);
    expect((await chat(ask("x"), { "quarterdeck-session": "s2", "quarterdeck-agent": "talker" })).status).toBe(200);
    const { items } = await server.client.json<{ items: Run[] }>("/runs?target=talker");
    expect(items.map((run) => (run.steps === 0 ? "" : run.target))).toHaveLength(2);
    expect(model.requests.at(-1)).toMatchObject({ max_completion_tokens: 4_096 });
  });

  test("a stream that passes its reservation is cut, and what was reserved is charged", async () => {
    const response = await chat({ ...ask("long"), stream: true, max_tokens: 10 }, { "quarterdeck-agent": "wordy" });
    const text = await response.text();
    expect(text).not.toContain("[DONE]");
    const run = (await server.client.json<{ items: Run[] }>("/runs?target=wordy")).items[0] as Run;
    const completed = await until("the outcome is on record", async () =>
      (await events(run.run_id)).find((event) => event.type === "model.completed"),
    );
    expect(completed.data).toMatchObject({ cut_off: true, usage_estimated: true, usage: { output_tokens: 10 } });
  });

  test("a client that hangs up leaves no call without an outcome", async () => {
    const gone = new AbortController();
    const response = await fetch(`${server.url}/proxy/openai/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "quarterdeck-agent": "leaver" },
      body: JSON.stringify({ ...ask("long"), stream: true }),
      signal: gone.signal,
    });
    const reader = response.body?.getReader();
    await reader?.read();
    gone.abort();
    const run = (await server.client.json<{ items: Run[] }>("/runs?target=leaver")).items[0] as Run;
    const outcome = await until("the outcome is on record", async () =>
      (await events(run.run_id)).find((event) => /^model\.(failed|completed)$/.test(event.type)),
    );
    expect(["client_gone", undefined]).toContain(outcome.data["code"]);
  });

  test.each(["provider", "client"])(
    "a stream that its %s broke off is replayed as far as it came, and no further",
    async (side) => {
      const json = <T>(path: string, body: object) => server.client.json<T>(path, { method: "POST", body });
      const text = side === "provider" ? "it breaks" : "it goes on";
      /** What a client has of the stream when it ends for it; as a client it hangs up after the first words. */
      const heard = async (run_id: string): Promise<string> => {
        const gone = new AbortController();
        const url = `${server.url}/proxy/runs/${run_id}/openai/v1/chat/completions`;
        const body = JSON.stringify({ ...ask(text), stream: true });
        const headers = { "content-type": "application/json" };
        const response = await fetch(url, { method: "POST", headers, body, signal: gone.signal });
        let got = "";
        const decoder = new TextDecoder();
        await expect(
          (async () => {
            for await (const bytes of response.body ?? []) {
              got += decoder.decode(bytes, { stream: true });
              if (side === "client" && got.includes("three")) gone.abort();
            }
          })(),
        ).rejects.toThrow();
        return got;
      };
      const { run_id } = await json<Run>("/captures", { agent: "broken" });
      const first = await heard(run_id);
      expect(first).toContain("three");
      expect(first).not.toContain("four");
      const outcome = await until("the outcome is on record", async () =>
        (await events(run_id)).find((event) => event.type === "model.failed"),
      );
      expect(outcome.data).toMatchObject({ broken_by: side, status: 200, raw: first });
      await json(`/captures/${run_id}/end`, { exit_code: 0 });
      const calls = model.requests.length;
      const again = await json<Run>("/captures", { replay_of: run_id });
      expect(await heard(again.run_id)).toBe(first);
      expect(await json(`/captures/${again.run_id}/end`, { exit_code: 0 })).toMatchObject({ state: "succeeded" });
      expect(model.requests).toHaveLength(calls);
    },
  );

  test("a client that gave up before it was answered gives up again, and nobody is asked", async () => {
    const json = <T>(path: string, body: object) => server.client.json<T>(path, { method: "POST", body });
    const given_up = async (run_id: string) => {
      const init = {
        method: "POST",
        headers: { "content-type": "application/json" },
        signal: AbortSignal.timeout(1_500),
      };
      const url = `${server.url}/proxy/runs/${run_id}/openai/v1/chat/completions`;
      const answered = fetch(url, { ...init, body: JSON.stringify(ask("it takes long")) }).then((one) => one.text());
      await expect(answered).rejects.toThrow(/timeout/);
      return until("the outcome is on record", async () =>
        (await events(run_id)).find((event) => event.type === "model.failed"),
      );
    };
    const { run_id } = await json<Run>("/captures", { agent: "hasty" });
    expect((await given_up(run_id)).data).toMatchObject({ broken_by: "client", code: "client_gone", raw: "" });
    await json(`/captures/${run_id}/end`, { exit_code: 0 });
    const calls = model.requests.length;
    const again = await json<Run>("/captures", { replay_of: run_id });
    await given_up(again.run_id);
    expect(await json(`/captures/${again.run_id}/end`, { exit_code: 0 })).toMatchObject({ state: "succeeded" });
    expect(model.requests).toHaveLength(calls);
  });

  test("secrets in requests and answers are not recorded; the client gets them all the same, and the replay finds its call", async () => {
    const asked = await qd("capture", "--", "node", AGENT, "chat", `leak ${LEAKED}`);
    expect(asked.out).toContain(LEAKED);
    const run_id = idIn(asked.err);
    const all = await events(run_id);
    expect(JSON.stringify(all)).not.toContain(LEAKED);
    expect(all.find((event) => event.type === "model.requested")).toMatchObject({
      redaction: { status: "redacted", rules: ["github"], paths: ["/request/messages/0/content"] },
    });
    expect(all.find((event) => event.type === "model.completed")?.data["content"]).toBe(
      "Here: [redacted:github] is it.",
    );
    const again = await qd("replay", run_id, "--", "node", AGENT, "chat", `leak ${LEAKED}`);
    expect([again.code, again.out]).toEqual([0, "Here: [redacted:github] is it.\n"]);
    // In a stream it comes in pieces: it is taken out of those, and the others are given again as they were.
    const streamed = await qd("capture", "--", "node", AGENT, "stream", "leak");
    expect(streamed.out).toContain(LEAKED);
    const stream_id = idIn(streamed.err);
    expect(JSON.stringify(await events(stream_id))).not.toContain(LEAKED);
    const file = path.join(data, "stream.jsonl");
    await qd("export", stream_id, "-o", file);
    expect(readFileSync(file, "utf8")).not.toContain(LEAKED.slice(0, 20));
    const completed = (await events(stream_id)).find((event) => event.type === "model.completed");
    expect(completed?.data).toMatchObject({ raw: expect.stringContaining("[redacted:github]") as unknown });
    const streamedAgain = await qd("replay", stream_id, "--", "node", AGENT, "stream", "leak");
    expect([streamedAgain.code, streamedAgain.out]).toEqual([0, "Here: [redacted:github] is it.\n"]);
  });

  test("of a long error a secret where its message is cut is not recorded by half", async () => {
    const { run_id } = await server.client.json<Run>("/captures", { method: "POST", body: { agent: "wrong" } });
    const answer = await chat(ask("bad key"), {}, `/proxy/runs/${run_id}/openai/v1/chat/completions`);
    expect([answer.status, (await answer.text()).includes(LEAKED)]).toEqual([401, true]);
    const all = await events(run_id);
    expect(JSON.stringify(all)).not.toContain(LEAKED.slice(0, 8));
    const failed = all.find((event) => event.type === "model.failed");
    expect(failed?.data["message"]).toHaveLength(1_000);
    expect(failed?.data["raw"]).toContain("[redacted:github] is no key");
  });

  test("a replay of a process goes on when the server was killed in its middle", async () => {
    const json = <T>(path: string, body: object) => server.client.json<T>(path, { method: "POST", body });
    const { run_id } = await json<Run>("/captures", { agent: "two" });
    const route = (id: string) => `/proxy/runs/${id}/openai/v1/chat/completions`;
    const said = [];
    for (const text of ["first", "second"]) said.push(await (await chat(ask(text), {}, route(run_id))).text());
    await json(`/captures/${run_id}/end`, { exit_code: 0 });
    const again = await json<Run>("/captures", { replay_of: run_id });
    expect(await (await chat(ask("first"), {}, route(again.run_id))).text()).toBe(said[0]);
    const before = model.requests.length;
    await server.kill();
    server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url, QD_SECRET_PROVIDER: KEY });
    expect(await (await chat(ask("second"), {}, route(again.run_id))).text()).toBe(said[1]);
    expect(await json<Run>(`/captures/${again.run_id}/end`, { exit_code: 0 })).toMatchObject({ state: "succeeded" });
    expect(model.requests.length).toBe(before);
  });

  test("all of it verifies, and an open captured run goes on after the process was killed", async () => {
    expect((await chat(ask("x"), { "quarterdeck-agent": "survivor" })).status).toBe(200);
    await server.kill();
    server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: model.url, QD_SECRET_PROVIDER: KEY });
    expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({
      ok: true,
      faults: [],
    });
    const run = (await server.client.json<{ items: Run[] }>("/runs?target=survivor")).items[0] as Run;
    expect(run.state).toBe("running");
    const added = await chat(ask("y"), {}, `/proxy/runs/${run.run_id}/openai/v1/chat/completions`);
    expect([added.status, await added.text()]).toEqual([200, expect.stringContaining("Answer")]);
    const ended = await server.client.json<Run>(`/captures/${run.run_id}/end`, { method: "POST", body: {} });
    expect(ended).toMatchObject({ state: "succeeded", steps: 2 });
    expect((await chat(ask("z"), {}, `/proxy/runs/${run.run_id}/openai/v1/chat/completions`)).status).toBe(409);
  });
});
