// Headers of model providers' answers that mean something to their clients.

/** What clients read of a provider's answer besides its body. */
const PASSED =
  /^(x-request-id|request-id|retry-after|retry-after-ms|x-should-retry|openai-[a-z-]+|x-ratelimit-[a-z-]+|anthropic-ratelimit-[a-z-]+)$/;

/** Headers of a provider's answer that its client is given, also when it is given again. */
export function passedOnly(headers: Iterable<readonly [string, unknown]>): Record<string, string> {
  const passed: Record<string, string> = {};
  for (const [name, value] of headers) if (typeof value === "string" && PASSED.test(name)) passed[name] = value;
  return passed;
}
