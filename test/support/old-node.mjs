// For `node --import`: the protocol's conformance suite asks `fs` for something that Node 20 does not have, for a mode that is
// not used here. It gets one that says so.
import { register } from "node:module";

const FS = `
export * from "node:fs";
export { default } from "node:fs";
export const globSync = () => { throw new Error("This Node has no fs.globSync"); };`;
const HOOK = `
export function resolve(specifier, context, next) {
  if (specifier !== "fs" || !context.parentURL?.includes("/@modelcontextprotocol/conformance/")) return next(specifier, context);
  return { url: ${JSON.stringify(`data:text/javascript,${encodeURIComponent(FS)}`)}, shortCircuit: true };
}`;
register(`data:text/javascript,${encodeURIComponent(HOOK)}`);
