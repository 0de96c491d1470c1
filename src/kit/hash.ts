// SHA-256, HMAC and content digests. Pure computation: node:crypto is used for speed, never for randomness here.
import { createHmac, hash, timingSafeEqual } from "node:crypto";

/** By way of a text: the runtime's own buffer output costs a third more, for an allocation outside its pool. */
export function sha256(bytes: Uint8Array | string): Buffer {
  return Buffer.from(sha256Latin1(bytes), "latin1");
}

/** A character for each byte: what is written into a buffer again costs the least so. */
export function sha256Latin1(bytes: Uint8Array | string): string {
  return hash("sha256", bytes, "binary");
}

export function sha256Hex(bytes: Uint8Array | string): string {
  return hash("sha256", bytes, "hex");
}

/** Content digest as written everywhere outside the chain: `sha256:` and 64 lower-case hex digits. */
export function digestOf(bytes: Uint8Array | string): string {
  return `sha256:${sha256Hex(bytes)}`;
}

export function hmacBytes(key: Uint8Array, bytes: Uint8Array): Buffer {
  return createHmac("sha256", key).update(bytes).digest();
}

export function hmacHex(key: Uint8Array, text: string): string {
  return createHmac("sha256", key).update(text).digest("hex");
}

/** Compares two tokens of ours, whose length is no secret, in constant time. */
export function sameText(a: string, b: string): boolean {
  return a.length === b.length && a.length > 0 && timingSafeEqual(Buffer.from(a), Buffer.from(b));
}

/** Compares secrets in constant time. Empty never equals anything: a missing secret must not match another one. */
export function secretsEqual(a: string, b: string): boolean {
  if (a.length === 0 || b.length === 0) return false;
  return timingSafeEqual(sha256(a), sha256(b));
}
