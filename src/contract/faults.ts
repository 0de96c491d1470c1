// What is wrong with a value, field by field: where, what stands there, what may stand there.
import type { Compile } from "typebox/compile";
import type { FieldError } from "./errors.ts";

export type Validator = ReturnType<typeof Compile>;

const FAULTS_MAX = 10;
const SHOWN_CHARS = 80;

function valueAt(value: unknown, pointer: string): unknown {
  let found = value;
  for (const part of pointer.split("/").slice(1))
    found = (found as Record<string, unknown> | null | undefined)?.[part.replaceAll("~1", "/").replaceAll("~0", "~")];
  return found;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text;
}

/** Faults of a value against a schema; `root` is put before each pointer. */
export function faults(validator: Validator, value: unknown, root: string): FieldError[] {
  if (validator.Check(value)) return [];
  const errors = validator.Errors(value).filter((error) => error.keyword !== "boolean");
  // A choice among constants is one fault, not one for each constant that it is not.
  const choices = new Map<string, string[]>();
  for (const { keyword, instancePath, params } of errors) {
    if (keyword !== "const") continue;
    const allowed = params.allowedValue;
    choices.set(instancePath, [...(choices.get(instancePath) ?? []), String(allowed)]);
  }
  const found: FieldError[] = [...choices].map(([path, allowed]) => ({
    pointer: `${root}${path}`,
    message: `is ${shown(valueAt(value, path))}; it must be ${allowed.length > 1 ? "one of " : ""}${allowed.join(", ")}`,
  }));
  for (const error of errors) {
    const ofChoice = choices.has(error.instancePath) && ["const", "anyOf"].includes(error.keyword);
    if (ofChoice) continue;
    const params = error.params as Record<string, unknown>;
    const names = params["additionalProperties"] ?? params["requiredProperties"];
    const extra = Array.isArray(names) ? `: ${names.join(", ")}` : "";
    found.push({ pointer: `${root}${error.instancePath}`, message: `${error.message}${extra}` });
  }
  return found.slice(0, FAULTS_MAX);
}
