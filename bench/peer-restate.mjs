// Restate: server from npm (journal with fsync), one endpoint in this process, workflows as handlers of a service.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { serve } from "./peer-lines.mjs";

// The SDK uses this; Node 20 does not have it yet.
Promise.withResolvers ??= function withResolvers() {
  let resolve;
  let reject;
  const promise = new Promise((a, b) => {
    resolve = a;
    reject = b;
  });
  return { promise, resolve, reject };
};

const folder = process.argv[2];
const require = createRequire(path.join(folder, "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const restate = await load("@restatedev/restate-sdk");
const clients = await load("@restatedev/restate-sdk-clients");
const RESULT = "x".repeat(200);

const bench = restate.service({
  name: "bench",
  handlers: {
    w1: async (ctx) => {
      for (let i = 0; i < 10; i++) await ctx.run(`s${i}`, () => RESULT);
    },
    w2: async (ctx) => {
      for (let i = 0; i < 1000; i++) await ctx.run(`s${i}`, () => RESULT);
    },
    w3: async (ctx) => {
      await restate.RestatePromise.all(Array.from({ length: 1000 }, (_, i) => ctx.run(`s${i}`, () => RESULT)));
      await ctx.run("join", () => RESULT);
    },
  },
});
const port = 19_080;
await restate.serve({ services: [bench], port });
const data = mkdtempSync(path.join(tmpdir(), "restate-"));
const binary = path.join(
  path.dirname(require.resolve("@restatedev/restate-server/package.json")),
  "../../.bin/restate-server",
);
const server = spawn(binary, ["--base-dir", data, "--node-name", "bench"], {
  stdio: "ignore",
  detached: true,
  env: {
    ...process.env,
    RESTATE_INGRESS__BIND_ADDRESS: "127.0.0.1:18080",
    RESTATE_ADMIN__BIND_ADDRESS: "127.0.0.1:19070",
    RESTATE_BIND_ADDRESS: "127.0.0.1:15122",
    RESTATE_LOG_FILTER: "error",
    RESTATE_DISABLE_TELEMETRY: "true",
  },
});
for (let tries = 0; ; tries++) {
  const ok = await fetch("http://127.0.0.1:19070/health").then(
    (r) => r.ok,
    () => false,
  );
  if (ok) break;
  if (tries > 150) throw new Error("restate did not start");
  await new Promise((resolve) => setTimeout(resolve, 200));
}
const registered = await fetch("http://127.0.0.1:19070/deployments", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ uri: `http://127.0.0.1:${port}` }),
});
if (!registered.ok) throw new Error(await registered.text());
const ingress = clients.connect({ url: "http://127.0.0.1:18080" });
serve(
  (_id, workload) => ingress.serviceClient(bench)[workload](),
  async () => {
    // The bin is a launcher: the server is its child, in the same process group.
    process.kill(-Number(server.pid), "SIGKILL");
    rmSync(data, { recursive: true, force: true });
  },
);
