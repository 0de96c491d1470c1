// Real recorded runs (tau-bench airline, gpt-4o): imported, verified, and driven again through the orchestrator.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { importRecorded, readRecorded } from "../../src/capture/import.ts";
import type { RecordedRun } from "../../src/capture/import.ts";
import type { Commit } from "../../src/orchestrator/engine.ts";
import { Policy } from "../../src/core/policy.ts";
import type { PolicyRule } from "../../src/core/policy.ts";
import { policyRules } from "../../src/core/catalog.ts";
import { decodeBody } from "../../src/core/chain.ts";
import { expandRun } from "../../src/core/envelope.ts";
import type { StoredEvent } from "../../src/contract/events.ts";
import type { PolicyManifest } from "../../src/contract/manifests.ts";
import { verifyRun } from "../../src/journal/verify.ts";
import { readManifests } from "../../src/orchestrator/manifests.ts";
import { conversationOf, recordedCatalog, RecordedQueue } from "../../src/replay/drive.ts";
import { freshRun, openEngine, seams, startData, TENANT } from "../support/engine.ts";

const FOLDER = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "runs/tau-bench-airline",
);
const present = existsSync(FOLDER);
if (!present) console.warn(`SKIPPED: the recorded runs are not there (${FOLDER}); set QUARTERDECK_SHARED_DATA`);

const caller = { tenant_id: TENANT, project: "default", principal: "ada" };
const file = path.join(FOLDER, "gpt-4o-airline.runs.jsonl");
const rulesOf = (name: string): PolicyRule[] => {
  const [manifest] = readManifests(readFileSync(path.join(import.meta.dirname, "policies", name), "utf8"));
  return policyRules(manifest?.spec as PolicyManifest);
};
const policyOf = (name: string) => new Policy({ policies: [{ name: "airline", version: 1, rules: rulesOf(name) }] });

async function drive(
  run: RecordedRun,
  policy: Policy,
): Promise<{ events: StoredEvent[]; waited: number; state: string }> {
  const conversation = conversationOf(run.messages);
  const turns = conversation.user.slice(1);
  let waited = 0;
  let done: (state: string) => void = () => undefined;
  const ended = new Promise<string>((resolve) => (done = resolve));
  const onCommit = (commit: Commit) => {
    for (const draft of commit.drafts) {
      if (draft.type === "human.approval_requested") {
        waited += 1;
        const number = Number(draft.data["number"]);
        void engine.command(TENANT, commit.run_id, {
          type: "approve",
          number,
          decision: "approved",
          note: "",
          actor: { id: "grace", kind: "human_reviewer" },
        });
      }
      if (draft.type === "run.waiting" && draft.data["reason"] === "input") {
        const content = turns.shift();
        if (content === undefined) throw new Error("the run waits for input that was never given");
        void engine.command(TENANT, commit.run_id, {
          type: "input",
          content,
          final: turns.length === 0 && conversation.final_tool === null && !conversation.cut_off,
          actor: { id: "user", kind: "user" },
        });
      }
    }
    if (!["running", "waiting", "queued"].includes(commit.summary.state)) done(commit.summary.state);
  };
  const { engine, store } = await openEngine({
    catalog: recordedCatalog(conversation),
    policy,
    queue: (report) => new RecordedQueue(conversation, report),
    onCommit,
  });
  const run_id = freshRun();
  await engine.start({
    tenant_id: TENANT,
    run_id,
    command: { type: "start", data: startData("agent", "recorded", conversation.user[0]) },
  });
  const state = await ended;
  const rows = await store.readRun(null, run_id, 1, 10_000);
  expect(verifyRun(rows)).toHaveProperty("events");
  return { events: rows.flatMap((row) => decodeBody(row.body)), waited, state };
}

const recordedCalls = (run: RecordedRun) =>
  conversationOf(run.messages).answers.flatMap((answer) =>
    answer.tool_calls.map((call) => [call.name, call.arguments]),
  );
/** What the model asked for, as its answers in the driven journal hold it. */
const drivenCalls = (events: readonly StoredEvent[]) =>
  events
    .filter((event) => event.type === "model.completed")
    .flatMap((event) =>
      (event.data["tool_calls"] as { name: string; arguments: string }[]).map((call) => [call.name, call.arguments]),
    );
const executed = (events: readonly StoredEvent[]) => events.filter((event) => event.type === "tool.completed").length;

describe.skipIf(!present)("tau-bench airline runs", () => {
  const text = present ? readFileSync(file, "utf8") : "";

  test("all 56 runs import as captured runs, verify, and keep every text byte for byte", async () => {
    const recorded = readRecorded("tau-bench", text);
    const captured = await importRecorded({ format: "tau-bench", text, caller, seams });
    expect(captured).toHaveLength(56);
    for (const [index, run] of captured.entries()) {
      const result = verifyRun(run.rows);
      expect(result, run.key).toHaveProperty("events");
      const events = expandRun(run.rows.map((row, i) => ({ ...row, group: 0, offset: i + 1, at_us: 1 })));
      const said = events
        .filter((event) => event.type === "model.completed")
        .map((event) => (event.data as Record<string, unknown>)["content"]);
      expect(said).toEqual(
        recorded[index]?.messages.filter((m) => m["role"] === "assistant").map((m) => m["content"] ?? null),
      );
      expect(events.filter((event) => event.type === "tool.completed")).toHaveLength(
        recorded[index]?.messages.filter((m) => m["role"] === "tool").length ?? -1,
      );
    }
  });

  test("the few-shot transcripts import and verify, and say that they are displays", async () => {
    for (const name of readdirSync(path.join(FOLDER, "few_shot"))) {
      const few = await importRecorded({
        format: "tau-bench",
        text: readFileSync(path.join(FOLDER, "few_shot", name), "utf8"),
        caller,
        seams,
      });
      expect(few.length).toBeGreaterThan(0);
      for (const run of few) {
        expect(run.fidelity).toBe("display");
        expect(verifyRun(run.rows)).toHaveProperty("events");
      }
    }
  });

  test("each driven run makes the same tool calls and ends with the same words", async () => {
    const policy = policyOf("allow-recorded.yaml");
    for (const run of readRecorded("tau-bench", text)) {
      const { events, waited, state } = await drive(run, policy);
      expect(drivenCalls(events), run.key).toEqual(recordedCalls(run));
      expect(executed(events), run.key).toBe(recordedCalls(run).length);
      const last = events.findLast((event) => event.type === "model.completed" && event.data["content"] !== null);
      expect(last?.data["content"], run.key).toBe(
        run.messages.findLast(
          (m) => m["role"] === "assistant" && m["content"] !== null && m["content"] !== undefined,
        )?.["content"],
      );
      // A recording that a step limit cut off ends in the same place, and says so.
      expect([state, waited], run.key).toEqual([conversationOf(run.messages).cut_off ? "failed" : "succeeded", 0]);
    }
  });

  test("a policy with approvals stops exactly the runs that change reservations", async () => {
    const policy = policyOf("approve-changes.yaml");
    const changes = /^(cancel_reservation|update_reservation_.*)$/;
    for (const run of readRecorded("tau-bench", text)) {
      const expected = recordedCalls(run).filter(([name]) => changes.test(name ?? "")).length;
      const { events, waited } = await drive(run, policy);
      expect(waited, run.key).toBe(expected);
      expect(drivenCalls(events), run.key).toEqual(recordedCalls(run));
    }
  });
});
