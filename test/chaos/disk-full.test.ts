// A disk that fills up under a running server: what it cannot write it does not acknowledge, and when there is room again it
// goes on by itself. The disk is a small tmpfs, which only root may mount.
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readdirSync, rmSync, statfsSync, writeSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FileBlobStore } from "../../src/adapters/files/blob-store.ts";
import { TENANT } from "../support/engine.ts";
import { invariants, load, manifest } from "../support/chaos-world.ts";
import { remove, startLedger, startUp, tempFolder, until } from "../support/processes.ts";
import type { Ledger, Running } from "../support/processes.ts";

const ROUNDS = 3;
/** How long the disk stays full: longer than the server's own pauses. */
const FULL_MS = 4_000;
const disk = tempFolder("qd-full");
const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=320m,mode=0755", "tmpfs", disk], { encoding: "utf8" });
if (mounted.status !== 0)
  console.warn(`\nSKIPPED: the disk that fills up; a tmpfs cannot be mounted: ${mounted.stderr ?? mounted.error}\n`);

/** Takes all that is free, but for some bytes. */
function fill(file: string, left: number): void {
  const { bavail, bsize } = statfsSync(disk);
  const block = Buffer.alloc(1 << 20, 1);
  const fd = openSync(file, "w");
  try {
    for (let open = bavail * bsize - left; open > 0;) open -= writeSync(fd, block, 0, Math.min(block.length, open));
  } finally {
    closeSync(fd);
  }
}

/** A run's start, or why it was refused. */
const start = (server: Running) => server.client.startRun({ workflow: "chaos" }).catch((error: unknown) => error);

describe.skipIf(mounted.status !== 0)("a disk that is full", () => {
  let ledger: Ledger;
  let server: Running;
  const acknowledged = new Set<string>();
  const ballast = path.join(disk, "ballast");

  beforeAll(async () => {
    ledger = await startLedger(1);
    server = await startUp(path.join(disk, "data"), { QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
    await server.client.apply(manifest(ledger));
  });
  afterAll(async () => {
    await server?.stop();
    ledger.stop();
    spawnSync("umount", ["-l", disk]);
    remove(disk);
  });

  test("nothing acknowledged is lost, and it goes on when there is room", async () => {
    for (let round = 0; round < ROUNDS; round++) {
      fill(ballast, 1 << 20);
      // Each client ends at its first refusal; others knock on while the disk stays full.
      await load(server, 8, acknowledged);
      fill(`${ballast}-rest`, 0);
      const end = performance.now() + FULL_MS;
      while (performance.now() < end) await load(server, 1, acknowledged);
      expect(await start(server)).toMatchObject({ code: "DATABASE_UNAVAILABLE" });
      expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
      rmSync(`${ballast}-rest`);
      rmSync(ballast);
      await until("it takes runs again", async () => {
        const run = await server.client.startRun({ workflow: "chaos" }).catch(() => null);
        if (run) acknowledged.add(run.run_id);
        return run;
      });
    }
    expect(server.log()).toContain("No space left on device");
    await invariants(server, ledger, acknowledged);
    expect(acknowledged.size).toBeGreaterThan(ROUNDS);
  });

  test("an artifact is kept whole, or refused with what to do and without a trace", async () => {
    const blobs = new FileBlobStore(path.join(disk, "blobs"));
    await blobs.put(TENANT, Buffer.from("first"));
    fill(ballast, 100 << 10);
    // In one piece, so that a part of it still has room.
    const content = randomBytes(150 << 10);
    const files = () => readdirSync(path.join(disk, "blobs"), { recursive: true }).length;
    const before = files();
    await expect(blobs.put(TENANT, content)).rejects.toMatchObject({
      code: "DEPENDENCY_UNAVAILABLE",
      message: expect.stringContaining("no room on the disk"),
    });
    expect(files()).toBe(before);
    rmSync(ballast);
    const digest = await blobs.put(TENANT, content);
    expect((await blobs.get(TENANT, digest)).equals(content)).toBe(true);
  });

  test("a server does not start on it, and says why; with room it starts and has everything", async () => {
    // With its database, which would otherwise be found running and be taken over.
    await server.stop();
    fill(ballast, 0);
    const again = () => startUp(path.join(disk, "data"), { QUARTERDECK_PRIVATE_ORIGINS: ledger.url });
    await expect(again()).rejects.toThrow(/No space left on device|ENOSPC/);
    rmSync(ballast);
    server = await again();
    await invariants(server, ledger, acknowledged);
  });
});
