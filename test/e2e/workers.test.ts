// Control plane and remote workers as processes of their own, over HTTP, with the queue in process and over Redis.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from "vitest";
import { Redis } from "ioredis";
import type { Run } from "../../src/contract/runs.ts";
import type { QueueView, WorkerView } from "../../src/contract/workers.ts";
import { freePort } from "../../scripts/services.mjs";
import { NOOP_AND_NAP } from "../support/manifests.ts";
import { cli, remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";
import { mint, startWorker } from "../support/workers.ts";
import type { WorkerProcess } from "../support/workers.ts";

const redis_url = inject("redis_url") ?? "";
const LEDGER_MS = 600;

const LARGE = "large output of a job, ".repeat(1_000);
const manifests = (ledger: Ledger, root: string) => `${NOOP_AND_NAP}
kind: Tool
metadata: { name: train }
spec: { kind: builtin, builtin: noop, runs_on: [gpu] }
---
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger.url}/once", effect_class: irreversible, input_schema: { type: object } }
---
kind: Tool
metadata: { name: put }
spec: { kind: http, method: POST, url: "${ledger.url}/idem", effect_class: write, idempotent: true, attempts_max: 2, input_schema: { type: object } }
---
kind: Tool
metadata: { name: read }
spec: { kind: builtin, builtin: file_read, root: ${root} }
---
kind: Workflow
metadata: { name: reading }
spec: { steps: [{ id: a, tool: read, args: { path: large.txt } }] }
---
kind: Workflow
metadata: { name: quick }
spec: { steps: [{ id: a, tool: noop }, { id: b, tool: put }, { id: c, tool: noop }] }
---
kind: Workflow
metadata: { name: slow }
spec: { steps: [{ id: a, tool: nap, args: { ms: 20000 } }] }
---
kind: Workflow
metadata: { name: training }
spec: { steps: [{ id: a, tool: train }] }
---
kind: Workflow
metadata: { name: paying }
spec: { steps: [{ id: a, tool: pay }] }
---
kind: Workflow
metadata: { name: putting }
spec: { steps: [{ id: a, tool: put }] }
---
kind: Policy
metadata: { name: main }
spec: { rules: [{ id: all, effect: allow, match: { tools: ["*"] } }] }
`;

for (const [driver, redis] of [
  ["in process", ""],
  ["over Redis", redis_url],
] as const)
  describe.skipIf(driver === "over Redis" && redis === "")(`remote workers, queue ${driver}`, () => {
    let ledger: Ledger;
    let folder: string;
    let port: number;
    let server: Running;
    const workers: WorkerProcess[] = [];
    const queue_name = `e2e-${process.pid}-${driver.length}`;

    const up = () =>
      startUp(
        folder,
        {
          QUARTERDECK_ROLE: "control",
          QUARTERDECK_PRIVATE_ORIGINS: ledger.url,
          QUARTERDECK_QUEUE_NAME: queue_name,
          ...(redis === "" ? {} : { REDIS_URL: redis }),
        },
        ["--port", String(port)],
      );
    const work = async (token: string, args: string[] = []) => {
      const env = { QUARTERDECK_PRIVATE_ORIGINS: ledger.url };
      const worker = await startWorker(tempFolder("qd-worker"), { control: server.url, token, args, env });
      workers.push(worker);
      return worker;
    };
    const ended = async (run: Run, state = "succeeded") => {
      const probe = async () => {
        const now = await server.client.getRun(run.run_id);
        return now.state === state ? now : null;
      };
      return until(`run ${run.run_id} is ${state}`, probe).catch(async (error: Error) => {
        const { items } = await server.client.events(run.run_id);
        const said = items.map(({ type, seq }) => `${seq} ${type}`).join(", ");
        throw new Error(`${error.message}; it has ${said}; ${JSON.stringify([await queues(), await list()])}`);
      });
    };
    const queues = () => server.client.json<QueueView>("/queues");
    const leased = () => until("a job is out", async () => (await queues()).running > 0);
    const heard = async () => {
      const { once, idem } = await ledger.counts();
      return [...Object.values(once), ...Object.values(idem)].reduce((sum, count) => sum + count, 0);
    };
    /** A job that is out may still be on its way: only its call shows that a worker has it. */
    const called = (before: number) => until("a worker makes its call", async () => (await heard()) > before);
    const list = async () => (await server.client.json<{ items: WorkerView[] }>("/workers")).items;

    beforeAll(async () => {
      ledger = await startLedger(LEDGER_MS);
      folder = tempFolder("qd-control");
      port = await freePort();
      writeFileSync(path.join(folder, "large.txt"), LARGE);
      server = await up();
      await server.client.apply(manifests(ledger, folder));
    });
    afterEach(async () => {
      for (const worker of workers.splice(0)) await worker.kill();
    });
    afterAll(async () => {
      await server?.stop();
      ledger?.stop();
      if (folder) remove(folder);
    });

    test("jobs run on workers and nowhere else", async () => {
      const run = await server.client.startRun({ workflow: "quick" });
      await until("the job waits", async () => (await queues()).waiting === 1);
      const token = await mint(server, "plain");
      await work(token);
      await work(token);
      expect(await ended(run)).toMatchObject({ steps: 3 });
      const [view] = await list();
      expect(view).toMatchObject({ name: "plain", revoked_at: null });
      expect(view?.instances.reduce((sum, one) => sum + one.completed, 0)).toBe(3);
      const figures = await queues();
      expect(figures.driver).toBe(driver === "in process" ? "in-process" : "redis");
      // Three came and three were done, within the same minute.
      expect(figures.done_per_s).toBeGreaterThan(0);
      expect(figures.arrived_per_s).toBeCloseTo(figures.done_per_s, 6);
      const words = await cli(["workers", "list", "--url", server.url]);
      expect(words.out).toContain("plain");
      const again = await cli(["workers", "mint", "plain", "--url", server.url, "--json"]);
      expect([again.code, (JSON.parse(again.err || again.out) as { code: string }).code]).toEqual([1, "WORKER_EXISTS"]);
    });

    test("a large output travels as an artifact", async () => {
      await work(await mint(server, "reader"));
      const run = await ended(await server.client.startRun({ workflow: "reading" }));
      const { items } = await server.client.events(run.run_id);
      const completed = items.find((event) => event.type === "tool.completed");
      const { digest, bytes } = (completed?.data["result_ref"] ?? {}) as { digest: string; bytes: number };
      expect(bytes).toBeGreaterThanOrEqual(LARGE.length);
      const stored = await server.client.fetch(`/artifacts/${encodeURIComponent(digest)}`);
      expect(await stored.text()).toContain(LARGE);
    });

    test("a job that needs a label waits for a worker that has it, and no worker can claim one", async () => {
      const plain = await mint(server, "no-gpu");
      await work(plain);
      const flags = ["run", "training", "--workflow", "--priority", "9", "--detach", "--json", "--url", server.url];
      const run = JSON.parse((await cli(flags)).out) as Run;
      await until("the job waits", async () => (await queues()).lanes[0]?.waiting === 1);
      expect((await queues()).lanes).toMatchObject([{ priority: 9, needs: ["gpu"], served_by: 0 }]);
      const liar = await work(plain, ["--labels", "gpu"]);
      expect(await liar.exit).toBe(3);
      const stranger = await work("not-a-token-of-a-worker");
      expect(await stranger.exit).toBe(3);
      await work(await mint(server, "with-gpu", ["gpu", "eu"]), ["--labels", "gpu"]);
      await ended(run);
    });

    test("a cancelled run stops its worker within 2 s", async () => {
      const worker = await work(await mint(server, "stopped"));
      const run = await server.client.startRun({ workflow: "slow" });
      await leased();
      const begun = performance.now();
      await server.client.act(run.run_id, "cancel");
      await until("the worker has stopped", async () =>
        (await (await fetch(`${worker.url}/metrics`)).text()).includes('quarterdeck_worker_running{role="worker"} 0'),
      );
      expect(performance.now() - begun).toBeLessThan(2_500);
      await ended(run, "cancelled");
    });

    test("SIGTERM lets a worker finish; revoking its credential ends it", async () => {
      const token = await mint(server, "leaving");
      const worker = await work(token);
      const run = await server.client.startRun({ workflow: "paying" });
      await leased();
      expect(await worker.stop()).toBe(0);
      await ended(run);
      const second = await work(token);
      await cli(["workers", "revoke", "leaving", "--url", server.url]);
      expect(await second.exit).toBe(3);
      expect((await list()).find((view) => view.name === "leaving")?.revoked_at).not.toBeNull();
    });

    test("a drained worker ends by itself when it has done what it had", async () => {
      const token = await mint(server, "drained");
      const worker = await work(token);
      const run = await server.client.startRun({ workflow: "paying" });
      await leased();
      expect((await cli(["workers", "drain", "drained", "--url", server.url])).code).toBe(0);
      expect(await worker.exit).toBe(0);
      await ended(run);
      // Its next process is another one.
      await work(token);
      await ended(await server.client.startRun({ workflow: "quick" }));
    });

    test("a killed worker: what is idempotent runs again, what is not is in doubt, and nothing happens twice", async () => {
      const token = await mint(server, "killed");
      const worker = await work(token);
      const [before, calls] = [await ledger.counts(), await heard()];
      const [put, pay] = [
        await server.client.startRun({ workflow: "putting" }),
        await server.client.startRun({ workflow: "paying" }),
      ];
      await called(calls + 1);
      await worker.kill();
      const doubtful = await ended(pay, "waiting");
      expect(doubtful.reason).toBe("in_doubt");
      await work(token);
      await ended(put);
      const after = await ledger.counts();
      expect(Object.values(after.once).every((count) => count === 1)).toBe(true);
      expect(Object.keys(after.once).length - Object.keys(before.once).length).toBeLessThanOrEqual(1);
      await server.client.act(pay.run_id, "cancel");
    });

    test("a job that no worker survives becomes a dead letter, blocks nobody, and can be requeued", async () => {
      const token = await mint(server, "poisoned");
      const run = await server.client.startRun({ workflow: "putting" });
      for (let attempt = 1; attempt <= 2; attempt++) {
        const before = await heard();
        const worker = await work(token);
        await called(before);
        await worker.kill();
        await until("the job is lost", async () => (await queues()).running === 0);
      }
      await ended(run, "waiting");
      expect((await queues()).dead).toMatchObject([{ run_id: run.run_id, step: 1, target: "put@1", attempt: 2 }]);
      await work(token);
      await ended(await server.client.startRun({ workflow: "quick" }));
      const requeued = await cli(["queues", "requeue", run.run_id, "1", "--url", server.url]);
      expect(requeued.code).toBe(0);
      await ended(run);
      expect((await queues()).dead).toEqual([]);
    });

    test("the control plane is killed while a worker pays: the result arrives later and settles the doubt", async () => {
      await work(await mint(server, "patient"));
      const [before, calls] = [Object.keys((await ledger.counts()).once).length, await heard()];
      const run = await server.client.startRun({ workflow: "paying" });
      await called(calls);
      await server.kill();
      await new Promise((resolve) => setTimeout(resolve, LEDGER_MS * 2));
      server = await up();
      await ended(run);
      const { once } = await ledger.counts();
      expect(Object.keys(once).length - before).toBe(1);
      expect(Object.values(once).every((count) => count === 1)).toBe(true);
      expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ ok: true });
    });

    if (redis !== "")
      test("Redis may lose everything: what waits is run within seconds", async () => {
        const direct = new Redis(redis);
        const runs = await Promise.all(
          Array.from({ length: 20 }, () => server.client.startRun({ workflow: "putting" })),
        );
        await direct.flushall();
        await work(await mint(server, "flushed"));
        for (const run of runs) await ended(run);
        direct.disconnect();
      });

    test("each role shows its figures and its health", async () => {
      const worker = await work(await mint(server, "measured"));
      await ended(await server.client.startRun({ workflow: "quick" }));
      const control = await (await fetch(`${server.url}/api/v1/metrics`)).text();
      for (const name of [
        "http_requests_total",
        "append_batch_rows",
        "queue_wait_seconds",
        "workers",
        "journal_head",
      ]) {
        expect(control).toContain(`quarterdeck_${name}`);
      }
      expect(await (await fetch(`${worker.url}/metrics`)).text()).toMatch(/quarterdeck_worker_accepted\S* [1-9]/);
      expect((await fetch(`${worker.url}/readyz`)).status).toBe(200);
      await server.kill();
      await until("the worker is not ready", async () => (await fetch(`${worker.url}/readyz`)).status === 503);
      expect((await fetch(`${worker.url}/healthz`)).status).toBe(200);
      server = await up();
      await until("the worker is ready again", async () => (await fetch(`${worker.url}/readyz`)).ok);
    });
  });
