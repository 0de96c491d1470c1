// The built program over HTTP and on the command line, on its embedded database.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { freePort } from "../../scripts/services.mjs";
import { ERRORS } from "../../src/contract/errors.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import { sha256Hex } from "../../src/kit/hash.ts";
import type { Approval, Run } from "../../src/contract/runs.ts";
import { NOOP_AND_NAP } from "../support/manifests.ts";
import { cli, remove, ROOT, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";

let ledger: Ledger;
let data: string;
let server: Running;

const MANIFESTS = () => `${NOOP_AND_NAP}
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, cost_usd: "0.5", input_schema: { type: object, properties: { n: { type: integer } }, required: [n] } }
---
kind: Tool
metadata: { name: forbidden }
spec: { kind: builtin, builtin: noop }
---
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: noop }], output: { said: "\${steps.b.output}" } }
---
kind: Workflow
metadata: { name: slow }
spec: { steps: [{ id: a, tool: nap, args: { ms: 5000 } }, { id: b, tool: noop }] }
---
kind: Workflow
metadata: { name: paying }
spec: { steps: [{ id: a, tool: pay, args: { n: 1 } }] }
---
kind: Workflow
metadata: { name: denied }
spec: { steps: [{ id: a, tool: forbidden }] }
---
kind: Workflow
metadata: { name: waiting }
spec: { steps: [{ id: a, wait_ms: 600000 }] }
---
kind: Policy
metadata: { name: main }
spec:
  rules:
    - { id: small, effect: allow, match: { tools: [noop, nap] }, when: "args.ms < 10000 || !has(args.ms)" }
    - { id: pay, effect: require_approval, match: { tools: [pay] }, approvals_min: 1 }
---
kind: Budget
metadata: { name: day }
spec: { scope: project, period: day, limit_usd: "1" }
`;

beforeAll(async () => {
  ledger = await startLedger(0);
  data = tempFolder("qd-e2e");
  server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
  await server.client.apply(MANIFESTS());
});
afterAll(async () => {
  await server.stop();
  ledger.stop();
  remove(data);
});

const ended = (run_id: string) =>
  until("the run ends", async () => {
    const run = await server.client.getRun(run_id);
    return ["running", "waiting", "queued"].includes(run.state) ? null : run;
  });
const waiting = (run_id: string, reason: string) =>
  until(`waiting for ${reason}`, async () => {
    const run = await server.client.getRun(run_id);
    return run.state === "waiting" && run.reason === reason ? run : null;
  });
const pending = async (run_id: string) =>
  (await server.client.approvals("pending")).items.find((approval) => approval.run_id === run_id) as Approval;
const raw = (route: string, init: RequestInit = {}) => fetch(`${server.url}/api/v1${route}`, init);
const post = (route: string, body: unknown, headers: Record<string, string> = {}) =>
  raw(route, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

describe("runs", () => {
  test("a workflow runs to its end; its events have one envelope and verify", async () => {
    const run = await server.client.startRun({ workflow: "quick", labels: { a: "b" } });
    const done = await ended(run.run_id);
    expect(done).toMatchObject({ state: "succeeded", steps: 2, target: "quick@1", requester: "ada" });
    const { items } = await server.client.events(run.run_id);
    expect(items.map((event) => event.type)).toEqual([
      "run.started",
      "policy.decided",
      "tool.requested",
      "tool.completed",
      "policy.decided",
      "tool.requested",
      "tool.completed",
      "run.succeeded",
    ]);
    expect(items.map((event) => event.seq)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(new Set(items.map((event) => event.id)).size).toBe(8);
    expect((await cli(["verify", run.run_id], { data })).code).toBe(0);
  });

  test("a denied step fails the workflow, and the explanation names the missing rule", async () => {
    const run = await ended((await server.client.startRun({ workflow: "denied" })).run_id);
    expect(run).toMatchObject({ state: "failed", reason: "no_matching_rule" });
    const found = await server.client.explain(run.run_id, "1");
    expect(found).toMatchObject({ decision: "deny", reason: "no_matching_rule", rules: [], same_policy: true });
    expect(found.trace.map((row) => row.outcome)).toEqual(["not_selected", "not_selected"]);
  });

  test("cancel stops a run with a call in flight within two seconds", async () => {
    const run = await server.client.startRun({ workflow: "slow" });
    await server.client.act(run.run_id, "cancel", { reason: "enough" });
    expect(await ended(run.run_id)).toMatchObject({ state: "cancelled", reason: "cancelled_by_user" });
  });

  test("pause, resume, retry and their refusals", async () => {
    const run = await server.client.startRun({ workflow: "waiting" });
    await waiting(run.run_id, "timer");
    expect(await server.client.act(run.run_id, "pause")).toMatchObject({ state: "waiting", reason: "paused" });
    await expect(server.client.act(run.run_id, "pause")).rejects.toMatchObject({ code: "RUN_NOT_WAITING" });
    await server.client.act(run.run_id, "resume");
    await expect(server.client.act(run.run_id, "retry")).rejects.toMatchObject({ code: "CONFLICT" });
    await server.client.act(run.run_id, "cancel");
    await expect(server.client.act(run.run_id, "cancel")).rejects.toMatchObject({ code: "RUN_TERMINAL" });
    const again = await server.client.act(run.run_id, "retry");
    expect(again.retry_of).toBe(run.run_id);
    await server.client.act(again.run_id, "cancel");
  });

  test("a run's deadline ends it as timed_out", async () => {
    const run = await server.client.startRun({ workflow: "waiting", deadline_ms: 50 });
    expect(await ended(run.run_id)).toMatchObject({ state: "timed_out" });
  });

  test("a run waits through a restart, with its timer", async () => {
    const run = await server.client.startRun({ workflow: "waiting" });
    await waiting(run.run_id, "timer");
    await server.kill();
    server = await startUp(data, { QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
    expect(server.recovered).toBeGreaterThan(0);
    expect(await server.client.getRun(run.run_id)).toMatchObject({ state: "waiting", reason: "timer" });
    await server.client.act(run.run_id, "cancel");
  });
});

describe("approvals and budgets", () => {
  test("the requester may not approve; another may, once; the effect happens once", async () => {
    const before = Object.keys((await ledger.counts()).once).length;
    const run = await server.client.startRun({ workflow: "paying" });
    await waiting(run.run_id, "approval");
    const approval = await pending(run.run_id);
    expect(approval.shown).toMatchObject({ args: { n: 1 }, tool: "pay@1" });
    await expect(server.client.decide(approval.approval_id, "approve")).rejects.toMatchObject({
      code: "SELF_APPROVAL",
    });
    const approved = await cli(["approvals", "approve", approval.approval_id, "--as", "grace", "--note", "ok"], {
      data,
    });
    expect([approved.code, approved.err]).toEqual([0, ""]);
    expect(await ended(run.run_id)).toMatchObject({ state: "succeeded", cost_micro_usd: 500_000 });
    expect((await cli(["approvals", "approve", approval.approval_id, "--as", "eve"], { data })).code).toBe(1);
    expect(Object.keys((await ledger.counts()).once).length).toBe(before + 1);
  });

  test("a rejected call does not happen; the shared budget stops the call that it does not cover", async () => {
    const rejected = await server.client.startRun({ workflow: "paying" });
    await waiting(rejected.run_id, "approval");
    await cli(["approvals", "reject", (await pending(rejected.run_id)).approval_id, "--as", "grace"], { data });
    expect(await ended(rejected.run_id)).toMatchObject({ state: "failed", reason: "approval_rejected" });
    const second = await server.client.startRun({ workflow: "paying" });
    await waiting(second.run_id, "approval");
    await cli(["approvals", "approve", (await pending(second.run_id)).approval_id, "--as", "grace"], { data });
    expect((await ended(second.run_id)).state).toBe("succeeded");
    const third = await server.client.startRun({ workflow: "paying" });
    expect(await ended(third.run_id)).toMatchObject({ state: "budget_exceeded", reason: "day" });
  });

  test("a budget of the run itself stops it", async () => {
    const run = await server.client.startRun({ workflow: "quick", budget: { tool_calls: 1 } });
    expect(await ended(run.run_id)).toMatchObject({ state: "budget_exceeded", reason: "run.tool_calls" });
  });
});

describe("the HTTP contract", () => {
  const problem = async (response: Response) =>
    (await response.json()) as {
      code: keyof typeof ERRORS;
      status: number;
      errors?: { pointer: string }[];
      request_id: string;
      remedy: string;
    };

  test.each<[string, () => Promise<Response>, keyof typeof ERRORS]>([
    ["an unknown field", () => post("/runs", { workflow: "quick", nope: 1 }), "VALIDATION_ERROR"],
    ["no JSON", () => post("/runs", "{"), "VALIDATION_ERROR"],
    ["a duplicate key", () => post("/runs", '{"workflow":"quick","workflow":"quick"}'), "VALIDATION_ERROR"],
    ["an unknown query", () => raw("/runs?nope=1"), "VALIDATION_ERROR"],
    ["a page that is too large", () => raw("/runs?limit=201"), "VALIDATION_ERROR"],
    ["an unknown run", () => raw("/runs/run_00000000000000000000000000"), "NOT_FOUND"],
    ["a malformed id", () => raw("/runs/..%2F..%2Fetc"), "NOT_FOUND"],
    ["an unknown route", () => raw("/nope"), "NOT_FOUND"],
    ["an unknown workflow", () => post("/runs", { workflow: "nope" }), "RUN_REFUSED"],
    ["neither agent nor workflow", () => post("/runs", {}), "RUN_REFUSED"],
    [
      "another content type",
      () => raw("/runs", { method: "POST", headers: { "content-type": "text/plain" }, body: "{}" }),
      "UNSUPPORTED_MEDIA_TYPE",
    ],
    ["JSON where YAML is taken", () => post("/registry/apply", {}), "UNSUPPORTED_MEDIA_TYPE"],
    [
      "a foreign origin",
      () => post("/runs", { workflow: "quick" }, { origin: "http://evil.example" }),
      "ORIGIN_FORBIDDEN",
    ],
    [
      "a bad manifest",
      () =>
        raw("/registry/apply", { method: "POST", headers: { "content-type": "application/yaml" }, body: "kind: Nope" }),
      "MANIFEST_INVALID",
    ],
    [
      "a file that is no export",
      () => raw("/journal/import", { method: "POST", headers: { "content-type": "application/x-ndjson" }, body: "{}" }),
      "IMPORT_INVALID",
    ],
    [
      "an unknown import format",
      () =>
        raw("/journal/import/nope", {
          method: "POST",
          headers: { "content-type": "application/x-ndjson" },
          body: "{}",
        }),
      "IMPORT_INVALID",
    ],
    [
      "an artifact with another digest than it should have",
      () =>
        raw(`/artifacts?digest=${encodeURIComponent(`sha256:${"0".repeat(64)}`)}`, {
          method: "POST",
          headers: { "content-type": "application/octet-stream" },
          body: "bytes",
        }),
      "VALIDATION_ERROR",
    ],
    ["an unknown artifact", () => raw(`/artifacts/${encodeURIComponent(`sha256:${"0".repeat(64)}`)}`), "NOT_FOUND"],
  ])("%s", async (_name, call, code) => {
    const response = await call();
    const body = await problem(response);
    expect([body.code, response.status, response.headers.get("content-type")]).toEqual([
      code,
      ERRORS[code].status,
      "application/problem+json",
    ]);
    expect(body.remedy).toBe(ERRORS[code].remedy);
    expect(body.request_id).toMatch(/^req_/);
  });

  test("a body over the limit is refused by its announced length, before it is read", async () => {
    const { request } = await import("node:http");
    const answer = await new Promise<string>((resolve, reject) => {
      const headers = { "content-type": "application/json", "content-length": String(LIMITS.request_bytes_max + 1) };
      const req = request(`${server.url}/api/v1/runs`, { method: "POST", headers }, (res) => {
        let text = "";
        res.on("data", (chunk: Buffer) => (text += chunk.toString()));
        res.on("end", () => resolve(text));
      });
      req.on("error", reject);
      req.write("{");
    });
    expect((JSON.parse(answer) as { code: string }).code).toBe("PAYLOAD_TOO_LARGE");
  });

  test("an Idempotency-Key starts one run, also when it is used at the same time; another body is refused", async () => {
    const key = { "idempotency-key": "k-1" };
    const first = await post("/runs", { workflow: "quick" }, key);
    const second = await post("/runs", { workflow: "quick" }, key);
    expect([first.status, second.status, second.headers.get("idempotency-replayed")]).toEqual([201, 201, "true"]);
    expect(((await first.json()) as Run).run_id).toBe(((await second.json()) as Run).run_id);
    expect((await problem(await post("/runs", { workflow: "slow" }, key))).code).toBe("IDEMPOTENCY_MISMATCH");
    const many = await Promise.all(
      Array.from({ length: 8 }, () => post("/runs", { workflow: "quick" }, { "idempotency-key": "k-2" })),
    );
    const ids = await Promise.all(
      many
        .filter((response) => response.status === 201)
        .map(async (response) => ((await response.json()) as Run).run_id),
    );
    expect(new Set(ids).size).toBe(1);
  });

  test("an Idempotency-Key has n characters at most", async () => {
    const keyed = (n: number) => post("/runs", { workflow: "quick" }, { "idempotency-key": "k".repeat(n) });
    expect((await keyed(LIMITS.idempotency_key_chars_max)).status).toBe(201);
    expect((await problem(await keyed(LIMITS.idempotency_key_chars_max + 1))).code).toBe("VALIDATION_ERROR");
  });

  test("n streams are served at once, and one more is told to come later", async () => {
    const { run_id } = await server.client.startRun({ workflow: "waiting" });
    const abort = new AbortController();
    const stream = () => fetch(`${server.url}/api/v1/runs/${run_id}/stream`, { signal: abort.signal });
    // Kept: a response that nobody holds is collected, and its connection closed.
    const held: Response[] = [];
    while (held.length < LIMITS.sse_clients_max) held.push(...(await Promise.all(Array.from({ length: 100 }, stream))));
    expect(new Set(held.map((response) => response.status))).toEqual(new Set([200]));
    const refused = await stream();
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, expect.any(String)]);
    abort.abort();
    await post(`/runs/${run_id}/cancel`, {});
  });

  test("a stream resumes after Last-Event-ID without gap or double", async () => {
    const run = await ended((await server.client.startRun({ workflow: "quick" })).run_id);
    const seqs: number[] = [];
    for await (const event of server.client.watch(run.run_id)) seqs.push(event.seq);
    expect(seqs).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    const rest: number[] = [];
    for await (const event of server.client.watch(run.run_id, 5)) rest.push(event.seq);
    expect(rest).toEqual([6, 7, 8]);
  });

  test("pages hold every run once", async () => {
    const seen: string[] = [];
    for (let cursor = ""; ;) {
      const page = await server.client.json<{ items: Run[]; next_cursor: string | null }>(`/runs?limit=3${cursor}`);
      seen.push(...page.items.map((run) => run.run_id));
      if (page.next_cursor === null) break;
      cursor = `&cursor=${page.next_cursor}`;
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toEqual([...seen].sort().toReversed());
  });

  test("artifacts come back byte for byte", async () => {
    const bytes = Buffer.from(Array.from({ length: 5_000 }, (_, i) => i % 251));
    const put = await raw("/artifacts", {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: bytes,
    });
    const { digest } = (await put.json()) as { digest: string };
    expect(digest).toBe(`sha256:${sha256Hex(bytes)}`);
    expect(Buffer.from(await (await raw(`/artifacts/${encodeURIComponent(digest)}`)).arrayBuffer()).equals(bytes)).toBe(
      true,
    );
  });

  test("health, readiness and the description are public; the description is the repository's", async () => {
    expect(((await (await fetch(`${server.url}/healthz`)).json()) as { status: string }).status).toBe("ok");
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
    expect(await (await raw("/openapi.json")).json()).toEqual(
      JSON.parse(readFileSync(path.join(ROOT, "openapi.json"), "utf8")),
    );
  });
});

describe("the command line", () => {
  test("a manifest's fault is named with line and pointer, and exits with 2", async () => {
    const file = path.join(data, "bad.yaml");
    writeFileSync(
      file,
      "kind: Policy\nmetadata: { name: p }\nspec:\n  rules:\n    - id: a\n      effect: allow\n      when: cost >\n",
    );
    const result = await cli(["apply", "-f", file], { data });
    expect(result.code).toBe(2);
    expect(result.err).toContain("line 7 /spec/rules/0/when");
    const cycle = path.join(data, "cycle.yaml");
    writeFileSync(
      cycle,
      "kind: Workflow\nmetadata: { name: w }\nspec: { steps: [{ id: a, tool: noop, needs: [b] }, { id: b, tool: noop, needs: [a] }] }\n",
    );
    expect((await cli(["apply", "-f", cycle], { data })).err).toContain("wait for each other: a, b");
  });

  test("applying the same file again changes nothing", async () => {
    const file = path.join(data, "all.yaml");
    writeFileSync(file, MANIFESTS());
    const result = await cli(["apply", "-f", file, "--json"], { data });
    expect(
      (JSON.parse(result.out) as { items: { change: string }[] }).items.every((item) => item.change === "unchanged"),
    ).toBe(true);
  });

  test("run follows to the end; exit codes tell the outcome", async () => {
    expect((await cli(["run", "quick"], { data })).code).toBe(0);
    expect((await cli(["run", "denied"], { data })).code).toBe(1);
    expect((await cli(["runs", "get", "run_00000000000000000000000000"], { data })).code).toBe(4);
    expect((await cli(["runs", "get"], { data })).code).toBe(2);
    expect((await cli(["runs", "list", "--url", "http://127.0.0.1:1"])).code).toBe(6);
    const doctor = await cli(["doctor", "--json"], { data });
    expect(JSON.parse(doctor.out)).toMatchObject({ chain: { ok: true }, status: { embedded: true } });
  });

  test("a second owner of the data folder is refused with the process that owns it", async () => {
    const second = await cli(["up", "--port", "0"], { data });
    expect(second.code).toBe(6);
    expect(second.err).toContain(`in use by process ${server.child.pid}`);
  });

  test("export of a run verifies offline; one changed byte is refused with its place", async () => {
    const run = await ended((await server.client.startRun({ workflow: "quick" })).run_id);
    const file = path.join(data, "run.jsonl");
    expect((await cli(["export", run.run_id, "-o", file], { data })).code).toBe(0);
    expect((await cli(["verify", "--file", file])).out).toContain("verified");
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replace('\\"decision\\":\\"allow\\"', '\\"decision\\":\\"allov\\"'));
    const bad = await cli(["verify", "--file", file]);
    expect([bad.code, bad.err.includes("line ")]).toEqual([2, true]);
  });

  test("an exported run leads to a signed checkpoint; a key that did not sign vouches for nothing", async () => {
    const run = await ended((await server.client.startRun({ workflow: "quick" })).run_id);
    const file = path.join(data, "proven.jsonl");
    expect((await cli(["export", run.run_id, "-o", file], { data })).code).toBe(0);
    const seen = JSON.parse((await cli(["verify", "--file", file, "--json"])).out) as {
      appends: number;
      proven: { key_id: string; appends: number };
    };
    expect(seen.proven.appends).toBe(seen.appends);
    expect((await cli(["verify", "--file", file, "--key", seen.proven.key_id])).code).toBe(0);
    expect((await cli(["verify", "--file", file, "--key", "ed25519:0000000000000000"])).code).toBe(1);
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    const at = lines.findIndex((line) => line.includes('"type":"proof"'));
    for (const [from, to] of [
      [/"path":\["./, '"path":["'],
      [/"index":\d+/, '"index":999'],
      [/"checkpoint":\d+/, '"checkpoint":99999'],
    ] as const) {
      const changed = lines.with(at, (lines[at] ?? "").replace(from, to));
      writeFileSync(file, `${changed.join("\n")}\n`);
      const bad = await cli(["verify", "--file", file]);
      expect([bad.code, bad.err]).toEqual([2, expect.stringContaining(`line ${at + 1}`)]);
    }
  });

  test("export: minimal leaves artifacts out; encrypted is read with its passphrase alone", async () => {
    const run = await ended((await server.client.startRun({ workflow: "quick" })).run_id);
    const [full, minimal, sealed] = ["f.jsonl", "m.jsonl", "s.sealed"].map((name) => path.join(data, name));
    await cli(["export", run.run_id, "-o", full ?? ""], { data });
    await cli(["export", run.run_id, "--profile", "minimal", "-o", minimal ?? ""], { data });
    expect(readFileSync(minimal ?? "", "utf8")).not.toContain('"type":"artifact"');
    expect((await cli(["test", minimal ?? ""])).code).toBe(0);
    expect((await cli(["export", run.run_id, "--profile", "huge", "-o", "-"], { data })).code).toBe(2);
    const refused = await cli(["export", run.run_id, "--encrypt", "-o", sealed ?? ""], { data });
    expect([refused.code, refused.err]).toEqual([2, expect.stringContaining("QUARTERDECK_PASSPHRASE")]);
    const env = { QUARTERDECK_PASSPHRASE: "correct horse" };
    expect((await cli(["export", run.run_id, "--encrypt", "-o", sealed ?? ""], { data, env })).code).toBe(0);
    expect(readFileSync(sealed ?? "", "latin1")).not.toContain(run.run_id);
    expect((await cli(["verify", "--file", sealed ?? ""], { env })).code).toBe(0);
    expect((await cli(["test", sealed ?? ""], { env })).code).toBe(0);
    expect((await cli(["import", sealed ?? ""], { data, env })).out).toContain("1 were here already");
    expect((await cli(["verify", "--file", sealed ?? ""], { env: { QUARTERDECK_PASSPHRASE: "wrong" } })).code).toBe(2);
  });

  test("a backup restores on an empty server: runs, registry, open runs; twice changes nothing", async () => {
    const open = await server.client.startRun({ workflow: "waiting" });
    await waiting(open.run_id, "timer");
    const file = path.join(data, "all.jsonl");
    expect((await cli(["export", "--all", "-o", file], { data })).code).toBe(0);
    const folder = tempFolder("qd-restore");
    const other = await startUp(folder);
    const first = await cli(["import", file, "--json"], { data: folder });
    expect([first.code, first.err]).toEqual([0, ""]);
    expect(JSON.parse(first.out)).toMatchObject({ skipped: 0 });
    expect(JSON.parse((await cli(["import", file, "--json"], { data: folder })).out)).toMatchObject({ runs: 0 });
    expect(await other.client.getRun(open.run_id)).toMatchObject({ state: "waiting", reason: "timer" });
    expect((await cli(["verify", "--all"], { data: folder })).code).toBe(0);
    const budgets = async (at: Running) =>
      (await at.client.json<{ budgets: { spent_micro_usd: number }[] }>("/status")).budgets.map(
        (use) => use.spent_micro_usd,
      );
    expect(await budgets(other)).toEqual(await budgets(server));
    await other.client.act(open.run_id, "cancel");
    expect(
      await until("the restored run ends", async () =>
        (await other.client.getRun(open.run_id)).state === "cancelled" ? true : null,
      ),
    ).toBe(true);
    await other.stop();
    expect((await cli(["reset", "--yes"], { data: folder })).code).toBe(0);
    await server.client.act(open.run_id, "cancel").catch(() => null);
  });
});

describe("what goes out and what comes back", () => {
  test("a secret reaches its service and nothing else: no event, no log, no export holds it", async () => {
    const secret = "canary-7f3a9c";
    const { createServer } = await import("node:http");
    const seen: string[] = [];
    const echo = createServer((req, res) => {
      seen.push(String(req.headers.authorization));
      res
        .writeHead(req.url === "/fail" ? 400 : 200, { "content-type": "application/json" })
        .end(JSON.stringify({ echo: req.headers.authorization }));
    });
    const hooks: string[] = [];
    const hook = createServer((req, res) => {
      req.on("data", (chunk: Buffer) => hooks.push(chunk.toString()));
      req.on("end", () => res.end());
    });
    await Promise.all([echo, hook].map((http) => new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve))));
    const [echoUrl, hookUrl] = [echo, hook].map(
      (http) => `http://127.0.0.1:${(http.address() as { port: number }).port}`,
    );
    const folder = tempFolder("qd-secret");
    const own = await startUp(folder, {
      QUARTERDECK_PRIVATE_ORIGINS: echoUrl ?? "",
      QUARTERDECK_APPROVAL_WEBHOOK: hookUrl ?? "",
      QD_SECRET_ECHO: secret,
    });
    const http = (name: string, route: string) =>
      `kind: Tool\nmetadata: { name: ${name} }\nspec: { kind: http, method: GET, url: "${echoUrl}${route}", headers: { authorization: "Bearer {{env:QD_SECRET_ECHO}}" }, input_schema: { type: object } }`;
    await own.client.apply(
      [
        http("echo", "/ok"),
        http("fail", "/fail"),
        "kind: Workflow\nmetadata: { name: leak }\nspec: { steps: [{ id: a, tool: echo }, { id: b, tool: fail, on_error: continue }] }",
        "kind: Policy\nmetadata: { name: p }\nspec: { rules: [{ id: a, effect: require_approval, match: { tools: [echo] } }, { id: b, effect: allow, match: { tools: [fail] } }] }",
      ].join("\n---\n"),
    );
    const run = await own.client.startRun({ workflow: "leak" });
    const approval = await until("an approval", async () => (await own.client.approvals("pending")).items[0]);
    await until("the webhook is told", async () => hooks.some((text) => text.includes(approval.approval_id)));
    await cli(["approvals", "approve", approval.approval_id, "--as", "grace"], { data: folder });
    await until("the end", async () => ((await own.client.getRun(run.run_id)).state === "succeeded" ? true : null));
    expect(seen).toEqual([`Bearer ${secret}`, `Bearer ${secret}`]);
    const file = path.join(folder, "all.jsonl");
    await cli(["export", "--all", "-o", file], { data: folder });
    const text = readFileSync(file, "utf8");
    expect(text).toContain("[secret]");
    expect(text).not.toContain(secret);
    await own.stop();
    echo.close();
    hook.close();
    remove(folder);
  });
});

describe("credentials", () => {
  test("with credentials only known tokens get in, and only where they may", async () => {
    const folder = tempFolder("qd-auth");
    const config = path.join(folder, "config.yaml");
    writeFileSync(
      config,
      `credentials:\n  - { principal: ada, token_sha256: ${sha256Hex("s3cret")}, permissions: ["runs:read"] }\n`,
    );
    const own = await startUp(folder, {}, ["--config", config]);
    const call = (token?: string, method = "GET") =>
      fetch(`${own.url}/api/v1/runs`, {
        method,
        headers: { ...(token ? { authorization: `Bearer ${token}` } : {}), "content-type": "application/json" },
        ...(method === "POST" ? { body: "{}" } : {}),
      });
    expect([
      (await call()).status,
      (await call("wrong")).status,
      (await call("s3cret")).status,
      (await call("s3cret", "POST")).status,
    ]).toEqual([401, 401, 200, 403]);
    expect((await fetch(`${own.url}/healthz`)).status).toBe(200);
    await own.stop();
    const open = await cli(["up", "--host", "0.0.0.0", "--port", "0"], { data: folder });
    expect([open.code, open.err.includes("configure credentials first")]).toEqual([2, true]);
    remove(folder);
  });

  test("a node is served by the name that it advertises, and by no other", async () => {
    const folder = tempFolder("qd-name");
    const config = path.join(folder, "config.yaml");
    writeFileSync(
      config,
      `credentials:\n  - { principal: ada, token_sha256: ${sha256Hex("s3cret")}, permissions: ["runs:read"] }\n`,
    );
    const port = await freePort();
    const env = { QUARTERDECK_ADVERTISE_URL: `http://127.0.0.2:${port}` };
    const own = await startUp(folder, env, ["--config", config, "--host", "0.0.0.0", "--port", String(port)]);
    const status = async (host: string) =>
      (await fetch(`http://${host}:${port}/api/v1/runs`, { headers: { authorization: "Bearer s3cret" } })).status;
    expect([await status("127.0.0.1"), await status("127.0.0.2"), await status("127.0.0.3")]).toEqual([200, 200, 403]);
    await own.stop();
    remove(folder);
  });
});
