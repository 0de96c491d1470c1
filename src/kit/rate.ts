// How often something happened of late: counted by seconds, over the last minute.

const SECONDS = 60;

export class Rate {
  private readonly counts = Array.from({ length: SECONDS }, () => 0);
  private second = 0;
  private begun: number | null = null;

  mark(now_ms: number, count = 1): void {
    const at = this.move(now_ms);
    this.counts[at] = (this.counts[at] ?? 0) + count;
  }

  /** For each second of the last minute, or since the first time that anybody asked or marked. */
  perSecond(now_ms: number): number {
    this.move(now_ms);
    const seconds = Math.min(SECONDS, this.second - (this.begun ?? 0) + 1);
    return this.counts.reduce((sum, count) => sum + count, 0) / seconds;
  }

  /** Empties what is older than a minute; returns the place of this second. */
  private move(now_ms: number): number {
    const now = Math.floor(now_ms / 1000);
    if (this.begun === null) this.begun = this.second = now;
    if (now - this.second >= SECONDS) this.counts.fill(0);
    else for (let second = this.second + 1; second <= now; second++) this.counts[second % SECONDS] = 0;
    this.second = Math.max(this.second, now);
    return now % SECONDS;
  }
}
