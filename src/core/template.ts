// References inside workflow arguments: "${input.city}", "${steps.fetch.output.items.0}". A string that is one
// reference takes the referred value with its type; inside other text the value is printed. Nothing is evaluated.
import type { Json } from "../kit/json.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { isObject } from "../kit/json.ts";

const REFERENCE = /\$\{\s*([a-zA-Z0-9_.-]+)\s*\}/g;

export interface TemplateScope {
  readonly input: Json;
  /** Output of a finished step by its id; undefined when there is none. */
  output(step: string): Json | undefined;
}

/** A reference that leads nowhere; the step that holds it fails with this. */
export class UnresolvedReference extends Error {
  override readonly name = "UnresolvedReference";
}

/** Paths that a value refers to, for validation when a workflow is applied. */
export function references(value: Json): string[] {
  if (typeof value === "string") return [...value.matchAll(REFERENCE)].map((match) => match[1] ?? "");
  if (Array.isArray(value)) return value.flatMap(references);
  return isObject(value) ? Object.values(value).flatMap(references) : [];
}

function lookUp(path: string, scope: TemplateScope): Json {
  const [root, ...rest] = path.split(".");
  let keys = rest;
  let value: Json | undefined;
  if (root === "input") value = scope.input;
  else if (root === "steps" && rest[1] === "output") {
    value = scope.output(rest[0] ?? "");
    keys = rest.slice(2);
  }
  for (const key of keys) {
    if (Array.isArray(value)) value = value[Number(key)];
    else if (isObject(value) && Object.hasOwn(value, key)) value = value[key];
    else value = undefined;
  }
  if (value === undefined) throw new UnresolvedReference(`\${${path}} refers to nothing`);
  return value;
}

/** Resolves all references in a value. Throws UnresolvedReference. */
export function resolveTemplate(value: Json, scope: TemplateScope): Json {
  if (typeof value === "string") {
    if (!value.includes("${")) return value;
    const whole = /^\$\{\s*([a-zA-Z0-9_.-]+)\s*\}$/.exec(value);
    if (whole) return lookUp(whole[1] ?? "", scope);
    return value.replaceAll(REFERENCE, (_match, path: string) => {
      const found = lookUp(path, scope);
      return typeof found === "string" ? found : canonicalJson(found);
    });
  }
  if (Array.isArray(value)) return value.map((item) => resolveTemplate(item, scope));
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolveTemplate(item, scope)]));
}
