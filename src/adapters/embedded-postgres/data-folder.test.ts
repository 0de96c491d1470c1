// The folder of the database's socket stands where every user of the machine may put one first.
import { chmodSync, chownSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { remove, tempFolder } from "../../../test/support/processes.ts";
import { ownSocketFolder } from "./data-folder.ts";

/** Whom the server runs as when root starts it. */
const SERVER = { uid: 65_534, gid: 65_534 };
let folder: string;
let place: string;
beforeEach(() => {
  folder = tempFolder("qd-socket");
  place = path.join(folder, "socket");
});
afterEach(() => remove(folder));
const mode = () => statSync(place).mode & 0o777;

test("it is made for its owner alone, and an own one that was open is closed", async () => {
  await ownSocketFolder(place, null);
  expect(mode()).toBe(0o700);
  chmodSync(place, 0o777);
  await ownSocketFolder(place, null);
  expect(mode()).toBe(0o700);
});

test("a link, or a file, is refused", async () => {
  const elsewhere = path.join(folder, "elsewhere");
  mkdirSync(elsewhere);
  symlinkSync(elsewhere, place);
  await expect(ownSocketFolder(place, null)).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining("is no folder"),
    details: { folder: place },
  });
  const file = path.join(folder, "file");
  writeFileSync(file, "");
  await expect(ownSocketFolder(file, null)).rejects.toThrow();
});

test("another user's is refused", async () => {
  // Where this process is not root, it is root that is another user.
  const isRoot = process.getuid?.() === 0;
  const theirs = isRoot ? place : "/usr";
  if (isRoot) {
    mkdirSync(place, { mode: 0o777 });
    chownSync(place, 12_345, 12_345);
  }
  await expect(ownSocketFolder(theirs, isRoot ? SERVER : null)).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining(`another user (uid ${isRoot ? 12_345 : 0})`),
  });
});

test.runIf(process.getuid?.() === 0)("root's server may have root's or its own", async () => {
  mkdirSync(place);
  for (const uid of [0, SERVER.uid]) {
    chownSync(place, uid, 0);
    await ownSocketFolder(place, SERVER);
    expect([statSync(place).uid, mode()]).toEqual([SERVER.uid, 0o700]);
  }
});
