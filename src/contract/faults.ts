// What is wrong with a value, field by field: where, what stands there, what may stand there. Of a choice among forms only the
// form is spoken of that the value is most like.
import type { Compile } from "typebox/compile";
import { Settings } from "typebox/system";
import type { FieldError } from "./errors.ts";

export type Validator = ReturnType<typeof Compile>;
type Fault = ReturnType<Validator["Errors"]>[number];

const FAULTS_MAX = 10;
const SHOWN_CHARS = 80;
/** As many as a choice among many forms gives: which one is nearest is only known when all have spoken. */
Settings.Set({ maxErrors: 256 });

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

/** Names that a fault is about: fields that are missing, or that may not be there. */
function namesOf(fault: Fault): readonly string[] {
  const params = fault.params as Record<string, unknown>;
  const names = params["additionalProperties"] ?? params["requiredProperties"];
  return Array.isArray(names) ? names.map(String) : [];
}

function said(fault: Fault, value: unknown): string {
  const names = namesOf(fault).join(", ");
  if (fault.keyword === "required") return `needs ${names}`;
  if (fault.keyword === "additionalProperties") return `does not know ${names}`;
  if (fault.keyword === "type") return `${fault.message}, not ${shown(valueAt(value, fault.instancePath))}`;
  return fault.message;
}

function typeOf(fault: Fault): string {
  const { type } = fault.params as Record<string, unknown>;
  return Array.isArray(type) ? type.join(" or ") : String(type);
}

/** The outermost choice that a fault is of, and which of its forms: `#/items/anyOf/2/...`. */
const BRANCH = /^(.*?)\/anyOf\/(\d+)(?:\/|$)/;

interface Choice {
  readonly at: string;
  readonly branches: Map<string, Fault[]>;
}

function choicesOf(errors: readonly Fault[]): Map<string, Choice> {
  const choices = new Map<string, Choice>();
  for (const error of errors) {
    const [, union, branch] = BRANCH.exec(error.schemaPath) ?? [];
    if (union === undefined || branch === undefined) continue;
    // The same choice may stand at several places of a list.
    const depth = error.instancePath.split("/").slice(0, depthOf(union)).join("/");
    const key = `${union} ${depth}`;
    const choice = choices.get(key) ?? { at: depth, branches: new Map<string, Fault[]>() };
    choice.branches.set(branch, [...(choice.branches.get(branch) ?? []), error]);
    choices.set(key, choice);
  }
  return choices;
}

/** How deep in the value a choice stands: each property and each item is one step. */
function depthOf(schemaPath: string): number {
  const steps = schemaPath.split("/").slice(1);
  let depth = 1;
  for (let i = 0; i < steps.length; i++) {
    if (steps[i] === "properties" || steps[i] === "patternProperties") i += 1;
    else if (steps[i] === "prefixItems") i += 1;
    else if (steps[i] !== "items" && steps[i] !== "additionalProperties") continue;
    depth += 1;
  }
  return depth;
}

const weight = (faults: readonly Fault[]): number =>
  faults.reduce((sum, fault) => sum + Math.max(1, namesOf(fault).length), 0);

/** One fault for a choice among constants; else those of the forms that are nearest, what they need joined by "or". */
function ofChoice({ at, branches }: Choice, value: unknown): { pointer: string; message: string }[] {
  const all = [...branches.values()];
  const constants = all.flat().filter((fault) => fault.keyword === "const" && fault.instancePath === at);
  if (constants.length === all.length && all.every((faults) => faults.length === 1))
    return [{ pointer: at, message: choiceText(constants, valueAt(value, at)) }];
  const least = Math.min(...all.map(weight));
  const nearest = all.filter((faults) => weight(faults) === least);
  const types = nearest.map(([fault, more]) => (more || fault?.keyword !== "type" ? null : typeOf(fault)));
  if (types.every((type) => type !== null) && nearest.every(([fault]) => fault?.instancePath === at))
    return [{ pointer: at, message: `must be ${[...new Set(types)].join(" or ")}, not ${shown(valueAt(value, at))}` }];
  const needs = nearest.map((faults) =>
    faults.find((fault) => fault.keyword === "required" && fault.instancePath === at),
  );
  const joined =
    nearest.length > 1 && needs.every((fault) => fault !== undefined)
      ? [{ pointer: at, message: `needs ${needs.map((fault) => namesOf(fault).join(" and ")).join(", or ")}` }]
      : [];
  const rest = nearest.flat().filter((fault) => joined.length === 0 || !needs.includes(fault));
  return [...joined, ...flat(rest, value)];
}

function choiceText(constants: readonly Fault[], value: unknown): string {
  const allowed = constants.map((fault) => String((fault.params as Record<string, unknown>)["allowedValue"]));
  return `is ${shown(value)}; it must be ${allowed.length > 1 ? "one of " : ""}${allowed.join(", ")}`;
}

/** Faults outside of choices, each once. Constants of one place are one fault. */
function flat(errors: readonly Fault[], value: unknown): { pointer: string; message: string }[] {
  const found = new Map<string, { pointer: string; message: string }>();
  const constants = new Map<string, Fault[]>();
  for (const error of errors) {
    const pointer = error.instancePath;
    if (error.keyword === "const") constants.set(pointer, [...(constants.get(pointer) ?? []), error]);
    else {
      const message = said(error, value);
      found.set(`${pointer} ${message}`, { pointer, message });
    }
  }
  const chosen = [...constants].map(([pointer, list]) => ({
    pointer,
    message: choiceText(list, valueAt(value, pointer)),
  }));
  return [...chosen, ...found.values()];
}

/** Faults of a value against a schema; `root` is put before each pointer. */
export function faults(validator: Validator, value: unknown, root: string): FieldError[] {
  if (validator.Check(value)) return [];
  const errors = validator.Errors(value).filter((error) => error.keyword !== "boolean" && error.keyword !== "anyOf");
  const outside = errors.filter((error) => !BRANCH.test(error.schemaPath));
  const found = [
    ...flat(outside, value),
    ...[...choicesOf(errors).values()].flatMap((choice) => ofChoice(choice, value)),
  ];
  if (found.length === 0) found.push({ pointer: "", message: "has none of the forms that it may have" });
  return found.slice(0, FAULTS_MAX).map(({ pointer, message }) => ({ pointer: root + pointer, message }));
}
