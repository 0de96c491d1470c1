// The lock on a data folder: one owner at a time, and proof that the last one is dead. The lock file names a process by
// pid and start time, so a reused pid is not mistaken for the owner. And the folder of the socket.
import { chmod, chown, link, lstat, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { AppError } from "../../contract/errors.ts";
import { errnoOf } from "../../kit/errno.ts";
import { processStart } from "./process.ts";

const LOCK = "owner.lock";

interface Owner {
  readonly pid: number;
  readonly started: string;
}

async function readOwner(file: string): Promise<{ text: string; owner: Owner | null } | null> {
  try {
    const text = await readFile(file, "utf8");
    const [pid, started] = text.split("\n");
    return { text, owner: pid && started ? { pid: Number(pid), started } : null };
  } catch {
    return null;
  }
}

async function isAlive(owner: Owner | null): Promise<boolean> {
  return owner !== null && (await processStart(owner.pid)) === owner.started;
}

/** Takes the folder. Throws DATA_FOLDER_IN_USE while another process owns it. Returns the release. */
export async function lockDataFolder(folder: string): Promise<() => Promise<void>> {
  await mkdir(folder, { recursive: true });
  const file = path.join(folder, LOCK);
  const mine = `${process.pid}\n${await processStart(process.pid)}\n`;
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      await writeFile(file, mine, { flag: "wx" });
      return async () => {
        if ((await readOwner(file))?.text === mine) await rm(file, { force: true });
      };
    } catch (error) {
      if (errnoOf(error) !== "EEXIST") throw error;
    }
    const current = await readOwner(file);
    if (current && (await isAlive(current.owner))) {
      throw new AppError(
        "DATA_FOLDER_IN_USE",
        `${folder} is in use by process ${current.owner?.pid}. Stop that process, or give another folder with --data`,
        { details: { folder, pid: current.owner?.pid } },
      );
    }
    if (current) await removeStale(file, current.text);
  }
  throw new AppError("DATA_FOLDER_IN_USE", `${folder}: the lock could not be taken; others keep taking it`);
}

/** Removes a dead owner's file, but never one that a faster process has just put in its place. */
async function removeStale(file: string, stale: string): Promise<void> {
  const aside = `${file}.${process.pid}`;
  try {
    await rename(file, aside);
  } catch {
    return;
  }
  const moved = await readOwner(aside);
  if (moved && moved.text !== stale) await link(aside, file).catch(() => undefined);
  await rm(aside, { force: true });
}

/**
 * The folder of the server's socket, in `/tmp`, whose names anybody can guess and take first. Who owns the folder could put
 * a socket of their own there and be our database; so it must be ours, and nobody else's to write to. Throws CONFIG_INVALID.
 */
export async function ownSocketFolder(folder: string, ids: { uid: number; gid: number } | null): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const there = await lstat(folder);
  const self = process.getuid?.() ?? there.uid;
  if (!there.isDirectory() || (there.uid !== self && there.uid !== ids?.uid)) {
    const what = there.isDirectory() ? `belongs to another user (uid ${there.uid})` : "is no folder";
    const message = `${folder}, for the database's socket, ${what}. Remove it, or choose another data folder with --data`;
    throw new AppError("CONFIG_INVALID", message, { details: { folder } });
  }
  await chmod(folder, 0o700);
  if (ids) await chown(folder, ids.uid, ids.gid);
}
