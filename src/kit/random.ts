/** The only source of randomness. The real one is in adapters/system, the seeded one in test/sim. */
export interface Random {
  bytes(length: number): Uint8Array;
  /** Uniform in [0, 1). */
  float(): number;
}
