// Keys and the witness beside the database: never half a key, never a guessable one, never a witness that is not read.
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { remove, tempFolder } from "../../../test/support/processes.ts";
import { FileWitness, loadSigner, loadTenantKeys } from "./keys.ts";

let folder: string;
beforeEach(() => void (folder = tempFolder("qd-keys")));
afterEach(() => remove(folder));

test("keys are made once, also by many at once, and nothing else is left", async () => {
  const signers = await Promise.all(Array.from({ length: 8 }, () => loadSigner(folder)));
  const keys = await Promise.all(Array.from({ length: 8 }, () => loadTenantKeys(folder)));
  expect(new Set(signers.map((signer) => signer.key_id)).size).toBe(1);
  expect(new Set(keys.map((key) => Buffer.from(key("ten_1")).toString("hex"))).size).toBe(1);
  expect(readdirSync(folder).sort()).toEqual(["checkpoint.pem", "tenants.key"]);
});

test.each([0, 10])("a key of which only %d bytes are there is refused with its file, not used", async (bytes) => {
  await loadSigner(folder);
  await loadTenantKeys(folder);
  for (const file of ["checkpoint.pem", "tenants.key"]) truncateSync(path.join(folder, file), bytes);
  const refused = (file: string) => ({ code: "CONFIG_INVALID", details: { file: path.join(folder, file) } });
  await expect(loadSigner(folder)).rejects.toMatchObject(refused("checkpoint.pem"));
  await expect(loadTenantKeys(folder)).rejects.toMatchObject(refused("tenants.key"));
});

test("a torn line of the witness does not take the next one with it", async () => {
  const file = path.join(folder, "witness.jsonl");
  const witness = new FileWitness(file);
  expect(await witness.lines()).toEqual([]);
  await witness.record('{"n":1}');
  writeFileSync(file, `${readFileSync(file, "utf8")}{"n":`);
  await witness.record('{"n":2}');
  await witness.record('{"n":3}');
  expect(await witness.lines()).toEqual(['{"n":1}', '{"n":', '{"n":2}', '{"n":3}']);
});

test("a witness that cannot be read is an error, not an empty one", async () => {
  const file = path.join(folder, "witness.jsonl");
  mkdirSync(file);
  await expect(new FileWitness(file).lines()).rejects.toThrow(/EISDIR/);
});
