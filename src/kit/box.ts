// Boxes: bytes that only whoever has the key can read, and that nobody can change unseen. AES-256-GCM (NIST SP 800-38D); the
// start value stands before them, the tag after.
import { createCipheriv, createDecipheriv } from "node:crypto";
import type { Random } from "./random.ts";

const CIPHER = "aes-256-gcm";
const IV_BYTES = 12;
const TAG_BYTES = 16;

export const BOX_KEY_BYTES = 32;

export function boxed(key: Uint8Array, random: Random, bytes: Uint8Array): Buffer {
  const iv = random.bytes(IV_BYTES);
  const cipher = createCipheriv(CIPHER, key, iv);
  return Buffer.concat([iv, cipher.update(bytes), cipher.final(), cipher.getAuthTag()]);
}

/** Throws where the box was made with another key, or has been changed. */
export function unboxed(key: Uint8Array, box: Uint8Array): Buffer {
  const decipher = createDecipheriv(CIPHER, key, box.subarray(0, IV_BYTES));
  decipher.setAuthTag(box.subarray(-TAG_BYTES));
  return Buffer.concat([decipher.update(box.subarray(IV_BYTES, -TAG_BYTES)), decipher.final()]);
}
