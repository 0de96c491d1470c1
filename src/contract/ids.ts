// The registry of id prefixes. A prefix that is not here does not exist.
import { Type, type Static } from "typebox";
import { decodeId, encodeId, uuidV7 } from "../kit/ids.ts";
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";
import { AppError } from "./errors.ts";
import { NAME_PATTERN } from "./paths.ts";

export const PREFIXES = {
  tenant: "ten",
  project: "prj",
  run: "run",
  step: "stp",
  event: "evt",
  approval: "apr",
  artifact: "art",
  node: "nod",
} as const;

export type IdKind = keyof typeof PREFIXES;

const idType = (kind: IdKind) =>
  Type.String({ pattern: `^${PREFIXES[kind]}_[0-7][0-9a-hjkmnp-tv-z]{25}$`, description: `Id of a ${kind} (TypeID).` });

export const RunId = idType("run");
export const StepId = idType("step");
export const EventId = idType("event");
export const ApprovalId = idType("approval");
export const TenantId = idType("tenant");
export const ProjectId = idType("project");
export type RunId = Static<typeof RunId>;

export function newId(kind: IdKind, seams: { clock: Clock; random: Random }): string {
  return encodeId(PREFIXES[kind], uuidV7(Math.floor(seams.clock.now_us() / 1000), seams.random.bytes(10)));
}

/** Makes a request repeatable: the same seed gives the same id. */
export interface IdSeed {
  readonly created_us: number;
  readonly bytes: Uint8Array;
}

export function seededId(kind: IdKind, seed: IdSeed): string {
  return encodeId(PREFIXES[kind], uuidV7(Math.floor(seed.created_us / 1000), seed.bytes));
}

/** The bytes of an id that came from outside. Throws NOT_FOUND: a malformed id is an id of nothing. */
export function idBytes(kind: IdKind, id: string): Buffer {
  const bytes = decodeId(PREFIXES[kind], id);
  if (!bytes)
    throw new AppError("NOT_FOUND", `${JSON.stringify(id)} is no id of a ${kind}`, { details: { [kind]: id } });
  return bytes;
}

export const Name = Type.String({ pattern: NAME_PATTERN, description: "Letters, digits, dot, dash and underscore." });
