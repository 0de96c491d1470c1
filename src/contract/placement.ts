// Which shard group a run is placed in: a function of its id alone, so that every node and every worker knows it without
// asking. Ids are random, so groups are evenly filled. Steps, approvals and events are placed with their run: their ids
// differ from its id in the last 32 bits only (kit/ids.ts, derivedId), and the shard is taken from the bits before.
import { sha256 } from "../kit/hash.ts";
import { newId } from "./ids.ts";
import type { Clock } from "../kit/clock.ts";
import type { Random } from "../kit/random.ts";

/** Placement shards; groups share them out, so there can be no more groups than this. */
export const SHARDS = 64;
/** Its owner signs the checkpoints of all groups. */
export const SIGNER_GROUP = 0;
const DIGITS = "0123456789abcdefghjkmnpqrstvwxyz";
/** A prefix, an underscore, and 26 digits of which the 19th and 20th hold bits 90 to 95. */
const DIGIT = 18;

/** The shard of a run, or of anything inside it, by its id. What is no id is nobody's: it may be looked for anywhere. */
export function shardOf(id: string): number {
  const at = id.indexOf("_") + 1 + DIGIT;
  const high = Math.max(0, DIGITS.indexOf(id[at] ?? ""));
  const low = Math.max(0, DIGITS.indexOf(id[at + 1] ?? ""));
  return ((high & 7) << 3) | (low >> 2);
}

/** The group of a run, or of anything inside it. */
export function groupOf(id: string, groups: number): number {
  return groups === 1 ? 0 : shardOf(id) % groups;
}

/** The group of runs that are known by a name (a session, a trace, a key): whoever is asked for the name finds it there. */
export function groupOfName(name: string, groups: number): number {
  return groups === 1 ? 0 : ((sha256(name)[0] ?? 0) % SHARDS) % groups;
}

/** The group of a run whose id is made from a seed (ids.ts, seededId). */
export function groupOfSeed(bytes: Uint8Array, groups: number): number {
  // The seed's sixth byte is the id's twelfth.
  return groups === 1 ? 0 : ((bytes[5] ?? 0) % SHARDS) % groups;
}

/** A new run id in one of the groups that fit. */
export function placedRunId(
  seams: { clock: Clock; random: Random },
  groups: number,
  fits: (group: number) => boolean,
): string {
  for (;;) {
    const id = newId("run", seams);
    if (fits(groupOf(id, groups))) return id;
  }
}
