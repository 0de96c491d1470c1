// JSON Schema 2020-12 checks of foreign values against foreign schemas (tool arguments and outputs, structured output).
// The interpreter is used, never generated code: a schema is data from an untrusted server.
import { Check, Errors } from "typebox/schema";
import type { FieldError } from "../contract/errors.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";

const ERRORS_SHOWN = 5;

/** Faults of a value, empty when it fits. A schema that cannot be evaluated is a fault of its own: nothing passes. */
export function schemaFaults(schema: JsonObject, value: unknown): FieldError[] {
  try {
    if (Check(schema, value)) return [];
    const [, errors] = Errors(schema, value);
    const faults = errors.filter((e) => e.keyword !== "boolean").slice(0, ERRORS_SHOWN);
    if (faults.length === 0) return [{ pointer: "", message: "does not fit its schema" }];
    return faults.map((e) => ({ pointer: e.instancePath, message: describe(e.message, e.params) }));
  } catch (error) {
    return [
      { pointer: "", message: `its schema cannot be evaluated: ${error instanceof Error ? error.message : "?"}` },
    ];
  }
}

function describe(message: string, params: unknown): string {
  if (!isObject(params)) return message;
  const extra = params["additionalProperties"] ?? params["requiredProperties"];
  return Array.isArray(extra) ? `${message}: ${extra.join(", ")}` : message;
}

/** Faults in one line, for an error result that a model or a person reads. */
export function faultText(faults: readonly FieldError[]): string {
  return faults.map((fault) => `${fault.pointer || "/"} ${fault.message}`).join("; ");
}

/** Whether remote references are absent: nothing is ever fetched to evaluate a schema. */
export function hasRemoteReference(schema: Json): boolean {
  if (Array.isArray(schema)) return schema.some(hasRemoteReference);
  if (!isObject(schema)) return false;
  return Object.entries(schema).some(
    ([key, value]) =>
      (key === "$ref" && typeof value === "string" && /^[a-z][a-z0-9+.-]*:/i.test(value)) || hasRemoteReference(value),
  );
}
