import { expect, test } from "vitest";
import { decrypted, encrypted, isEncrypted } from "./sealed-file.ts";

test("what was encrypted comes back with its passphrase, and with nothing else", () => {
  const text = `{"type":"header"}\n${"grüezi 🎉\n".repeat(1_000)}`;
  const bytes = encrypted(text, "correct horse");
  expect(isEncrypted(bytes)).toBe(true);
  expect(isEncrypted(Buffer.from(text))).toBe(false);
  expect(bytes.includes("grüezi")).toBe(false);
  expect(decrypted(bytes, "correct horse")).toBe(text);
  expect(() => decrypted(bytes, "battery staple")).toThrow(/passphrase is wrong/);
  expect(encrypted(text, "correct horse").equals(bytes)).toBe(false);
});

test("no byte can be changed: neither of the first line, the content nor the tag", () => {
  const bytes = encrypted("content", "p");
  const first = bytes.indexOf("\n");
  // In the salt, in the vector, behind the first line, at the end.
  for (const at of [bytes.indexOf('"salt":"') + 9, bytes.indexOf('"iv":"') + 7, first + 2, bytes.length - 1]) {
    const changed = Buffer.from(bytes);
    changed[at] = changed[at] === 0x61 ? 0x62 : 0x61;
    expect(() => decrypted(changed, "p"), `byte ${at}`).toThrow(/wrong|changed/);
  }
  const costly = Buffer.from(bytes.toString("latin1").replace('"N":65536', '"N":99999999'), "latin1");
  expect(() => decrypted(costly, "p")).toThrow(/cost/);
});
