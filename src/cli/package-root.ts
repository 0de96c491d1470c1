import path from "node:path";
import { fileURLToPath } from "node:url";

/** Folder of the installed package: where the examples are. */
export const PACKAGE_ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
