/** Delay before retry n (1 is the first retry): full jitter over an exponential ceiling (AWS Architecture Blog, 2015). */
export function fullJitter(options: { base_ms: number; cap_ms: number; retry: number; random: number }): number {
  const ceiling = Math.min(options.cap_ms, options.base_ms * 2 ** (options.retry - 1));
  return Math.ceil(ceiling * options.random);
}
