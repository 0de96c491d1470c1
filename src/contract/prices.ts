// List prices per million tokens, by model and by the day from which they hold. A Model manifest with `prices`
// overrides them. Public price lists of the providers; check them before you rely on them for accounting.
import type { PriceRow } from "./catalog.ts";

const row = (model: string, from: string, input_usd: number, output_usd: number): PriceRow => ({
  model,
  from,
  input_micro_per_mtok: Math.round(input_usd * 1_000_000),
  output_micro_per_mtok: Math.round(output_usd * 1_000_000),
});

export const LIST_PRICES: readonly PriceRow[] = [
  row("gpt-4o", "2024-05-13", 5, 15),
  row("gpt-4o", "2024-10-01", 2.5, 10),
  row("gpt-4o-mini", "2024-07-18", 0.15, 0.6),
  row("gpt-4.1", "2025-04-14", 2, 8),
  row("gpt-4.1-mini", "2025-04-14", 0.4, 1.6),
  row("gpt-5", "2025-08-07", 1.25, 10),
  row("gpt-5-mini", "2025-08-07", 0.25, 2),
  row("claude-sonnet-4-5", "2025-09-29", 3, 15),
  row("claude-haiku-4-5", "2025-10-15", 1, 5),
  row("claude-opus-4-5", "2025-11-24", 5, 25),
  row("gemini-2.5-pro", "2025-06-17", 1.25, 10),
  row("gemini-2.5-flash", "2025-06-17", 0.3, 2.5),
];
