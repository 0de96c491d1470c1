// TypeIDs (https://github.com/jetify-com/typeid, spec 0.3): prefix, underscore, 26 characters of Crockford base32 over
// 128 bits. Ids of runs are UUIDv7 (RFC 9562), so they sort by time. Ids of things inside a run (steps, events,
// approvals) are derived from the run's id and a number: deciding stays pure, and a replay gives the same ids.
import { assert } from "./assert.ts";

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";
const PATTERN = /^([a-z]{2,8})_([0-7][0-9a-hjkmnp-tv-z]{25})$/;

const VALUE = new Map(Array.from(ALPHABET, (c, i) => [c, i]));

/** Text of a 16-byte id with its prefix. */
export function encodeId(prefix: string, uuid: Uint8Array): string {
  assert(uuid.length === 16, "an id has 16 bytes", { length: uuid.length });
  let text = "";
  // 128 bits as 26 groups of 5, the first group holding only 3 bits.
  for (let i = 0; i < 26; i++) {
    const bit = i * 5 - 2;
    let value = 0;
    for (let k = 0; k < 5; k++) {
      const b = bit + k;
      if (b >= 0) value = (value << 1) | (((uuid[b >> 3] ?? 0) >> (7 - (b & 7))) & 1);
    }
    text += ALPHABET[value];
  }
  return `${prefix}_${text}`;
}

/** The 16 bytes of an id, or null when the text is no id with this prefix. */
export function decodeId(prefix: string, text: string): Buffer | null {
  const match = PATTERN.exec(text);
  if (!match || match[1] !== prefix) return null;
  const out = Buffer.alloc(16);
  const body = match[2] ?? "";
  for (let i = 0; i < 26; i++) {
    const value = VALUE.get(body[i] ?? "") ?? 0;
    const bit = i * 5 - 2;
    for (let k = 0; k < 5; k++) {
      const b = bit + k;
      if (b >= 0 && (value >> (4 - k)) & 1) out[b >> 3] = (out[b >> 3] ?? 0) | (1 << (7 - (b & 7)));
    }
  }
  return out;
}

/** UUIDv7: 48 bits of milliseconds, then random bits with version and variant set. */
export function uuidV7(now_ms: number, random: Uint8Array): Buffer {
  assert(random.length >= 10, "a UUIDv7 needs 10 random bytes");
  const out = Buffer.alloc(16);
  out.writeUIntBE(now_ms, 0, 6);
  out.set(random.subarray(0, 10), 6);
  out[6] = ((out[6] ?? 0) & 0x0f) | 0x70;
  out[8] = ((out[8] ?? 0) & 0x3f) | 0x80;
  return out;
}

/** The id of the n-th thing inside a run: the run's bits with n mixed into the last 32. Distinct for distinct n. */
export function derivedId(prefix: string, run: Uint8Array, n: number): string {
  assert(Number.isInteger(n) && n >= 0 && n < 2 ** 32, "a derived id needs a 32-bit ordinal", { n });
  const out = Buffer.from(run);
  out.writeUInt32BE((out.readUInt32BE(12) ^ n) >>> 0, 12);
  return encodeId(prefix, out);
}

/** The number inside a derived id, given the run's bits; null when the id belongs to another run. */
export function derivedOrdinal(prefix: string, run: Uint8Array, id: string): number | null {
  const bytes = decodeId(prefix, id);
  if (!bytes || Buffer.compare(bytes.subarray(0, 12), run.subarray(0, 12)) !== 0) return null;
  return (bytes.readUInt32BE(12) ^ Buffer.from(run).readUInt32BE(12)) >>> 0;
}

/** Hyphenated UUID text, as Postgres prints it. */
export function uuidText(uuid: Uint8Array): string {
  const hex = Buffer.from(uuid).toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export function uuidBytes(text: string): Buffer {
  return Buffer.from(text.replaceAll("-", ""), "hex");
}
