// What a tool needs of the machine that it runs on, and what an agent may make use of.
import { Type } from "typebox";
import { either } from "./either.ts";

export const CAPABILITIES = ["network", "fs", "subprocess", "gpu"] as const;
export type Capability = (typeof CAPABILITIES)[number];

export const Capabilities = (description: string) =>
  Type.Optional(
    Type.Array(either(CAPABILITIES), {
      uniqueItems: true,
      description,
    }),
  );

/** What of it an agent lacks; null: it may make use of everything. */
export function lacking(
  requires: readonly Capability[] | undefined,
  capabilities: readonly Capability[] | null | undefined,
): readonly Capability[] {
  if (!requires || !capabilities) return [];
  return requires.filter((one) => !capabilities.includes(one));
}
