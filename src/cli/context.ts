// What commands share: where the server is, who acts, and how to print.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { InvalidArgumentError } from "commander";
import type { Command } from "commander";
import { Client } from "../sdk/client.ts";
import { printJson } from "./output.ts";

export interface Globals {
  readonly json: boolean;
  readonly url?: string;
  readonly token?: string;
  readonly as?: string;
  readonly data?: string;
}

export function globalsOf(command: Command): Globals {
  const options = command.optsWithGlobals<Partial<Globals>>();
  return { ...options, json: options.json === true };
}

/** Reads the text of an option that is a whole number, and gives it back as it is. */
export const wholeFrom =
  (least: number) =>
  (text: string): string => {
    if (/^\d{1,9}$/.test(text) && Number(text) >= least) return text;
    throw new InvalidArgumentError(`It has to be a whole number, ${least} at least.`);
  };

/** The running server of the data folder, unless --url or QUARTERDECK_URL names another. */
export function serverUrl(globals: Globals): string {
  const named = globals.url ?? process.env["QUARTERDECK_URL"];
  if (named !== undefined && named !== "") return named.replace(/\/$/, "");
  const marker = path.join(
    path.resolve(globals.data ?? process.env["QUARTERDECK_DATA"] ?? ".quarterdeck"),
    "server.json",
  );
  if (existsSync(marker)) return (JSON.parse(readFileSync(marker, "utf8")) as { url: string }).url;
  return "http://127.0.0.1:7800";
}

export function clientOf(globals: Globals): Client {
  const token = globals.token ?? process.env["QUARTERDECK_TOKEN"];
  return new Client({
    url: serverUrl(globals),
    ...(token === undefined || token === "" ? {} : { token }),
    ...(globals.as === undefined ? {} : { principal: globals.as }),
  });
}

/** Prints a value as JSON when asked to, else as words. */
export function show<T>(globals: Globals, value: T, words: (value: T) => void): void {
  if (globals.json) printJson(value);
  else words(value);
}

/** Resolves at the first SIGINT or SIGTERM. */
export function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    process.once("SIGINT", () => resolve());
    process.once("SIGTERM", () => resolve());
  });
}

const WATCH_MS = 1_000;

/** Shows once, or again each second until the terminal is closed. */
export async function shown<T>(globals: Globals, watch: boolean, read: () => Promise<T>, words: (value: T) => void) {
  for (;;) {
    const value = await read();
    if (watch && !globals.json) process.stdout.write("\x1b[2J\x1b[H");
    show(globals, value, words);
    if (!watch) return;
    await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
  }
}

/** Input as it was typed: JSON where it is some, else text. */
export function inputOf(text: string): unknown {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
