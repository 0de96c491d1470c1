// DBOS Transact on a Postgres of the same kind as ours (embedded binaries, fsync on), reached over a Unix socket.
import { createRequire } from "node:module";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { serve } from "./peer-lines.mjs";

const folder = process.argv[2];
const require = createRequire(path.join(folder, "package.json"));
const { DBOS } = await import(pathToFileURL(require.resolve("@dbos-inc/dbos-sdk")).href);
const { startEmbeddedPostgres } = await import("../dist/adapters/embedded-postgres/supervisor.js");
const { systemClock } = await import("../dist/adapters/system/system.js");
const data = mkdtempSync(path.join(tmpdir(), "dbos-"));
chmodSync(data, 0o755);
const postgres = await startEmbeddedPostgres(data, systemClock);
const RESULT = "x".repeat(200);
const step = DBOS.registerStep(async () => RESULT, { name: "step" });
const flows = {
  w1: DBOS.registerWorkflow(
    async () => {
      for (let i = 0; i < 10; i++) await step();
    },
    { name: "w1" },
  ),
  w2: DBOS.registerWorkflow(
    async () => {
      for (let i = 0; i < 1000; i++) await step();
    },
    { name: "w2" },
  ),
  w3: DBOS.registerWorkflow(
    async () => {
      await Promise.all(Array.from({ length: 1000 }, () => step()));
      await step();
    },
    { name: "w3" },
  ),
};
const url = `postgresql://postgres@localhost/dbos?host=${encodeURIComponent(postgres.socket_dir)}`;
DBOS.setConfig({ name: "bench", systemDatabaseUrl: url, runAdminServer: false, logLevel: "error" });
await DBOS.launch();
serve(
  (_id, workload) => {
    const flow = flows[workload];
    return flow();
  },
  async () => {
    await DBOS.shutdown();
    await postgres.stop();
    rmSync(data, { recursive: true, force: true });
  },
);
