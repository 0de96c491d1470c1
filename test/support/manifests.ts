// Resources that several suites begin with.
/** One that does nothing, and one that waits. */
export const NOOP_AND_NAP = `
kind: Tool
metadata: { name: noop }
spec: { kind: builtin, builtin: noop }
---
kind: Tool
metadata: { name: nap }
spec: { kind: builtin, builtin: sleep }
---`;

/** These, and one whose effect the outside ledger counts, for workers that may handle money. */
export const basicTools = (ledger_url: string): string => `${NOOP_AND_NAP}
kind: Tool
metadata: { name: pay }
spec: { kind: http, method: POST, url: "${ledger_url}/once", effect_class: irreversible, input_schema: { type: object }, runs_on: [money] }
---`;

export const ALLOW_ALL = `
kind: Policy
metadata: { name: p }
spec: { rules: [{ id: a, effect: allow }] }
`;
