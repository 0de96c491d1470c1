// What governs a run at one moment: the registry's versions and the policy. Implemented by the orchestrator's registry; the
// past can be asked for too, since versions are immutable and each change of an alias is kept with its time.
import type { Catalog } from "../contract/catalog.ts";
import type { Overrides } from "../contract/replay.ts";
import type { Policy } from "./policy.ts";

export interface Scope {
  readonly tenant_id: string;
  readonly project: string;
  readonly env: string;
  /** Of a fork: versions that it uses instead of the environment's. */
  readonly overrides?: Overrides | undefined;
}

export interface Governed {
  readonly catalog: Catalog;
  /** Null when there is none that can be used: every call is denied then. */
  readonly policy: Policy | null;
}

/** The registry and the policy that govern a run, as of now. */
export interface Governance {
  of(scope: Scope): Governed;
  /** As they were, the latest first: an alias that moved shortly before may not have been seen yet by whoever decided. */
  asOf(scope: Scope, at_us: number): readonly Governed[];
}
