// Binary array parameters (PostgreSQL protocol, array_send): one buffer instead of text that the server must parse.
const OID = { uuid: 2950, int4: 23, int8: 20, bytea: 17, text: 25 } as const;

function header(oid: number, count: number): Buffer {
  const out = Buffer.alloc(20);
  out.writeInt32BE(1, 0); // dimensions
  out.writeInt32BE(0, 4); // no nulls
  out.writeInt32BE(oid, 8);
  out.writeInt32BE(count, 12);
  out.writeInt32BE(1, 16); // lower bound
  return out;
}

function empty(oid: number): Buffer {
  const out = Buffer.alloc(12);
  out.writeInt32BE(oid, 8);
  return out;
}

function bytesArray(oid: number, items: readonly Uint8Array[]): Buffer {
  if (items.length === 0) return empty(oid);
  let size = 20;
  for (const item of items) size += 4 + item.length;
  const out = Buffer.allocUnsafe(size);
  header(oid, items.length).copy(out);
  let at = 20;
  for (const item of items) {
    out.writeInt32BE(item.length, at);
    out.set(item, at + 4);
    at += 4 + item.length;
  }
  return out;
}

export function uuidArray(items: readonly Uint8Array[]): Buffer {
  return bytesArray(OID.uuid, items);
}

export function byteaArray(items: readonly Uint8Array[]): Buffer {
  return bytesArray(OID.bytea, items);
}

export function int4Array(items: readonly number[]): Buffer {
  if (items.length === 0) return empty(OID.int4);
  const out = Buffer.allocUnsafe(20 + items.length * 8);
  header(OID.int4, items.length).copy(out);
  let at = 20;
  for (const item of items) {
    out.writeInt32BE(4, at);
    out.writeInt32BE(item, at + 4);
    at += 8;
  }
  return out;
}

export function int8Array(items: readonly number[]): Buffer {
  if (items.length === 0) return empty(OID.int8);
  const out = Buffer.allocUnsafe(20 + items.length * 12);
  header(OID.int8, items.length).copy(out);
  let at = 20;
  for (const item of items) {
    out.writeInt32BE(8, at);
    out.writeBigInt64BE(BigInt(item), at + 4);
    at += 12;
  }
  return out;
}

export function textArray(items: readonly string[]): Buffer {
  return bytesArray(
    OID.text,
    items.map((item) => Buffer.from(item)),
  );
}
