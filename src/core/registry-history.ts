// What governed at any moment, from a registry's versions and the moves of its aliases. Pure: the server builds it from its
// tables, an offline replay from a bundle.
import { canonicalJson } from "../kit/jcs.ts";
import type { ManifestKind, RegistryItem } from "../contract/manifests.ts";
import type { Overrides } from "../contract/replay.ts";
import { buildCatalog, policySet } from "./catalog.ts";
import type { BuiltinTable, RegistrySnapshot } from "./catalog.ts";
import type { Governed } from "./governance.ts";
import { Policy } from "./policy.ts";

/** Which version a name stands for in an environment. */
export interface AliasState {
  readonly kind: ManifestKind;
  readonly name: string;
  readonly env: string;
  readonly version: number;
}

/** A change of an alias. */
export interface AliasMove extends AliasState {
  readonly at_us: number;
}

/** Moves of one transaction have one time; whoever decides sees them a moment later. */
const SEEN_LATE_US = 10_000_000;
/** States of the past and of forks that are kept built; the present ones are few. */
const BUILT_MAX = 500;

export class RegistryHistory {
  readonly items: readonly RegistryItem[];
  readonly aliases: readonly AliasState[];
  readonly moves: readonly AliasMove[];
  private readonly builtins: BuiltinTable;
  private readonly onUnusable: (error: unknown) => void;
  /** By environment, moment and overrides. */
  private readonly built = new Map<string, Governed>();

  constructor(given: {
    items: readonly RegistryItem[];
    aliases: readonly AliasState[];
    moves: readonly AliasMove[];
    builtins: BuiltinTable;
    /** Told of a policy that does not compile; everything is denied then. */
    onUnusable?: (error: unknown) => void;
  }) {
    this.items = given.items;
    this.aliases = given.aliases;
    this.moves = given.moves.toSorted((a, b) => a.at_us - b.at_us);
    this.builtins = given.builtins;
    this.onUnusable = given.onUnusable ?? (() => undefined);
  }

  now(env: string, overrides?: Overrides): Governed {
    return this.get(overrides ? `${env} ${versionsKey(overrides)}` : env, () =>
      this.build(currentOf(this.aliases, env, overrides)),
    );
  }

  /** Ordered by how likely they are: what was moved just before may not have been seen yet. */
  at(env: string, at_us: number, overrides?: Overrides): readonly Governed[] {
    const moves = this.moves.filter((move) => move.env === env);
    const times = [...new Set(moves.map((move) => move.at_us))].filter((time) => time <= at_us);
    const ends = times.filter((time, i) => i === times.length - 1 || time > at_us - SEEN_LATE_US).toReversed();
    const before = times.findLast((time) => time <= at_us - SEEN_LATE_US) ?? 0;
    return [...new Set([...ends, before])].map((end) =>
      this.get(`${env} ${end} ${versionsKey(overrides ?? {})}`, () => {
        const then = moves.filter((move) => move.at_us <= end);
        return this.build(currentOf(then, env, overrides));
      }),
    );
  }

  private get(key: string, build: () => Governed): Governed {
    let found = this.built.get(key);
    if (found) return found;
    if (this.built.size >= BUILT_MAX) this.built.clear();
    this.built.set(key, (found = build()));
    return found;
  }

  private build(current: ReadonlyMap<string, number>): Governed {
    const snapshot: RegistrySnapshot = { items: this.items, current };
    const catalog = buildCatalog(snapshot, this.builtins);
    try {
      return { catalog, policy: new Policy(policySet(snapshot)) };
    } catch (error) {
      // A policy that does not compile cannot be stored; if one is there all the same, everything is denied.
      this.onUnusable(error);
      return { catalog, policy: null };
    }
  }
}

/** Version of each name in an environment; a fork may use others. */
function currentOf(aliases: readonly AliasState[], env: string, overrides: Overrides | undefined): Map<string, number> {
  const current = new Map<string, number>();
  for (const alias of aliases) if (alias.env === env) current.set(`${alias.kind}/${alias.name}`, alias.version);
  for (const [kind, versions] of versionsOf(overrides ?? {}))
    for (const [name, version] of Object.entries(versions)) current.set(`${kind}/${name}`, version);
  return current;
}

function versionsOf({ prompts, tools, policies }: Overrides): [ManifestKind, Record<string, number>][] {
  return [
    ["Prompt", prompts ?? {}],
    ["Tool", tools ?? {}],
    ["Policy", policies ?? {}],
  ];
}

const versionsKey = (overrides: Overrides): string => canonicalJson(versionsOf(overrides));
