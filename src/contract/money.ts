import { Type } from "typebox";

/** Integer micro-USD (1 USD = 1,000,000). */
export const MicroUsd = Type.Integer({ minimum: 0, maximum: 9_000_000_000_000_000, description: "Micro-USD." });
/** A decimal USD amount as people write it, for manifests. */
export const Usd = Type.Union([
  Type.String({ pattern: "^\\d{1,10}(\\.\\d{1,6})?$" }),
  Type.Number({ minimum: 0, maximum: 9_999_999_999 }),
]);
