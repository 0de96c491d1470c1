import type { Clock } from "../kit/clock.ts";
import { messageOf } from "../contract/errors.ts";
import type { Log } from "../contract/ports.ts";

/** Repeats a task until stopped; a failure is logged and the next time is tried as planned. */
export function every(clock: Clock, ms: number, log: Log, name: string, task: () => Promise<unknown>): () => void {
  let stopped = false;
  let timer = clock.timer(ms, run);
  function run() {
    task()
      .catch((error: unknown) => log.warn(`${name}.failed`, { error: messageOf(error) }))
      .finally(() => {
        if (!stopped) timer = clock.timer(ms, run);
      });
  }
  return () => {
    stopped = true;
    timer.cancel();
  };
}
