// Takes known secrets out of what comes back from outside: a service may echo a header, an error may quote a request.
import { isObject } from "./json.ts";
import type { Json } from "./json.ts";

/** Shorter values occur by chance; replacing them would garble results. */
const SECRET_CHARS_MIN = 6;
export const SCRUBBED = "[secret]";

export function scrubText(text: string, secrets: readonly string[]): string {
  let clean = text;
  for (const secret of secrets) if (secret.length >= SECRET_CHARS_MIN) clean = clean.replaceAll(secret, SCRUBBED);
  return clean;
}

/** The same for every string of a JSON value, keys too. */
export function scrub(value: Json, secrets: readonly string[]): Json {
  if (secrets.length === 0) return value;
  if (typeof value === "string") return scrubText(value, secrets);
  if (Array.isArray(value)) return value.map((item) => scrub(item, secrets));
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [scrubText(key, secrets), scrub(item, secrets)]),
  );
}
