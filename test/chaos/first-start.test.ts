// The first start makes the database. Killed on the way, at any moment, it leaves nothing that a second start trips over; and
// what is not understood is never deleted.
import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { BIN, remove, startUp, tempFolder } from "../support/processes.ts";

const KILLS = 8;
const STEP_MS = 150;

/** Starts it and kills it after a while. Resolves when it is gone. */
function killedAfter(data: string, delay_ms: number): Promise<void> {
  const child = spawn(process.execPath, [BIN, "up", "--port", "0", "--data", data], { stdio: "ignore" });
  const timer = setTimeout(() => child.kill("SIGKILL"), delay_ms);
  return new Promise((resolve) =>
    child.once("exit", () => {
      clearTimeout(timer);
      resolve();
    }),
  );
}

test("a first start that is killed on the way is done again", async () => {
  for (let kill = 1; kill <= KILLS; kill++) {
    const data = tempFolder("qd-first-start");
    await killedAfter(data, kill * STEP_MS);
    const server = await startUp(data);
    expect(await server.client.json("/journal/verify", { method: "POST", body: {} })).toMatchObject({ faults: [] });
    await server.stop();
    // A program of the first start that was still about may have come too late to be cleared away; it holds nothing.
    expect(readdirSync(data)).toContain("postgres");
    remove(data);
  }
});

test("a folder of files that is no database is refused and left as it is", async () => {
  const data = tempFolder("qd-first-start");
  const folder = path.join(data, "postgres");
  mkdirSync(folder);
  writeFileSync(path.join(folder, "precious"), "mine");
  await expect(startUp(data)).rejects.toThrow(/CONFIG_INVALID[^]*holds files and no PG_VERSION/);
  expect(readFileSync(path.join(folder, "precious"), "utf8")).toBe("mine");
  rmSync(folder, { recursive: true });
  await (await startUp(data)).stop();
  remove(data);
});
