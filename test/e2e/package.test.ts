// The packed tarball, installed into an empty folder, as a user would: it must tell the whole story.
import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { cli, remove, ROOT, tempFolder } from "../support/processes.ts";

const npm = (args: string[], cwd: string) =>
  spawnSync("npm", args, { cwd, encoding: "utf8", timeout: 280_000, env: { ...process.env, NO_COLOR: "1" } });

test("npm pack, install, init and demo --once work from the tarball", () => {
  const folder = tempFolder("qd-pack");
  try {
    const packed = npm(["pack", "--ignore-scripts", "--pack-destination", folder], ROOT);
    expect(packed.status, packed.stderr).toBe(0);
    const tarball = readdirSync(folder).find((name) => name.endsWith(".tgz")) ?? "";
    npm(["init", "-y"], folder);
    cpSync(path.join(ROOT, ".npmrc"), path.join(folder, ".npmrc"));
    const installed = npm(["install", `./${tarball}`, "--prefer-offline"], folder);
    expect(installed.status, installed.stderr).toBe(0);
    const story = spawnSync("npx", ["quarterdeck", "demo", "--once", "--port", "0"], {
      cwd: folder,
      encoding: "utf8",
      env: { ...process.env, NO_COLOR: "1" },
    });
    expect(story.stdout).toContain("✓ the journal's chain verifies");
    expect([story.status, story.stdout.includes("\n  ✕ ")]).toEqual([0, false]);
    // What programs import: with its types, and without the rest of the program.
    const lines = [
      'import { startCapture } from "quarterdeck/capture";',
      'import type { CaptureRun } from "quarterdeck/capture";',
      'import { Client } from "quarterdeck/client";',
      'const capture = startCapture({ url: "http://127.0.0.1:9", spill: false, enabled: false });',
      "const n: number = await capture.run({ input: 1 }, (run: CaptureRun) => run.tool('t', {}, () => 41 + 1));",
      'console.log(n, new Client({ url: "http://127.0.0.1:9" }).url);',
      "await capture.close();",
    ];
    writeFileSync(path.join(folder, "uses.mts"), lines.join("\n"));
    const tsc = path.join(ROOT, "node_modules/typescript/bin/tsc");
    const types = path.join(ROOT, "node_modules/@types");
    const options = ["--module", "nodenext", "--target", "es2023", "--strict", "--types", "node", "--typeRoots", types];
    const compiled = spawnSync(process.execPath, [tsc, ...options, "uses.mts"], { cwd: folder, encoding: "utf8" });
    expect(compiled.stdout + compiled.stderr).toBe("");
    const ran = spawnSync(process.execPath, ["uses.mjs"], { cwd: folder, encoding: "utf8" });
    expect([ran.stdout, ran.stderr]).toEqual(["42 http://127.0.0.1:9\n", ""]);
    const init = spawnSync("npx", ["qd", "init", "project"], { cwd: folder, encoding: "utf8" });
    expect(init.status, init.stderr).toBe(0);
  } finally {
    remove(folder);
  }
});

test("npm start -- --once exits with 0 when all of the story happened", async () => {
  const folder = tempFolder("qd-demo");
  const story = await cli(["demo", "--once", "--port", "0"], { data: folder });
  expect(story.out).toContain("denied Denied by policy: files are not moved by agents");
  expect(story.out).toContain("approved by grace");
  expect([story.code, story.err]).toEqual([0, ""]);
  expect((await cli(["reset", "--yes"], { data: folder })).code).toBe(0);
});
