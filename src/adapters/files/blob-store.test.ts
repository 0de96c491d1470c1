// Artifacts on disk: one file for one content, compressed where that helps, and never other bytes than its digest's.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { remove, tempFolder } from "../../../test/support/processes.ts";
import { TENANT } from "../../../test/support/engine.ts";
import { digestOf } from "../../kit/hash.ts";
import { FileBlobStore } from "./blob-store.ts";

let folder: string;
let blobs: FileBlobStore;
beforeEach(() => {
  folder = tempFolder("qd-blobs");
  blobs = new FileBlobStore(folder);
});
afterEach(() => remove(folder));

const files = (): string[] =>
  readdirSync(folder, { recursive: true })
    .map((name) => path.join(folder, String(name)))
    .filter((name) => statSync(name).isFile());

test("the same content is one file, and comes back as it was", async () => {
  for (const content of ["", "short", "x".repeat(5_000), "grüezi 🎉".repeat(1_000)]) {
    const before = files().length;
    const [one, two] = await Promise.all([
      blobs.put(TENANT, Buffer.from(content)),
      blobs.put(TENANT, Buffer.from(content)),
    ]);
    expect([one, two]).toEqual([digestOf(content), digestOf(content)]);
    await blobs.put(TENANT, Buffer.from(content));
    expect(files()).toHaveLength(before + 1);
    expect((await blobs.get(TENANT, one ?? "")).toString()).toBe(content);
    expect(await blobs.has(TENANT, one ?? "")).toBe(true);
  }
  const listed: string[] = [];
  for await (const digest of blobs.list(TENANT)) listed.push(digest);
  expect(listed).toContain(digestOf("x".repeat(5_000)));
  expect(listed).toHaveLength(4);
});

test("a large text takes little room; what cannot be compressed is left as it is", async () => {
  const text = Buffer.from("The quick brown fox jumps over the lazy dog. ".repeat(233_000));
  expect(text.length).toBeGreaterThan(10_000_000);
  const digest = await blobs.put(TENANT, text);
  expect(statSync(files()[0] ?? "").size).toBeLessThan(text.length / 20);
  expect((await blobs.get(TENANT, digest)).equals(text)).toBe(true);
  const noise = Buffer.from(Array.from({ length: 20_000 }, (_, i) => digestOf(String(i)).slice(7, 9)).join(""), "hex");
  const other = await blobs.put(TENANT, noise);
  expect(files().find((name) => name.endsWith(other.slice(9)))).toBeDefined();
});

test.each([
  ["packed", "z".repeat(10_000)],
  ["plain", "small"],
])("a byte that was changed on the disk is found: %s", async (_name, content) => {
  const digest = await blobs.put(TENANT, Buffer.from(content));
  const [file = ""] = files();
  const bytes = readFileSync(file);
  for (const at of [0, Math.floor(bytes.length / 2), bytes.length - 1]) {
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] ?? 0) ^ 1;
    writeFileSync(file, changed);
    await expect(blobs.get(TENANT, digest), `byte ${at}`).rejects.toMatchObject({ code: "ARTIFACT_CORRUPT" });
  }
  writeFileSync(file, bytes.subarray(0, -1));
  await expect(blobs.get(TENANT, digest)).rejects.toMatchObject({ code: "ARTIFACT_CORRUPT" });
  await expect(blobs.get(TENANT, digestOf("other"))).rejects.toMatchObject({ code: "NOT_FOUND" });
});

test("a folder of artifacts that cannot be read is an error, not an empty one", async () => {
  writeFileSync(path.join(folder, TENANT), "");
  const listed = async () => {
    for await (const digest of blobs.list(TENANT)) void digest;
  };
  await expect(listed()).rejects.toThrow(/ENOTDIR/);
});
