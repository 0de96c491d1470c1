/** Handle of a pending timer. */
export interface Timer {
  cancel(): void;
}

/** The only source of time. The real one is in adapters/system, the simulated one in test/sim. */
export interface Clock {
  /** Wall clock, whole microseconds since the Unix epoch (a safe integer until the year 2255). */
  now_us(): number;
  /** Monotonic milliseconds, for durations only. */
  monotonic_ms(): number;
  /** Calls fn once, after delay_ms. */
  timer(delay_ms: number, fn: () => void): Timer;
  sleep(delay_ms: number): Promise<void>;
  /** Calls fn once, when everything that is ready now has been done: what comes together is then handled together. */
  soon(fn: () => void): void;
}

/** RFC 3339 in UTC with microseconds. */
export function rfc3339(us: number): string {
  const ms = Math.floor(us / 1000);
  const rest = us - ms * 1000;
  return new Date(ms).toISOString().replace("Z", `${String(rest).padStart(3, "0")}Z`);
}

/** Inverse of rfc3339; accepts millisecond precision too. NaN when the text is no instant. */
export function parseRfc3339(text: string): number {
  const match = /^(.*\.\d{3})(\d{3})Z$/.exec(text);
  if (match) return Date.parse(`${match[1]}Z`) * 1000 + Number(match[2]);
  return Date.parse(text) * 1000;
}
