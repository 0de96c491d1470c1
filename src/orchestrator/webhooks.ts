// Webhooks: who may send one is who can sign it. Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over id,
// time and body; or GitHub's `X-Hub-Signature-256` over the body, whose sender gives each delivery an id.
import { hmacBytes, secretsEqual } from "../kit/hash.ts";
import { AppError } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { WebhookSpec } from "../contract/triggers.ts";

export interface Delivery {
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body: Buffer;
}

const STANDARD_PREFIX = "whsec_";
const ID_CHARS_MAX = 200;

/** Throws AUTH_REQUIRED for what was not signed with the secret, VALIDATION_ERROR for what says too little. Returns its id. */
export function checkDelivery({ scheme }: WebhookSpec, secret: string, delivery: Delivery, now_us: number): string {
  return scheme === "github" ? checkGithub(secret, delivery) : checkStandard(secret, delivery, now_us);
}

function header({ headers }: Delivery, name: string): string {
  const value = headers[name];
  if (value === undefined || value === "" || value.length > 2_000)
    throw new AppError("VALIDATION_ERROR", `The header ${name} is missing, empty or too long`, {
      errors: [{ pointer: "", message: name }],
    });
  return value;
}

function idOf(delivery: Delivery, name: string): string {
  const id = header(delivery, name);
  if (id.length > ID_CHARS_MAX || !/^[\x21-\x7e]+$/.test(id))
    throw new AppError("VALIDATION_ERROR", `${name} has 1 to ${ID_CHARS_MAX} characters, and no spaces`);
  return id;
}

const unsigned = (why: string) => new AppError("AUTH_REQUIRED", `The webhook is not signed by who may send it: ${why}`);

function checkStandard(secret: string, delivery: Delivery, now_us: number): string {
  const id = idOf(delivery, "webhook-id");
  const time = header(delivery, "webhook-timestamp");
  const given = header(delivery, "webhook-signature");
  const key = secret.startsWith(STANDARD_PREFIX)
    ? Buffer.from(secret.slice(STANDARD_PREFIX.length), "base64")
    : Buffer.from(secret, "utf8");
  const content = Buffer.concat([Buffer.from(`${id}.${time}.`), delivery.body]);
  const wanted = hmacBytes(key, content).toString("base64");
  // Several may stand there while a secret is changed.
  const signed = given.split(" ").some((one) => one.startsWith("v1,") && secretsEqual(one.slice(3), wanted));
  if (!signed) throw unsigned("webhook-signature does not fit");
  const off_ms = Math.abs(Number(time) * 1000 - now_us / 1000);
  if (!/^\d{1,12}$/.test(time) || off_ms > LIMITS.webhook_skew_ms)
    throw unsigned(`webhook-timestamp ${time} is not within ${LIMITS.webhook_skew_ms / 1000} s of now`);
  return id;
}

function checkGithub(secret: string, delivery: Delivery): string {
  const id = idOf(delivery, "x-github-delivery");
  const given = header(delivery, "x-hub-signature-256");
  const wanted = `sha256=${hmacBytes(Buffer.from(secret, "utf8"), delivery.body).toString("hex")}`;
  if (!secretsEqual(given, wanted)) throw unsigned("x-hub-signature-256 does not fit");
  return id;
}
