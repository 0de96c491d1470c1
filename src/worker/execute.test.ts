// The executor over a real socket and a real folder: what is large becomes an artifact, what is too large is refused.
import { createServer } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { FileBlobStore } from "../adapters/files/blob-store.ts";
import { EgressNet } from "../adapters/net/net.ts";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import type { JobOutcome, ToolJob } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import { remove, tempFolder } from "../../test/support/processes.ts";
import { createExecutor } from "./execute.ts";
import { JobContext, JobError } from "./pool.ts";

const TENANT = "ten_0000000000e008000000000001";
let server: Server;
let origin: string;
let folder: string;

/** `/text/N` answers N characters, `/hops/N` redirects N times. */
beforeAll(async () => {
  folder = tempFolder("qd-execute");
  server = createServer((req, res) => {
    const [, what, n] = (req.url ?? "").split("/");
    if (what === "hops" && Number(n) > 0) res.writeHead(302, { location: `/hops/${Number(n) - 1}` }).end();
    else res.writeHead(200, { "content-type": "text/plain" }).end("x".repeat(what === "text" ? Number(n) : 1));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.close();
  remove(folder);
});

async function call(path: string): Promise<JobOutcome> {
  const blobs = new FileBlobStore(folder);
  const execute = createExecutor({
    net: new EgressNet(),
    secrets: { resolve: () => Promise.reject(new Error("no secrets here")) },
    blobs,
    clock: systemClock,
    random: systemRandom,
    mcp: {
      discover: () => Promise.reject(new Error("no MCP here")),
      ask: () => Promise.reject(new Error("no MCP here")),
      call: () => Promise.reject(new Error("no MCP here")),
      close: () => Promise.resolve(),
    },
    private_origins: [origin],
    recording: () => Promise.reject(new Error("no recordings here")),
  });
  const tool: ToolJob["tool"] = {
    name: "get",
    version: 1,
    digest: "sha256:x",
    kind: "http",
    description: "",
    input_schema: { type: "object" },
    output_schema: null,
    effect_class: "read",
    idempotent: true,
    timeout_ms: 5_000,
    attempts_max: 1,
    cost_micro_usd: 0,
    config: { method: "GET", url: `${origin}${path}`, headers: {} },
  };
  const job: ToolJob = {
    tenant_id: TENANT,
    run_id: "run_x",
    step: 1,
    attempt: 1,
    kind: "tool",
    tool,
    args: {},
    idempotency_key: "k",
  };
  try {
    return await execute(job, new JobContext());
  } catch (error) {
    if (error instanceof JobError) return { ok: false, failure: error.failure };
    throw error;
  }
}

test("a result of n bytes stands in the event, one of n + 1 is an artifact", async () => {
  expect(await call(`/text/${LIMITS.inline_bytes_max}`)).toMatchObject({
    ok: true,
    result: "x".repeat(LIMITS.inline_bytes_max),
  });
  const large = await call(`/text/${LIMITS.inline_bytes_max + 1}`);
  expect(large).toMatchObject({ ok: true, result_ref: { bytes: LIMITS.inline_bytes_max + 1 } });
  const digest = large.ok && large.kind === "tool" ? (large.result_ref?.digest ?? "") : "";
  expect((await new FileBlobStore(folder).get(TENANT, digest)).length).toBe(LIMITS.inline_bytes_max + 1);
});

test("an answer may have n bytes and not n + 1", async () => {
  expect(await call(`/text/${LIMITS.tool_result_bytes_max}`)).toMatchObject({ ok: true });
  expect(await call(`/text/${LIMITS.tool_result_bytes_max + 1}`)).toMatchObject({ ok: false });
});

test("n redirects are followed and not n + 1", async () => {
  expect(await call(`/hops/${LIMITS.http_redirects_max}`)).toMatchObject({ ok: true, result: "x" });
  expect(await call(`/hops/${LIMITS.http_redirects_max + 1}`)).toMatchObject({
    ok: false,
    failure: { code: "egress_refused" },
  });
});

test("an artifact may have n bytes and not n + 1", async () => {
  const blobs = new FileBlobStore(folder);
  async function* bytes(size: number) {
    for (let left = size; left > 0; left -= 1_048_576) yield Buffer.alloc(Math.min(left, 1_048_576), 7);
  }
  const stored = await blobs.putStream(TENANT, bytes(LIMITS.artifact_bytes_max));
  expect(stored.size).toBe(LIMITS.artifact_bytes_max);
  await expect(blobs.putStream(TENANT, bytes(LIMITS.artifact_bytes_max + 1))).rejects.toThrow("larger than");
});
