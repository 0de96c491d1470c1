// One thing at a time for each key, in the order in which they were asked for.
export class Serial {
  private readonly tails = new Map<string, Promise<unknown>>();

  /** Runs fn when everything before it under this key has ended, however it ended. */
  async run<T>(key: string, fn: () => Promise<T>): Promise<T> {
    const before = this.tails.get(key) ?? Promise.resolve();
    const mine = before.then(fn, fn);
    this.tails.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.tails.get(key) === mine) this.tails.delete(key);
    }
  }
}
