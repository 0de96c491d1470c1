// The real clock and randomness. The only place that asks the machine for either.
import { randomBytes } from "node:crypto";
import type { Clock } from "../../kit/clock.ts";
import type { Random } from "../../kit/random.ts";

const TIMER_MS_MAX = 2 ** 31 - 1;
const STARTED_US = Math.floor((performance.timeOrigin + performance.now()) * 1000);
let last = STARTED_US;

export const systemClock: Clock = {
  // Never goes backwards within a process: events of one run stay in the order of their times.
  now_us() {
    last = Math.max(last, Math.floor(Date.now() * 1000 + (performance.now() % 1) * 1000));
    return last;
  },
  monotonic_ms: () => performance.now(),
  timer(delay_ms, fn) {
    const handle = setTimeout(fn, Math.min(Math.max(0, delay_ms), TIMER_MS_MAX));
    return { cancel: () => clearTimeout(handle) };
  },
  sleep: (delay_ms) =>
    new Promise((resolve) => {
      setTimeout(resolve, Math.min(Math.max(0, delay_ms), TIMER_MS_MAX));
    }),
  soon: (fn) => void setImmediate(fn),
};

const POOL_BYTES = 4096;
let pool = Buffer.alloc(0);

export const systemRandom: Random = {
  bytes(length) {
    if (pool.length < length) pool = randomBytes(Math.max(POOL_BYTES, length));
    const out = pool.subarray(0, length);
    pool = pool.subarray(length);
    return out;
  },
  float() {
    return Buffer.from(this.bytes(4)).readUInt32BE(0) / 2 ** 32;
  },
};
