// JSON canonicalisation, RFC 8785 (JCS). Owns the byte form of everything that is hashed.
// Invariant: equal values give equal bytes; a value that has no canonical form (NaN, a lone surrogate, NUL in a
// string, undefined, BigInt) is refused and never silently changed.
//
// Fast path: V8 prints numbers and strings as JCS asks, so when the keys of every object already come in UTF-16 order
// JSON.stringify is the canonical form. Our own events are built that way; foreign JSON is sorted on the slow path.

export class CanonicalFormError extends Error {
  override readonly name = "CanonicalFormError";
}

const UNSAFE_TEXT = /[\0\ud800-\udfff]/;

function checkText(text: string): void {
  if (!UNSAFE_TEXT.test(text)) return;
  if (text.includes("\0")) throw new CanonicalFormError("a string contains NUL, which cannot be stored");
  if (!text.isWellFormed()) throw new CanonicalFormError("a string contains a lone surrogate, which has no UTF-8 form");
}

/** True when JSON.stringify(value) is already canonical. Throws for values that have no canonical form. */
function inOrder(value: unknown): boolean {
  switch (typeof value) {
    case "string":
      checkText(value);
      return true;
    case "number":
      if (!Number.isFinite(value)) throw new CanonicalFormError("a number is not finite");
      return true;
    case "boolean":
      return true;
    case "object":
      break;
    default:
      throw new CanonicalFormError(`a value of type ${typeof value} has no JSON form`);
  }
  if (value === null) return true;
  if (Array.isArray(value)) {
    let ordered = true;
    for (const item of value) ordered = inOrder(item) && ordered;
    return ordered;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  // A plain object needs no look at its keys' owner nor for toJSON: this is the hottest path.
  const plain = prototype === Object.prototype || prototype === null;
  if (!plain && "toJSON" in value)
    throw new CanonicalFormError("an object with toJSON has no canonical form of its own");
  let last = "";
  let ordered = true;
  const object = value as Record<string, unknown>;
  // No array of entries on the hottest path.
  for (const key in object) {
    if (!plain && !Object.hasOwn(object, key)) continue;
    checkText(key);
    if (key < last) ordered = false;
    last = key;
    ordered = inOrder(object[key]) && ordered;
  }
  return ordered;
}

/** Below this many keys the simplest way to sort is the fastest. */
const FEW_KEYS = 16;

function sortKeys(keys: string[]): string[] {
  if (keys.length > FEW_KEYS) return keys.sort();
  for (let i = 1; i < keys.length; i++) {
    const key = keys[i] as string;
    let at = i - 1;
    for (; at >= 0 && (keys[at] as string) > key; at--) keys[at + 1] = keys[at] as string;
    keys[at + 1] = key;
  }
  return keys;
}

/** An object keeps keys in the order they came, but for numbers, and has no key of this name at all. */
function keepsItsPlace(key: string): boolean {
  const first = key.charCodeAt(0);
  return (first < 0x30 || first > 0x39 || Number.isNaN(first)) && key !== "__proto__";
}

/** A copy that JSON.stringify writes canonically; undefined where no object would keep the order. */
function inOrderCopy(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) {
    const list: unknown[] = [];
    for (const item of value) {
      const copy = inOrderCopy(item);
      if (copy === undefined) return undefined;
      list.push(copy);
    }
    return list;
  }
  const out: Record<string, unknown> = {};
  for (const key of sortKeys(Object.keys(value))) {
    const copy = keepsItsPlace(key) ? inOrderCopy((value as Record<string, unknown>)[key]) : undefined;
    if (copy === undefined) return undefined;
    out[key] = copy;
  }
  return out;
}

function write(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  const keys = sortKeys(Object.keys(value));
  return `{${keys.map((key) => `${JSON.stringify(key)}:${write((value as Record<string, unknown>)[key])}`).join(",")}}`;
}

/** Canonical JSON text of a JSON value. Throws CanonicalFormError. */
export function canonicalJson(value: unknown): string {
  if (inOrder(value)) return JSON.stringify(value);
  // A sorted copy and the engine's own writer take half the time of a writer of ours.
  const copy = inOrderCopy(value);
  return copy === undefined ? write(value) : JSON.stringify(copy);
}
