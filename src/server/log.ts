// Structured logs to stderr, one JSON object a line, no payloads: fields are ids, codes, counts and messages of ours.
import { rfc3339 } from "../kit/clock.ts";
import type { Clock } from "../kit/clock.ts";
import type { Log } from "../contract/ports.ts";

const MESSAGE_MAX = 2_000;

export function createLog(clock: Clock, write: (line: string) => void): Log {
  const emit =
    (level: string) =>
    (event: string, fields: Record<string, unknown> = {}) => {
      const short = Object.fromEntries(
        Object.entries(fields).map(([key, value]) => [
          key,
          typeof value === "string" ? value.slice(0, MESSAGE_MAX) : value,
        ]),
      );
      write(JSON.stringify({ at: rfc3339(clock.now_us()), level, event, ...short }));
    };
  return { info: emit("info"), warn: emit("warn"), error: emit("error") };
}
